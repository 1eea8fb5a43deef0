"""The records of the Container Network Model: plain frozen values, as they stand in the store.

    network 1 ---- n endpoint n ---- 1 sandbox

An endpoint's record is also the lease of its addresses, a sandbox's that of its host ports.  ``to_body`` and ``from_body`` are
the only places that know the JSON form; a body from an older pynet lacks keys, and the defaults here fill them.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

Body = dict[str, Any]


def new_id() -> str:
    """64 hex digits, as Docker's ids."""
    return secrets.token_hex(32)


@dataclass(frozen=True, slots=True)
class _Record:
    def to_body(self) -> Body:
        # not dataclasses.asdict: it copies in depth what is written out at once, and was a fifth of a join
        return {name: _plain(getattr(self, name)) for name in type(self).__dataclass_fields__}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in body.items() if key in known})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.to_body() if isinstance(value, _Record) else value


@dataclass(frozen=True, slots=True)
class IpamConfig(_Record):
    """One subnet of a network.  In a request, empty text means "choose for me"; in a record all is chosen."""

    subnet: str = ""
    """CIDR, e.g. "10.1.0.0/24"."""
    ip_range: str = ""
    """CIDR inside the subnet from which addresses are chosen; "" is the whole subnet."""
    gateway: str = ""
    aux: dict[str, str] = field(default_factory=dict)
    """Name to address: reserved, never given out."""

    @property
    def version(self) -> int:
        return 6 if ":" in self.subnet else 4

    @property
    def prefix(self) -> int:
        return int(self.subnet.partition("/")[2])


