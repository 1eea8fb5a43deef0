"""rtnetlink's messages of addresses, routes and rules as values: requests are built, answers are read.  No I/O.

Layouts: linux/rtnetlink.h, if_addr.h, fib_rules.h; rtnetlink(7).  Addresses are text on this side ("10.0.0.2", "fd00::2") and
bytes on the wire; a prefix length is an int.  Links: rtnl_links.py.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from ..errors import InvalidArgument
from .netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Message, attribute, attributes, number
from .netlink import u32 as _u32

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_GETRULE = 34
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTO = 1, 2, 8, 11
IFA_F_NODAD = 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
RT_TABLE_MAIN, RTPROT_KERNEL, RTPROT_STATIC = 254, 2, 4
RTN_UNICAST, RTN_LOCAL, RTNH_F_ONLINK, RTM_F_CLONED = 1, 2, 4, 0x200
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255

_IFADDR = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags


@dataclass(frozen=True, slots=True)
class AddressInfo:
    index: int
    address: str
    prefix: int
    scope: int
    flags: int
    origin: int = 0
    """Who added it (IFA_PROTO, rtnetlink(7), since Linux 5.18); 0 is not known."""


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A route, wanted or found.  ``destination`` is "default" or a prefix; ``device`` an index; "" and 0 mean unset.

    ``version`` (4 or 6) matters only for a default route without gateway and source.  A route without a gateway gets
    scope link, as ip-route(8) does it.  ``table``, ``kind`` and ``protocol`` are those of ip-route(8), by number.
    """

    destination: str = "default"
    gateway: str = ""
    device: int = 0
    metric: int = 0
    source: str = ""
    onlink: bool = False
    table: int = RT_TABLE_MAIN
    kind: int = RTN_UNICAST
    protocol: int = RTPROT_STATIC
    version: int = 0

    @property
    def family(self) -> int:
        if self.version:
            return socket.AF_INET6 if self.version == 6 else socket.AF_INET
        known = self.gateway + self.source + (self.destination if self.destination != "default" else "")
        return socket.AF_INET6 if ":" in known else socket.AF_INET


