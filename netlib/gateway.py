"""Which endpoint of a sandbox carries the default route: a pure choice, for each address family by itself.

Order (libnetwork's): the higher gateway priority; a network that offers both families before one that offers one; the
lexically first network name.  Endpoints that offer no next hop of the family (internal networks) do not take part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
