"""What must exist: the values that drivers yield and the applier makes and unmakes.

A resource is frozen, says everything that is needed to make it again, and has an identity (``key``) that does not depend
on its other fields, so that a plan can be compared with the kernel and with another plan.  Removing a resource that is
not there, and making one that is there already and like it, succeed.  ``title`` names it in errors, ``str()`` is its
line when a plan is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from .firewall.intents import NetworkRules, PortRule

Key = tuple[str, ...]


def joined(address: str, port: int) -> str:
    """ "10.1.0.2:80", "[fd00::2]:80" (RFC 3986 3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class _Shown:
    __slots__ = ()

    @property
    def title(self) -> str:
        raise NotImplementedError

    @property
    def details(self) -> str:
        return ""

    def __str__(self) -> str:
        return f"{self.title}: {self.details}" if self.details else self.title


@dataclass(frozen=True, slots=True)
class Sysctl(_Shown):
    """A kernel parameter in the host's namespace or a sandbox's.  It is set and stays: links take theirs with them, and
    parameters of the whole host (ip_forward) may be needed by others by the time we leave."""

    path: tuple[str, ...]
    """Components below /proc/sys, e.g. ("net", "ipv4", "ip_forward")."""
    value: str
    netns: str = ""
    optional: bool = False
    """Nothing is to be done in a kernel that has no such parameter (IPv6 may be off altogether)."""

    @property
    def key(self) -> Key:
        return ("sysctl", self.netns, *self.path)

    @property
    def title(self) -> str:
        return f"sysctl {'.'.join(self.path)}" + (f" in {self.netns}" if self.netns else "")

    @property
    def details(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Netns(_Shown):
    """A pinned network namespace with its loopback up and IPv6 off on interfaces to come (drivers turn it on)."""

    path: str

    @property
    def key(self) -> Key:
        return ("netns", self.path)

    @property
    def title(self) -> str:
        return f"network namespace {self.path}"


@dataclass(frozen=True, slots=True)
class Bridge(_Shown):
    name: str
    mtu: int
    mac: str
    """Fixed, so that it does not change when the first port comes and goes."""
    addresses: tuple[str, ...]
    """CIDRs."""

    @property
    def key(self) -> Key:
        return ("link", self.name)

    @property
    def title(self) -> str:
        return f"bridge {self.name}"

    @property
    def details(self) -> str:
        return ", ".join([*self.addresses, self.mac, f"MTU {self.mtu}"])


@dataclass(frozen=True, slots=True)
class Veth(_Shown):
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

    @property
    def title(self) -> str:
        return f"interface {self.ifname} in {self.netns}"

    @property
    def details(self) -> str:
        hops = [f"default route through {gateway}" for gateway in self.gateways]
        return ", ".join([*self.addresses, self.mac, f"MTU {self.mtu}", f"{self.host} on {self.bridge}", *hops])


@dataclass(frozen=True, slots=True)
class DefaultRoute(_Shown):
    """The default route of a sandbox, when it moves from one endpoint to another."""

    netns: str
    ifname: str
    gateway: str

    @property
    def key(self) -> Key:
        return ("route", self.netns, "default", "6" if ":" in self.gateway else "4")

    @property
    def title(self) -> str:
        return f"default route in {self.netns}"

    @property
    def details(self) -> str:
        return f"{self.gateway} on {self.ifname}"


@dataclass(frozen=True, slots=True)
class NetworkFirewall(_Shown):
    rules: NetworkRules

    @property
    def key(self) -> Key:
        return ("firewall-network", self.rules.bridge)

    @property
    def title(self) -> str:
        return f"firewall rules of {self.rules.bridge}"

    @property
    def details(self) -> str:
        rules = self.rules
        said = {
            "internal": rules.internal,
            "masquerade" + "".join(f" as {source}" for source in rules.source): rules.masquerade,
            "containers apart": not rules.icc,
        }
        return ", ".join([*rules.subnets, *(text for text, holds in said.items() if holds)])


@dataclass(frozen=True, slots=True)
class PortForwards(_Shown):
    """Published ports that NAT carries; all of an endpoint in one transaction."""

    owner: str
    rules: tuple[PortRule, ...]

    @property
    def key(self) -> Key:
        return ("firewall-ports", self.owner)

    @property
    def title(self) -> str:
        return f"NAT of the published ports of endpoint {self.owner[:12]}"

    @property
    def details(self) -> str:
        return ", ".join(
            f"{joined(r.host_ip, r.host_port)}/{r.proto} -> {joined(r.target_ip, r.target_port)}" for r in self.rules
        )


@dataclass(frozen=True, slots=True)
class ProxyPort:
    """A listening socket that the forwarder serves."""

    id: str
    """"tcp/0.0.0.0/8080": the listening socket is kept under this name."""
    proto: str
    target_ip: str
    target_port: int
    proxy_protocol: int = 0


@dataclass(frozen=True, slots=True)
class ProxyPorts(_Shown):
    """Published ports that the userland proxy carries; all of an endpoint in one message."""

    owner: str
    ports: tuple[ProxyPort, ...]

    @property
    def key(self) -> Key:
        return ("proxy-ports", self.owner)

    @property
    def title(self) -> str:
        return f"proxy of the published ports of endpoint {self.owner[:12]}"

    @property
    def details(self) -> str:
        return ", ".join(f"{port.id} -> {joined(port.target_ip, port.target_port)}" for port in self.ports)


Resource = Sysctl | Netns | Bridge | Veth | DefaultRoute | NetworkFirewall | PortForwards | ProxyPorts
