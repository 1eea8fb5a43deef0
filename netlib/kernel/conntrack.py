"""conntrack: forgetting flows, over ctnetlink.

    Conntrack()                          flows of the calling thread's network namespace
    Conntrack(lambda: netns.socket(...)) of another: the socket is made at the first use, and used from any thread

Why at all, twice:

* NAT rules are looked up for the first packet of a flow only.  A UDP client that keeps its source port (a resolver, a
  VPN) goes on being sent where the flow went before a port was published, moved or withdrawn, for as long as it keeps
  talking.  TCP starts anew by itself.  Only flows to what was published are forgotten: one to the same port of somebody
  else is somebody else's, and a masqueraded one (a container's DNS question) would lose its answer.
* A flow outlives the container that had its address: the next one of that address would have its connections, past every
  rule for new ones ("established" is accepted first).  An ICMP flow lives for 30 s, an established TCP one for days.

    dump (filtered in the kernel where it can: since 5.8)  ->  filter again here  ->  delete by tuple, zone and id
    or, of few addresses, delete by a filter in the kernel, where it can

The second filter is what counts: an older kernel ignores the filter it does not know and sends everything.  The id
makes sure that a flow which was made anew meanwhile, with the same tuple, is left alone.

A dump walks the hash table of the whole machine with a lock for each bucket, whatever it finds: 5 to 10 ms at 262,144 buckets
(the kernel's default from 8 GiB of memory), and 15 us for each flow that is handed over (2 cores, Linux 6.18).  To delete by a
filter, which newer kernels can for IPv4, passes over empty buckets: 0.25 ms.  So a few addresses are deleted that way, many
are one question for a dump, and nothing is asked of a namespace that tracks nothing.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .netlink import Message, NetlinkError, NetlinkSocket, attribute, attributes, nested, u8, u32

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
NETLINK_NETFILTER = 12
_GET, _DELETE, _GET_STATS = 0x101, 0x102, 0x105  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, _DELETE, _GET_STATS
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
CTA_STATS_GLOBAL_ENTRIES = 1
# bits of the filter flags (include/linux/netfilter/nf_conntrack_common.h does not export them)
_BY_SOURCE, _BY_DESTINATION, _BY_PROTO, _BY_DESTINATION_PORT = 1 << 0, 1 << 1, 1 << 3, 1 << 5

_NFGENMSG = struct.Struct("!BBH")  # family, version, resource id
ANY = {4: "0.0.0.0", 6: "::"}
"""In a destination: every address of that family which is the host's own."""
FEW_ADDRESSES = 6
"""Up to which deleting by filters, three an address, is cheaper than a dump."""
FEW = 1000
"""Flows for each address, up to which handing all of them over is cheaper than having the kernel look for each address."""

Local = Callable[[Iterable[str]], set[str]]
"""Which of some addresses are the host's own, as Rtnetlink.local tells."""


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


class Conntrack:
    """The flows of one network namespace.  Thread-safe.  *make* makes its NETLINK_NETFILTER socket, at the first use."""

    def __init__(self, make: Callable[[], socket.socket] | None = None) -> None:
        self._make = make
        self._takes_filter = True
        self._opening = threading.Lock()
        self._netlink: NetlinkSocket | None = None

    def close(self) -> None:
        with self._opening:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def flows(self) -> list[Flow]:
        """All flows of both families."""
        return [flow for flow, _ in dump(self._opened(), socket.AF_UNSPEC)]

    def count(self) -> int:
        """How many flows there are, expired ones that nobody cleared away yet included."""
        message = Message("count tracked flows", _GET_STATS, 0, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0))
        (answer,) = self._opened().transact([message])
        return int.from_bytes(attributes(answer.body, _NFGENMSG.size).get(CTA_STATS_GLOBAL_ENTRIES, b""))

    def flush_ports(self, proto: int, destinations: Iterable[tuple[str, int]], *, local: Local) -> int:
        """Forget flows of *proto* that were opened to one of *destinations* (address or ANY, port); say how many."""
        wanted = frozenset(destinations)
        if not wanted or not self.count():
            return 0
        netlink = self._opened()
        ports = frozenset(port for _, port in wanted)
        select = select_ports(proto, ports)
        found = [
            (flow, raw)
            for family in sorted({_family(address) for address, _ in wanted})
            for flow, raw in dump(netlink, family, select)
            if flow.proto == proto and flow.destination_port in ports
        ]

        def exactly(flow: Flow) -> bool:
            return (flow.destination, flow.destination_port) in wanted

        def by_any(flow: Flow) -> bool:
            return (ANY[6 if ":" in flow.destination else 4], flow.destination_port) in wanted

        own = local({flow.destination for flow, _ in found if by_any(flow) and not exactly(flow)})
        doomed = [raw for flow, raw in found if exactly(flow) or (by_any(flow) and flow.destination in own)]
        return _delete(netlink, doomed)

    def flush_addresses(self, addresses: Iterable[str]) -> None:
        """Forget every flow that one of *addresses* (containers') opened, was sent or answers."""
        wanted = frozenset(addresses)
        count = self.count() if wanted else 0
        if not count:
            return
        v4 = frozenset(address for address in wanted if _family(address) == socket.AF_INET)
        if len(v4) <= FEW_ADDRESSES and self._delete_by_filter(v4):
            wanted -= v4
        if wanted:
            self._delete_found(wanted, count)

    def _delete_by_filter(self, addresses: frozenset[str]) -> bool:
        """Whether the kernel takes a filter for what it is to delete; one that does not misses the rest of a tuple (EINVAL)."""
        if self._takes_filter and addresses:
            try:
                self._opened().transact(
                    [
                        Message("forget tracked flows", _DELETE, 0, _NFGENMSG.pack(family, 0, 0) + select)
                        for family, select in _passes(addresses)
                    ]
                )
            except NetlinkError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                self._takes_filter = False
        return self._takes_filter

    def _delete_found(self, wanted: frozenset[str], count: int) -> None:
        netlink = self._opened()
        for family, select in [(0, b"")] if count <= FEW * len(wanted) else _passes(wanted):
            found = dump(netlink, family, select)
            _delete(
                netlink,
                [
                    raw
                    for flow, raw in found
                    if not wanted.isdisjoint((flow.source, flow.destination, flow.reply_source))
                ],
            )

    def _opened(self) -> NetlinkSocket:
        with self._opening:
            if self._netlink is None:
                self._netlink = NetlinkSocket(NETLINK_NETFILTER, self._make() if self._make else None)
            return self._netlink


