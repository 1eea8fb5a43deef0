"""The records of the Container Network Model: plain frozen values, as they stand in the store.

    network 1 ---- n endpoint n ---- 1 sandbox

An endpoint's record is also the lease of its addresses and of its host ports.  ``to_body`` and ``from_body`` are the only
places that know the JSON form; a body from an older pynet lacks keys, and the defaults here fill them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Record:
    def to_body(self) -> Body:
        return dataclasses.asdict(self)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in body.items() if key in known})


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
    internal: bool = False
    ipv4: bool = True
    ipv6: bool = False
    attachable: bool = False
    ipam: tuple[IpamConfig, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    last: tuple[str, ...] = ()
    """The addresses that were chosen last, IPv4 and IPv6: the choice goes on after them, in the next process too."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> NetworkRecord:
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
    container_port: int
    proxy_protocol: int = 0
    """Version of the header that the container gets first; then everybody comes by the proxy, and nobody by NAT."""


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
    ports: tuple[PublishedPort, ...] = ()
    static: tuple[str, ...] = ()
    """Addresses that the user asked for by value."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> EndpointRecord:
        return super(EndpointRecord, cls).from_body(
            {
                **body,
                "aliases": tuple(body.get("aliases", ())),
                "static": tuple(body.get("static", ())),
                "ports": tuple(PublishedPort.from_body(port) for port in body.get("ports", ())),
            }
        )

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]

    @property
    def ip6(self) -> str:
        return self.address6.partition("/")[0]


@dataclass(frozen=True, slots=True)
class SandboxRecord(_Record):
    id: str
    path: str
    """Where the namespace is pinned; "" is the host's own."""
    gateway: str = ""
    """Id of the endpoint that the IPv4 default route goes through."""
    gateway6: str = ""
