"""What a sandbox resolves, from its records: a view, and the names that others have for it.  Pure.

Room  -->  View    its networks in order of preference, its user's hosts and its own names, whom else to ask
      `->  Names   one for each endpoint that has an interface
"""

from __future__ import annotations

from collections.abc import Sequence

from .model import Member, Naming, Room
from .naming import Names, View


def view_of(room: Room, naming: Naming) -> View:
    """Where several networks know a name, that of the default route answers first, then as the gateways' order has it."""
    members = sorted(_named(room), key=lambda member: _preference(room, member))
    own = tuple(address for member in members for address in _addresses(member))
    hosts: dict[str, list[str]] = {}
    for name, address in naming.hosts:
        hosts.setdefault(name, []).append(address)
    for name in naming.own if own else ():
        hosts.setdefault(name, list(own))
    return View(
        room.sandbox.id,
        networks=tuple(member.network.id for member in members),
        hosts=tuple((name, tuple(dict.fromkeys(addresses))) for name, addresses in hosts.items()),
        upstreams=naming.servers,
        search=naming.search,
        ndots=naming.ndots,
        # who is on internal networks alone, or on none, must have no way out by questions (CVE-2024-29018)
        outside=any(not member.network.internal for member in members),
    )


def names_of(room: Room) -> tuple[Names, ...]:
    return tuple(
        Names(member.endpoint.id, member.network.id, member.network.name, member.endpoint.names, _addresses(member))
        for member in _named(room)
    )


def _named(room: Room) -> Sequence[Member]:
    return [member for member in room.members if member.endpoint.ifname]


def _addresses(member: Member) -> tuple[str, ...]:
    return tuple(address for address in (member.endpoint.ip, member.endpoint.ip6) if address)


def _preference(room: Room, member: Member) -> tuple[bool, bool, int, bool, str]:
    endpoint, network, sandbox = member.endpoint, member.network, room.sandbox
    return (
        sandbox.gateway != endpoint.id,
        sandbox.gateway6 != endpoint.id,
        -endpoint.gw_priority,
        network.internal,
        network.name,
    )