def _passes(addresses: Iterable[str]) -> Iterator[tuple[int, bytes]]:
    """What to ask for, so that all flows of *addresses* are among the answers."""
    families = {address: _family(address) for address in addresses}
    for address in sorted(address for address, family in families.items() if family == socket.AF_INET):
        for select in (
            select_address(address),
            select_address(address, sent=True),
            select_address(address, reply=True),
        ):
            yield socket.AF_INET, select
    if socket.AF_INET6 in families.values():
        yield socket.AF_INET6, b""


def select_ports(proto: int, ports: frozenset[int]) -> bytes:
    """The kernel's filter for flows of *proto*, and to the port if it is one: it knows no sets."""
    parts, flags = u8(CTA_PROTO_NUM, proto), _BY_PROTO
    if len(ports) == 1:
        parts += attribute(CTA_PROTO_DST_PORT, struct.pack("!H", *ports))
        flags |= _BY_DESTINATION_PORT
    return nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, parts)) + _filter(orig=flags)


def select_address(address: str, *, sent: bool = False, reply: bool = False) -> bytes:
    """The kernel's filter for flows that an IPv4 *address* opened, was *sent*, or (*reply*) answers.

    Of IPv6 there is none: the kernel's comparison is the wrong way round (ctnetlink_filter_match_tuple, seen in Linux 6.18) and
    lets through, or deletes, the flows of every other address.
    """
    kind, flag = (CTA_IP_V4_DST, _BY_DESTINATION) if sent else (CTA_IP_V4_SRC, _BY_SOURCE)
    part = nested(CTA_TUPLE_IP, attribute(kind, socket.inet_pton(socket.AF_INET, address)))
    if reply:
        return nested(CTA_TUPLE_REPLY, part) + _filter(reply=flag)
    return nested(CTA_TUPLE_ORIG, part) + _filter(orig=flag)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _filter(*, orig: int = 0, reply: int = 0) -> bytes:
    return nested(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, orig), u32(CTA_FILTER_REPLY_FLAGS, reply))


def dump(netlink: NetlinkSocket, family: int, select: bytes = b"") -> list[tuple[Flow, dict[int, bytes]]]:
    """The flows of *family* that *select* lets through, with the attributes that they came in.

    AF_UNSPEC: of both; the kernel takes no filter with it.
    """
    message = Message("list tracked flows", _GET, 0, _NFGENMSG.pack(family, 0, 0) + select)
    found: list[tuple[Flow, dict[int, bytes]]] = []
    for answer in netlink.dump(message):
        raw = attributes(answer.body, _NFGENMSG.size)
        proto, source, source_port, destination, port = _tuple(raw.get(CTA_TUPLE_ORIG, b""))
        _proto, reply_source, reply_port, _destination, _port = _tuple(raw.get(CTA_TUPLE_REPLY, b""))
        found.append((Flow(proto, source, source_port, destination, port, reply_source, reply_port), raw))
    return found


def _delete(netlink: NetlinkSocket, doomed: Iterable[dict[int, bytes]]) -> int:
    batch = [
        Message(
            "forget a tracked flow",
            _DELETE,
            0,
            _NFGENMSG.pack(_raw_family(raw), 0, 0)
            + nested(CTA_TUPLE_ORIG, raw[CTA_TUPLE_ORIG])
            + b"".join(attribute(kind, raw[kind]) for kind in (CTA_ZONE, CTA_ID) if kind in raw),
        )
        for raw in doomed
        if CTA_TUPLE_ORIG in raw
    ]
    netlink.transact(batch, ignore=(errno.ENOENT,))  # it ended by itself
    return len(batch)


def _raw_family(raw: dict[int, bytes]) -> int:
    ip = attributes(attributes(raw[CTA_TUPLE_ORIG]).get(CTA_TUPLE_IP, b""))
    return socket.AF_INET6 if CTA_IP_V6_SRC in ip else socket.AF_INET


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
