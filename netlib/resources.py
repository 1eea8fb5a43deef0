"""What must exist: the values that drivers yield and the applier makes and unmakes.

A resource is frozen, says everything that is needed to make it again, and has an identity (``key``) that does not depend
on its other fields, so that a plan can be compared with the kernel and with another plan.  Removing a resource that is
not there, and making one that is there already and like it, succeed.
"""

from __future__ import annotations

from dataclasses import dataclass

from .firewall import NetworkRules, PortRule

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel parameter in the host's namespace or a sandbox's.  It is set and stays: links take theirs with them, and
    parameters of the whole host (ip_forward) may be needed by others by the time we leave."""

    path: tuple[str, ...]
    """Components below /proc/sys, e.g. ("net", "ipv4", "ip_forward")."""
    value: str
    netns: str = ""

    @property
    def key(self) -> Key:
        return ("sysctl", self.netns, *self.path)


@dataclass(frozen=True, slots=True)
class Netns:
    """A pinned network namespace with its loopback up and IPv6 off on interfaces to come (drivers turn it on)."""

    path: str

    @property
    def key(self) -> Key:
        return ("netns", self.path)


@dataclass(frozen=True, slots=True)
class Bridge:
    name: str
    mtu: int
    mac: str
    """Fixed, so that it does not change when the first port comes and goes."""
    addresses: tuple[str, ...]
    """CIDRs."""

    @property
    def key(self) -> Key:
        return ("link", self.name)


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair: one end a port of *bridge*, the other born in the sandbox with its addresses and routes.

    The peer is configured before anything can talk to it, and the pair is up (operstate) when the resource is made: the
    first packet is not lost.
    """

    host: str
    ifname: str
    netns: str
    mac: str
    mtu: int
    bridge: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    """Next hops of the default routes, at most one a family."""
    hairpin: bool = False
    isolated: bool = False
    """Nothing passes from port to port (icc=false): by the bridge's own isolation where the firewall does not see it."""

    @property
    def key(self) -> Key:
        return ("link", self.host)


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """The default route of a sandbox, when it moves from one endpoint to another."""

    netns: str
    ifname: str
    gateway: str

    @property
    def key(self) -> Key:
        return ("route", self.netns, "default", "6" if ":" in self.gateway else "4")


@dataclass(frozen=True, slots=True)
class NetworkFirewall:
    rules: NetworkRules

    @property
    def key(self) -> Key:
        return ("firewall-network", self.rules.bridge)


@dataclass(frozen=True, slots=True)
class PortForwards:
    """Published ports that NAT carries; all of an endpoint in one transaction."""

    owner: str
    rules: tuple[PortRule, ...]

    @property
    def key(self) -> Key:
        return ("firewall-ports", self.owner)


@dataclass(frozen=True, slots=True)
class ProxyPort:
    """A listening socket that the forwarder serves."""

    id: str
    """"tcp/0.0.0.0/8080": the listening socket is kept under this name."""
    proto: str
    target_ip: str
    target_port: int


@dataclass(frozen=True, slots=True)
class ProxyPorts:
    """Published ports that the userland proxy carries; all of an endpoint in one message."""

    owner: str
    ports: tuple[ProxyPort, ...]

    @property
    def key(self) -> Key:
        return ("proxy-ports", self.owner)


Resource = Sysctl | Netns | Bridge | Veth | DefaultRoute | NetworkFirewall | PortForwards | ProxyPorts
