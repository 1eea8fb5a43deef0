"""conntrack: forgetting flows, over ctnetlink, in the calling thread's network namespace.

Why at all: NAT rules are looked up for the first packet of a flow only.  A UDP client that keeps its source port (a
resolver, a VPN) goes on being sent where the flow went before a port was published, moved or withdrawn, for as long
as it keeps talking.  TCP starts anew by itself.

    dump (filtered in the kernel where it can: since 5.8)  ->  filter again here  ->  delete by tuple, zone and id

The second filter is what counts: an older kernel ignores the filter it does not know and sends everything.  The id
makes sure that a flow which was made anew meanwhile, with the same tuple, is left alone.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .netlink import Message, NetlinkSocket, attribute, attributes, nested, u8, u32

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, _DELETE
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
# bits of the filter flags (include/linux/netfilter/nf_conntrack_common.h does not export them)
_BY_SOURCE, _BY_PROTO, _BY_DESTINATION_PORT = 1 << 0, 1 << 3, 1 << 5

_NFGENMSG = struct.Struct("!BBH")  # family, version, resource id


@dataclass(frozen=True, slots=True)
class Flow:
    """One tracked flow, in the direction it was opened, and who answers (``reply_source`` differs after DNAT)."""

    proto: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    reply_source: str
    reply_port: int


def flows() -> list[Flow]:
    """All flows of both families."""
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        return [flow for family in (socket.AF_INET, socket.AF_INET6) for flow, _ in dump(netlink, family)]


def flush_ports(proto: int, ports: Iterable[int], *, destination: str = "") -> int:
    """Forget flows of *proto* that were opened to one of *ports* (and to *destination*, if given); say how many."""
    wanted = frozenset(ports)
    if not wanted:
        return 0
    select = select_ports(proto, wanted)

    def matches(flow: Flow) -> bool:
        return flow.proto == proto and flow.destination_port in wanted and destination in ("", flow.destination)

    families = _family(destination) if destination else (socket.AF_INET, socket.AF_INET6)
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        return sum(_delete(netlink, family, select, matches) for family in families)


def flush_address(address: str) -> int:
    """Forget the flows that *address* (a container's) opened or answers; say how many."""
    (family,) = _family(address)
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        return sum(
            _delete(netlink, family, select, lambda flow: address in (flow.source, flow.reply_source))
            for select in (select_source(address), select_source(address, reply=True))
        )


def select_ports(proto: int, ports: frozenset[int]) -> bytes:
    """The kernel's filter for flows of *proto*, and to the port if it is one: it knows no sets."""
    parts, flags = u8(CTA_PROTO_NUM, proto), _BY_PROTO
    if len(ports) == 1:
        parts += attribute(CTA_PROTO_DST_PORT, struct.pack("!H", *ports))
        flags |= _BY_DESTINATION_PORT
    return nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, parts)) + _filter(orig=flags)


def select_source(address: str, *, reply: bool = False) -> bytes:
    """The kernel's filter for flows that *address* opened, or (*reply*) answers."""
    (family,) = _family(address)
    kind = CTA_IP_V6_SRC if family == socket.AF_INET6 else CTA_IP_V4_SRC
    source = nested(CTA_TUPLE_IP, attribute(kind, socket.inet_pton(family, address)))
    if reply:
        return nested(CTA_TUPLE_REPLY, source) + _filter(reply=_BY_SOURCE)
    return nested(CTA_TUPLE_ORIG, source) + _filter(orig=_BY_SOURCE)


def _family(address: str) -> tuple[int]:
    return (socket.AF_INET6 if ":" in address else socket.AF_INET,)


def _filter(*, orig: int = 0, reply: int = 0) -> bytes:
    return nested(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, orig), u32(CTA_FILTER_REPLY_FLAGS, reply))


def dump(netlink: NetlinkSocket, family: int, select: bytes = b"") -> list[tuple[Flow, dict[int, bytes]]]:
    """The flows of *family* that *select* lets through, with the attributes that they came in."""
    message = Message("list tracked flows", _GET, 0, _NFGENMSG.pack(family, 0, 0) + select)
    found: list[tuple[Flow, dict[int, bytes]]] = []
    for answer in netlink.dump(message):
        raw = attributes(answer.body, _NFGENMSG.size)
        proto, source, source_port, destination, port = _tuple(raw.get(CTA_TUPLE_ORIG, b""))
        _proto, reply_source, reply_port, _destination, _port = _tuple(raw.get(CTA_TUPLE_REPLY, b""))
        found.append((Flow(proto, source, source_port, destination, port, reply_source, reply_port), raw))
    return found


def _delete(netlink: NetlinkSocket, family: int, select: bytes, matches: Callable[[Flow], bool]) -> int:
    doomed = [raw for flow, raw in dump(netlink, family, select) if matches(flow)]
    batch = [
        Message(
            "forget a tracked flow",
            _DELETE,
            0,
            _NFGENMSG.pack(family, 0, 0)
            + nested(CTA_TUPLE_ORIG, raw[CTA_TUPLE_ORIG])
            + b"".join(attribute(kind, raw[kind]) for kind in (CTA_ZONE, CTA_ID) if kind in raw),
        )
        for raw in doomed
    ]
    netlink.transact(batch, ignore=(errno.ENOENT,))  # it ended by itself
    return len(batch)


def _tuple(data: bytes) -> tuple[int, str, int, str, int]:
    """(protocol, source, source port, destination, destination port) of a CTA_TUPLE."""
    parts = attributes(data)
    ip, proto = attributes(parts.get(CTA_TUPLE_IP, b"")), attributes(parts.get(CTA_TUPLE_PROTO, b""))
    source = ip.get(CTA_IP_V4_SRC) or ip.get(CTA_IP_V6_SRC) or b""
    destination = ip.get(CTA_IP_V4_DST) or ip.get(CTA_IP_V6_DST) or b""
    return (
        int.from_bytes(proto.get(CTA_PROTO_NUM, b"")),
        _text(source),
        int.from_bytes(proto.get(CTA_PROTO_SRC_PORT, b"")),
        _text(destination),
        int.from_bytes(proto.get(CTA_PROTO_DST_PORT, b"")),
    )


def _text(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw) if raw else ""
