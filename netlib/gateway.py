"""Which endpoint of a sandbox carries the default route, and to whom: a pure choice, for each address family by itself.

Order (libnetwork's): the higher gateway priority; a network that offers both families before one that offers one; the
lexically first network name.  Endpoints that offer no next hop of the family (internal networks) do not take part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from .model import IpamConfig


@dataclass(frozen=True, slots=True)
class Candidate:
    endpoint: str
    network_name: str
    priority: int
    gateway: str
    gateway6: str


def choose(candidates: Iterable[Candidate]) -> tuple[str, str]:
    """Ids of the endpoints for the IPv4 and the IPv6 default route; "" where nobody offers one."""
    ordered = sorted(
        candidates, key=lambda c: (-c.priority, not (c.gateway and c.gateway6), c.network_name, c.endpoint)
    )
    return (
        next((c.endpoint for c in ordered if c.gateway), ""),
        next((c.endpoint for c in ordered if c.gateway6), ""),
    )


def free_ifname(taken: Iterable[str], prefix: str = "eth") -> str:
    """The lowest free name of the form <prefix>N."""
    used = set(taken)
    number = 0
    while f"{prefix}{number}" in used:
        number += 1
    return f"{prefix}{number}"


def subnet_of(subnets: Iterable[IpamConfig], address: str) -> IpamConfig | None:
    """The one of a network's subnets that an address ("10.1.0.2", or with its prefix length) is of."""
    if not address:
        return None
    value = ip_address(address.partition("/")[0])
    return next((config for config in subnets if value in ip_network(config.subnet)), None)