def pack_address(address: str) -> tuple[int, bytes]:
    """(family, bytes) of an address in text."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return family, socket.inet_pton(family, address)
    except OSError:
        raise InvalidArgument(f"invalid address {address!r}") from None


def _unpack_address(data: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(data) == 16 else socket.AF_INET, data) if data else ""


# -- addresses ------------------------------------------------------------------------------------------------------


def new_address(index: int, address: str, prefix: int, *, origin: int = 0) -> Message:
    """IPv6 without duplicate address detection: IPAM gave the address away once, and DAD would hold it for a second."""
    family, raw = pack_address(address)
    _check_prefix(family, address, prefix)
    body = _IFADDR.pack(family, prefix, IFA_F_NODAD if family == socket.AF_INET6 else 0, 0, index)
    body += attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    if origin:
        body += attribute(IFA_PROTO, bytes([origin]))
    return Message(f"add address {address}/{prefix}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def del_address(index: int, address: str, prefix: int) -> Message:
    family, raw = pack_address(address)
    _check_prefix(family, address, prefix)
    body = _IFADDR.pack(family, prefix, 0, 0, index) + attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    return Message(f"delete address {address}/{prefix}", RTM_DELADDR, 0, body)


def get_addresses(family: int = 0) -> Message:
    return Message("list addresses", RTM_GETADDR, 0, _IFADDR.pack(family, 0, 0, 0, 0))


def _check_prefix(family: int, address: str, prefix: int) -> None:
    if not 0 <= prefix <= (128 if family == socket.AF_INET6 else 32):
        raise InvalidArgument(f"invalid prefix length {prefix} for {address}")


def read_address(body: bytes) -> AddressInfo:
    _family, prefix, flags, scope, index = _IFADDR.unpack_from(body)
    found = attributes(body, _IFADDR.size)
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
    origin = found.get(IFA_PROTO, b"\0")[0]
    return AddressInfo(index, _unpack_address(raw), prefix, scope, number(found.get(IFA_FLAGS)) or flags, origin)


# -- routes ---------------------------------------------------------------------------------------------------------


def new_route(route: RouteInfo, *, replace: bool = False) -> Message:
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Message(f"add route {_shown(route)}", RTM_NEWROUTE, flags, _route_body(route))


def del_route(route: RouteInfo) -> Message:
    return Message(f"delete route {_shown(route)}", RTM_DELROUTE, 0, _route_body(route, deleting=True))


def get_routes(family: int) -> Message:
    return Message("list routes", RTM_GETROUTE, 0, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def get_route(address: str) -> Message:
    """Which way packets to *address* would go: one route, or an error."""
    family, raw = pack_address(address)
    body = _RTMSG.pack(family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, raw)
    return Message(f"look up the route to {address}", RTM_GETROUTE, 0, body)


def get_rules(family: int) -> Message:
    return Message("list rules", RTM_GETRULE, 0, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def _shown(route: RouteInfo) -> str:
    return route.destination + (f" via {route.gateway}" if route.gateway else "")


def _route_body(route: RouteInfo, *, deleting: bool = False) -> bytes:
    family = route.family
    options, length = b"", 0
    if route.destination != "default":
        address, slash, prefix = route.destination.partition("/")
        found, raw = pack_address(address)
        if found != family:
            raise InvalidArgument(f"route {_shown(route)} mixes IPv4 and IPv6")
        if slash and not prefix.isdecimal():
            raise InvalidArgument(f"invalid route destination {route.destination!r}")
        length = int(prefix) if slash else len(raw) * 8
        _check_prefix(family, address, length)
        options += attribute(RTA_DST, raw)
    for kind, value in ((RTA_GATEWAY, route.gateway), (RTA_PREFSRC, route.source)):
        if value:
            found, raw = pack_address(value)
            if found != family:
                raise InvalidArgument(f"route {_shown(route)} mixes IPv4 and IPv6")
            options += attribute(kind, raw)
    if route.device:
        options += _u32(RTA_OIF, route.device)
    if route.metric:
        options += _u32(RTA_PRIORITY, route.metric)
    if route.table > 255:
        options += _u32(RTA_TABLE, route.table)
    if deleting:
        scope, protocol = RT_SCOPE_NOWHERE, 0  # "any", as ip route del asks
    else:
        scope, protocol = RT_SCOPE_UNIVERSE if route.gateway else RT_SCOPE_LINK, route.protocol
    table = route.table if route.table <= 255 else 0
    flags = RTNH_F_ONLINK if route.onlink else 0
    return _RTMSG.pack(family, length, 0, 0, table, protocol, scope, route.kind, flags) + options


def read_route(body: bytes) -> RouteInfo | None:
    """None for a cached exception, which is no route of anybody's making."""
    family, length, _src, _tos, table, protocol, _scope, kind, flags = _RTMSG.unpack_from(body)
    if flags & RTM_F_CLONED:
        return None
    found = attributes(body, _RTMSG.size)
    destination = found.get(RTA_DST, b"")
    return RouteInfo(
        destination=f"{_unpack_address(destination)}/{length}" if destination else "default",
        gateway=_unpack_address(found.get(RTA_GATEWAY, b"")),
        device=number(found.get(RTA_OIF)),
        metric=number(found.get(RTA_PRIORITY)),
        source=_unpack_address(found.get(RTA_PREFSRC, b"")),
        onlink=bool(flags & RTNH_F_ONLINK),
        table=number(found.get(RTA_TABLE)) or table,
        kind=kind,
        protocol=protocol,
        version=6 if family == socket.AF_INET6 else 4,
    )


def read_way(body: bytes) -> tuple[str, int]:
    """The address that was asked for with get_route, and the kind of its route (RTN_LOCAL: the host's own)."""
    kind = _RTMSG.unpack_from(body)[7]
    return _unpack_address(attributes(body, _RTMSG.size).get(RTA_DST, b"")), kind


def read_rule(body: bytes) -> str:
    """A routing rule as text that is equal for equal rules."""
    family, dst, src, tos, table, _r1, _r2, action, flags = _RTMSG.unpack_from(body)
    rest = " ".join(f"{kind}={data.hex()}" for kind, data in sorted(attributes(body, _RTMSG.size).items()))
    return f"family={family} dst={dst} src={src} tos={tos} table={table} action={action} flags={flags} {rest}"
