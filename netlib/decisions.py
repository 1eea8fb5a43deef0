"""Decisions about sandboxes and what is joined to them: records and a request in, new records or the error out.  Pure.

A ``Room`` is a sandbox with its endpoints and their networks.  Each decision takes one and gives the one that should be; what has
to change in the kernel is the difference of their plans (plans.py), so nothing here knows of interfaces, routes or rules.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address

from .driver import Joined
from .errors import Conflict, Forbidden, InvalidArgument
from .gateway import Candidate, choose, free_ifname
from .ifname import check_ifname
from .model import EndpointRecord, Member, Naming, NetworkRecord, PublishedPort, Room, SandboxRecord

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


class ActiveEndpoints(Forbidden):
    """The network still has endpoints (Docker's wording)."""

    hint = "stop or disconnect the containers on it first"

    def __init__(self, network: NetworkRecord, endpoints: Sequence[EndpointRecord]) -> None:
        listed = ", ".join(f'name:"{endpoint.name}" id:"{endpoint.id[:12]}"' for endpoint in endpoints[:5])
        super().__init__(f"error while removing network: network {network.name} has active endpoints ({listed})")
        self.network, self.endpoints = network, tuple(endpoints)


# -- networks and sandboxes --------------------------------------------------------------------------------------------


def check_network(record: NetworkRecord) -> None:
    """Name and families of a network to create; its driver judges the rest."""
    if not record.name.strip():
        raise InvalidArgument("invalid network name: name is empty")
    if not _NAME.fullmatch(record.name):
        raise InvalidArgument(f"invalid network name {record.name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    if not record.ipv4 and not record.ipv6:
        raise InvalidArgument("IPv4 or IPv6 must be enabled")


def decide_sandbox(id: str, path: str, naming: Naming | None = None) -> SandboxRecord:
    if not _NAME.fullmatch(id) or len(id) > 64:
        raise InvalidArgument(f"invalid sandbox id {id!r}: up to 64 of [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return SandboxRecord(id=id, path=path, naming=decide_naming(naming) if naming is not None else None)


def decide_naming(naming: Naming) -> Naming:
    """InvalidArgument where an address is none, or a name has nothing in it."""
    for address in (*naming.servers, *(address for _, address in naming.hosts)):
        try:
            ip_address(address)
        except ValueError:
            raise InvalidArgument(
                f"{address!r} is not an IP address", hint="name servers and hosts are given by address"
            ) from None
    for name in (*naming.own, *naming.search, *(name for name, _ in naming.hosts)):
        if not name.strip("."):
            raise InvalidArgument("the name of a host is empty")
    if naming.ndots is not None and naming.ndots < 0:
        raise InvalidArgument(f"ndots can not be {naming.ndots}: it is 0 or more")
    return naming


# -- endpoints ---------------------------------------------------------------------------------------------------------


def decide_mac(asked: str, address: str) -> str:
    """What was asked for; else 02:42 and the IPv4 address, so that an address that is used again keeps its place in the
    neighbours' ARP tables; else random and locally administered (IEEE 802: bit 1 of the first byte)."""
    if asked:
        digits = asked.replace("-", ":").lower().split(":")
        if len(digits) != 6 or any(len(d) != 2 or not set(d) <= set("0123456789abcdef") for d in digits):
            raise InvalidArgument(f"invalid MAC address: {asked}")
        if int(digits[0], 16) & 1:
            raise InvalidArgument(f"invalid MAC address: {asked} is a multicast address")
        if not any(int(d, 16) for d in digits):
            raise InvalidArgument(f"invalid MAC address: {asked} is none (the kernel takes it for no address)")
        return ":".join(digits)
    if address:
        raw = b"\x02\x42" + ip_address(address.partition("/")[0]).packed
    else:
        raw = b"\x02" + secrets.token_bytes(5)
    return raw.hex(":")


def stable_mac(network: str, name: str) -> str:
    """The same each time an endpoint of this name is made on the network (by its id), so that a DHCP server knows it again."""
    return (b"\x02" + hashlib.sha256(f"{network}/{name}".encode()).digest()[:5]).hex(":")


def check_join(room: Room, member: Member) -> None:
    """Forbidden when the endpoint can not be joined to the sandbox."""
    if member.endpoint.sandbox:
        raise Forbidden("another container is attached to the same network endpoint")
    if any(peer.network.id == member.network.id for peer in room.members):
        raise Forbidden(f"container {room.sandbox.id} is already connected to network {member.network.name}")


def decide_join(room: Room, member: Member, joined: Joined, ifname: str = "") -> Room:
    """The room with the endpoint in it, as its driver answered; the default routes may go through it now."""
    check_join(room, member)
    if joined.prefix:
        _check_name(room, ifname)
        ifname = ifname or free_ifname((peer.endpoint.ifname for peer in room.members), joined.prefix)
    endpoint = replace(
        member.endpoint,
        sandbox=room.sandbox.id,
        ifname=ifname if joined.prefix else "",
        gateway=joined.gateway,
        gateway6=joined.gateway6,
        routes=tuple(joined.routes),
        facts=dict(joined.facts),
    )
    members = (*room.members, replace(member, endpoint=endpoint))
    return _with_gateways(Room(room.sandbox, tuple(sorted(members, key=lambda m: m.endpoint.name))))


def _check_name(room: Room, ifname: str) -> None:
    """A name that was asked for is one, and nobody's in the sandbox."""
    if not ifname:
        return
    check_ifname(ifname)
    if ifname == "lo":
        raise InvalidArgument("an endpoint's interface can not be called lo", hint="that is the loopback's name")
    for peer in room.members:
        if peer.endpoint.ifname == ifname:
            raise Conflict(
                f"interface {ifname} of the container is on network {peer.network.name} already",
                hint="choose another name, or none: the lowest free one is taken",
            )


def decide_leave(room: Room, endpoint_id: str) -> Room:
    """The room without the endpoint; default routes and ports go to those that stay."""
    return _with_gateways(Room(room.sandbox, tuple(m for m in room.members if m.endpoint.id != endpoint_id)))


def decide_leased(room: Room, endpoint: EndpointRecord) -> Room:
    """The room with this endpoint as its lease has it now; default routes follow."""
    members = tuple(replace(m, endpoint=endpoint) if m.endpoint.id == endpoint.id else m for m in room.members)
    return _with_gateways(Room(room.sandbox, members))


def _with_gateways(room: Room) -> Room:
    gateway, gateway6 = choose(
        Candidate(m.endpoint.id, m.network.name, m.endpoint.gw_priority, m.endpoint.gateway, m.endpoint.gateway6)
        for m in room.members
    )
    return replace(room, sandbox=replace(room.sandbox, gateway=gateway, gateway6=gateway6))


def decide_link_local(addresses: Sequence[str]) -> tuple[str, ...]:
    """Link-local addresses as CIDRs, with the prefix lengths of RFC 3927 and RFC 4291."""
    found: list[str] = []
    for text in addresses:
        try:
            address = ip_address(text)
        except ValueError:
            address = None
        if address is None or not address.is_link_local or "%" in text:
            raise InvalidArgument(
                f"invalid link-local IP address: {text}", hint="it is of 169.254.0.0/16 or of fe80::/64"
            )
        found.append(f"{address}/{16 if address.version == 4 else 64}")
    return tuple(dict.fromkeys(found))


_PARAMETER = re.compile(r"net\.(ipv4|ipv6|mpls)\.(conf|neigh)\.(IFNAME|ifname)\.[a-z0-9_]+")


def decide_sysctls(settings: Mapping[str, str]) -> dict[str, str]:
    """Kernel parameters of one interface, checked (moby, daemon/network.go): none reaches beyond it."""
    for name, value in settings.items():
        if not _PARAMETER.fullmatch(name) or not value or not value.isprintable():
            raise InvalidArgument(
                f"unrecognised network interface sysctl '{name}={value}'; represent 'net.X.Y.ethN.Z=V' as "
                "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'",
                hint="for example net.ipv4.conf.IFNAME.log_martians=1",
            )
    return dict(settings)


# -- ports -------------------------------------------------------------------------------------------------------------


def decide_publish(room: Room, ports: Sequence[PublishedPort]) -> Room:
    """The room with these ports, whose leases are taken, in addition to those it has."""
    return replace(room, sandbox=replace(room.sandbox, ports=(*room.sandbox.ports, *ports)))


def decide_unpublish(room: Room, ports: Sequence[PublishedPort] | None) -> tuple[Room, tuple[PublishedPort, ...]]:
    """The room without these ports (None: without any), and those that are withdrawn; unknown ones are passed over."""
    has = room.sandbox.ports
    named = set(has if ports is None else ports)  # a range may be ten thousand ports
    gone = tuple(port for port in has if port in named)
    return replace(room, sandbox=replace(room.sandbox, ports=tuple(p for p in has if p not in named))), gone