@dataclass(frozen=True, slots=True)
class NetworkRecord(_Record):
    id: str
    """64 hex digits."""
    name: str
    driver: str
    created: float
    """Unix time in seconds."""
    scope: str = "local"
    """"local" to this host, or "global": shared by the hosts of a store."""
    ipam_driver: str = "default"
    """Who gives its addresses; see pynet/ipam/driver.py."""
    ipam_options: dict[str, str] = field(default_factory=dict)
    internal: bool = False
    ipv4: bool = True
    ipv6: bool = False
    attachable: bool = False
    ipam: tuple[IpamConfig, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    last: tuple[str, ...] = ()
    """The addresses that were chosen last, IPv4 and IPv6: the choice goes on after them, in the next process too."""
    config_only: bool = False
    """Whether it only holds a configuration for others; its ``ipam`` is then the request as it was made (decisions.py)."""
    config_from: str = ""
    """Name of the network that its configuration was copied from."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> NetworkRecord:
        if body.get("driver") == "none":
            body = {**body, "driver": "null"}  # its name in older stores
        ipam = tuple(IpamConfig.from_body(config) for config in body.get("ipam", ()))
        last = tuple(body.get("last", ()))
        return super(NetworkRecord, cls).from_body({**body, "ipam": ipam, "last": last})

    def subnets(self, version: int) -> list[IpamConfig]:
        return [config for config in self.ipam if config.version == version]

    def option(self, name: str, short: str, default: str = "") -> str:
        """An option by Docker's *name* or ours (drivers/bridge.py has the table)."""
        return self.options.get(name) or self.options.get(short) or default

    @property
    def gateway(self) -> str:
        return next((config.gateway for config in self.subnets(4)), "")

    @property
    def gateway6(self) -> str:
        return next((config.gateway for config in self.subnets(6)), "")


@dataclass(frozen=True, slots=True)
class PublishedPort(_Record):
    """One host port that leads to one container port."""

    proto: str
    host_ip: str
    """Address that was bound, "0.0.0.0" and "::" for every address of a family."""
    host_port: int
    """0: none leads to it; the container's port is open at its own address (a routed network's)."""
    container_port: int
    proxy_protocol: int = 0
    """Version of the header that the container gets first; then everybody comes by the proxy, and nobody by NAT."""

    @property
    def id(self) -> str:
        """ "tcp/0.0.0.0/8080": its socket is known by this name, to us and to the proxy."""
        if not self.host_port:
            return f"{self.proto}/{self.host_ip}/open/{self.container_port}"
        return f"{self.proto}/{self.host_ip}/{self.host_port}"


@dataclass(frozen=True, slots=True)
class StaticRoute(_Record):
    """A route that a sandbox gets with an endpoint."""

    destination: str
    """CIDR."""
    gateway: str = ""
    """The next hop; "" for what the interface reaches itself."""


@dataclass(frozen=True, slots=True)
class Link(_Record):
    """Another endpoint of a network whose containers are apart, that one is linked with."""

    address: str = ""
    address6: str = ""
    ports: tuple[str, ...] = ()
    """The other's ports that are open to this endpoint, "80/tcp"; none at the end that is linked to."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Link:
        return super(Link, cls).from_body({**body, "ports": tuple(body.get("ports", ()))})


@dataclass(frozen=True, slots=True)
class EndpointRecord(_Record):
    id: str
    name: str
    network: str
    """Id of the network."""
    mac: str = ""
    address: str = ""
    """"10.1.0.2/24", or "" when the endpoint has none of this family."""
    address6: str = ""
    ifname: str = ""
    """Name of the interface in the sandbox, given at join; empty while not joined."""
    sandbox: str = ""
    """Id of the sandbox that it is joined to."""
    gw_priority: int = 0
    aliases: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    static: tuple[str, ...] = ()
    """Addresses that the user asked for by value."""
    gateway: str = ""
    """IPv4 next hop that it offers for the default route; this and what follows is what the driver answered to the join."""
    gateway6: str = ""
    routes: tuple[StaticRoute, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    """What the driver wants to find again when it makes its plans."""
    lease: dict[str, str] = field(default_factory=dict)
    """What the IPAM driver wants to find again when it gives the addresses back."""
    link_local: tuple[str, ...] = ()
    """CIDRs of link-local addresses (RFC 3927, RFC 4291) beside the others; leased from nobody."""
    sysctls: dict[str, str] = field(default_factory=dict)
    """Kernel parameters of its interface, "net.ipv4.conf.IFNAME.rp_filter" to a value; IFNAME stands for the name."""
    other_names: tuple[str, ...] = ()
    """What it is known by besides its name and aliases: a container's short id, its host name."""
    lapsed: str = ""
    """The IPv4 address, as CIDR, of a lease whose time is over: it is not the endpoint's until it is leased again."""
    links: tuple[Link, ...] = ()

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> EndpointRecord:
        return super(EndpointRecord, cls).from_body(
            {
                **body,
                "link_local": tuple(body.get("link_local", ())),
                "aliases": tuple(body.get("aliases", ())),
                "links": tuple(Link.from_body(link) for link in body.get("links", ())),
                "other_names": tuple(body.get("other_names", ())),
                "static": tuple(body.get("static", ())),
                "routes": tuple(StaticRoute.from_body(route) for route in body.get("routes", ())),
            }
        )

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]

    @property
    def ip6(self) -> str:
        return self.address6.partition("/")[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those that its interface has, as CIDR: its own, then link-local ones."""
        return (*(address for address in (self.address, self.address6) if address), *self.link_local)

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is known by on its network, its own name first."""
        return tuple(dict.fromkeys((self.name, *self.aliases, *self.other_names)))

    def left(self) -> EndpointRecord:
        """As it is when it is joined to nothing; its name and addresses stay."""
        return dataclasses.replace(self, sandbox="", ifname="", gateway="", gateway6="", routes=(), facts={}, links=())


@dataclass(frozen=True, slots=True)
class Naming(_Record):
    """How a sandbox resolves names, beside what is on its networks (docs/dns.md)."""

    own: tuple[str, ...] = ()
    """Its own names: they mean its own addresses, whichever it has."""
    hosts: tuple[tuple[str, str], ...] = ()
    """(name, address), before all networks; a name may have several."""
    servers: tuple[str, ...] = ()
    """Addresses of the servers that are asked, from inside, for what is on no network; () is the host's own."""
    search: tuple[str, ...] = ()
    ndots: int | None = None
    """Above 0, a name without a dot that is nobody's is NXDOMAIN, and nobody is asked."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Naming:
        hosts = tuple((str(name), str(address)) for name, address in body.get("hosts", ()))
        lists = {name: tuple(body.get(name, ())) for name in ("own", "servers", "search")}
        return super(Naming, cls).from_body({**body, **lists, "hosts": hosts})


@dataclass(frozen=True, slots=True)
class SandboxRecord(_Record):
    id: str
    path: str
    """Where the namespace is pinned; "" is the host's own."""
    gateway: str = ""
    """Id of the endpoint that the IPv4 default route goes through."""
    gateway6: str = ""
    ports: tuple[PublishedPort, ...] = ()
    """They lead to whichever endpoint has the default route, and stay when that changes."""
    naming: Naming | None = None
    """None: names are not served in there, as in every sandbox of an older pynet."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> SandboxRecord:
        ports = tuple(PublishedPort.from_body(port) for port in body.get("ports", ()))
        naming = Naming.from_body(body["naming"]) if body.get("naming") is not None else None
        return super(SandboxRecord, cls).from_body({**body, "ports": ports, "naming": naming})


Record = NetworkRecord | EndpointRecord | SandboxRecord


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint of a sandbox, with its network."""

    endpoint: EndpointRecord
    network: NetworkRecord


@dataclass(frozen=True, slots=True)
class Room:
    """A sandbox with all that is joined to it: what decisions about it need to know, and what its plan follows from."""

    sandbox: SandboxRecord
    members: tuple[Member, ...] = ()

    def member(self, endpoint_id: str) -> Member | None:
        return next((member for member in self.members if member.endpoint.id == endpoint_id), None)

    @property
    def records(self) -> tuple[Record, ...]:
        return (self.sandbox, *(member.endpoint for member in self.members))
