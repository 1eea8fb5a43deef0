"""What an interface lets through and what it counted, as rtnetlink messages: token bucket filters, statistics.  No I/O.

A token bucket filter (tbf, tc-tbf(8)) as the root queue of an interface limits what *leaves* by it:

    rate    bytes a second that flow into the bucket
    burst   bytes that the bucket holds: what may leave at once after a pause
    limit   bytes that wait for tokens at most; what comes beyond is dropped

Layouts: linux/pkt_sched.h (tc_tbf_qopt, tc_ratespec), linux/gen_stats.h, linux/if_link.h (rtnl_link_stats64, if_stats_msg).
tc(8) also sends a table of transmission times (TCA_TBF_RTAB): since Linux 3.8 the kernel computes them, and looks at the table
for nothing but to guess the link layer, which we name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .netlink import NLM_F_CREATE, NLM_F_REPLACE, Message, attribute, attributes, nested, text

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC, RTM_GETSTATS = 36, 37, 38, 94
TCA_KIND, TCA_OPTIONS, TCA_STATS2 = 1, 2, 7
TCA_STATS_QUEUE = 3
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_H_ROOT = 0xFFFFFFFF
TC_LINKLAYER_ETHERNET = 1
IFLA_STATS_LINK_64 = 1
TICK = 64
"""Nanoseconds of the clock that bursts are told in (PSCHED_SHIFT, net/pkt_sched.h)."""
HANDLE = 0x7079 << 16
"""Our mark on queues ("py"); tc(8) shows "qdisc tbf 7079:"."""
_MOST = 0xFFFFFFFF

_TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_RATE = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate
_PARMS = struct.Struct(f"={_RATE.size}s{_RATE.size}sIII")  # rate, peak rate, limit, buffer, mtu
_STATS = struct.Struct("=8Q")
_IFSTATS = struct.Struct("=BxxxII")  # family, index, filter mask


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket filter.  Bytes a second, bytes, bytes."""

    rate: int
    burst: int
    limit: int


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """The root queue of an interface; ``bucket`` is None for all kinds but tbf."""

    index: int
    kind: str
    handle: int
    bucket: Bucket | None
    drops: int


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """What went through an interface since it was made, as its own side of it says."""

    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0

    def turned(self) -> LinkCounters:
        """As the other end of a pair sees it."""
        received = (self.rx_bytes, self.rx_packets, self.rx_errors, self.rx_dropped)
        return LinkCounters(self.tx_bytes, self.tx_packets, self.tx_errors, self.tx_dropped, *received)


# -- queues -----------------------------------------------------------------------------------------------------------


def set_bucket(index: int, bucket: Bucket) -> Message:
    """Make it the interface's root queue, in the place of whatever is; one of ours is changed as it stands."""
    rate = _RATE.pack(0, TC_LINKLAYER_ETHERNET, 0, -1, 0, min(bucket.rate, _MOST))
    options = attribute(TCA_TBF_PARMS, _PARMS.pack(rate, bytes(_RATE.size), min(bucket.limit, _MOST), 0, 0))
    options += attribute(TCA_TBF_BURST, struct.pack("=I", bucket.burst))
    if bucket.rate > _MOST:
        options += attribute(TCA_TBF_RATE64, struct.pack("=Q", bucket.rate))
    body = _TCMSG.pack(0, index, HANDLE, TC_H_ROOT, 0) + text(TCA_KIND, "tbf") + nested(TCA_OPTIONS, options)
    return Message(f"limit the rate of link {index}", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)


def del_bucket(index: int) -> Message:
    """Take our root queue away; the kernel refuses (EINVAL, ENOENT) when another one is there."""
    return Message(f"end the rate limit of link {index}", RTM_DELQDISC, 0, _TCMSG.pack(0, index, HANDLE, TC_H_ROOT, 0))


def get_queues() -> Message:
    return Message("list queues", RTM_GETQDISC, 0, _TCMSG.pack(0, 0, 0, 0, 0))


def read_queue(body: bytes) -> QueueInfo | None:
    """None for a queue that is no interface's root."""
    _family, index, handle, parent, _info = _TCMSG.unpack_from(body)
    if parent != TC_H_ROOT:
        return None
    found = attributes(body, _TCMSG.size)
    kind = found.get(TCA_KIND, b"").rstrip(b"\0").decode(errors="replace")
    queue = attributes(found.get(TCA_STATS2, b"")).get(TCA_STATS_QUEUE, b"")
    drops = struct.unpack_from("=I", queue, 8)[0] if len(queue) >= 12 else 0  # gnet_stats_queue: qlen, backlog, drops
    bucket = _read_bucket(found.get(TCA_OPTIONS, b"")) if kind == "tbf" else None
    return QueueInfo(index, kind, handle, bucket, drops)


def _read_bucket(options: bytes) -> Bucket | None:
    found = attributes(options)
    parms = found.get(TCA_TBF_PARMS, b"")
    if len(parms) < _PARMS.size:
        return None
    ratespec, _peak, limit, ticks, _mtu = _PARMS.unpack_from(parms)
    rate = _RATE.unpack(ratespec)[5]
    if len(found.get(TCA_TBF_RATE64, b"")) == 8:
        rate = struct.unpack("=Q", found[TCA_TBF_RATE64])[0]
    return Bucket(rate, ticks * TICK * rate // 10**9, limit)


def same(wanted: Bucket, found: Bucket | None) -> bool:
    """Whether the kernel's is as it should be: it tells the burst as a time, in ticks, and rounds."""
    if found is None:
        return False
    slack = wanted.burst // 50 + 2 * TICK * wanted.rate // 10**9 + 1
    limit = min(wanted.limit, _MOST)
    return (found.rate, found.limit) == (wanted.rate, limit) and abs(found.burst - wanted.burst) <= slack


# -- statistics -------------------------------------------------------------------------------------------------------


def get_statistics(index: int = 0) -> Message:
    """Those of one link, or (0) of all in a dump, and nothing else of them (since Linux 4.7)."""
    body = _IFSTATS.pack(0, index, 1 << (IFLA_STATS_LINK_64 - 1))
    return Message(f"read the counters of link {index or '(all)'}", RTM_GETSTATS, 0, body)


def read_statistics(body: bytes) -> tuple[int, LinkCounters]:
    """(index, its counters)"""
    _family, index, _mask = _IFSTATS.unpack_from(body)
    data = attributes(body, _IFSTATS.size).get(IFLA_STATS_LINK_64, b"")
    if len(data) < _STATS.size:
        return index, LinkCounters()
    rxp, txp, rxb, txb, rxe, txe, rxd, txd = _STATS.unpack_from(data)
    return index, LinkCounters(rxb, rxp, rxe, rxd, txb, txp, txe, txd)
