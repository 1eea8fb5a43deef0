"""What is counted, by port: events and bytes, and how long targets took to accept."""

from __future__ import annotations

from bisect import bisect_left

from ...netlib.ports.told import ConnectTimes, PortStats

BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds in seconds, inclusive, of the histogram of times to the back end."""


class Counters:
    """What has happened on one port.  ``bytes_in`` goes to the target, ``bytes_out`` comes from it."""

    __slots__ = ("active", "bytes_in", "bytes_out", "connections", "dropped", "errors", "refused")

    def __init__(self) -> None:
        self.connections = self.active = self.bytes_in = self.bytes_out = 0
        self.errors = self.refused = self.dropped = 0

    def told(self, proto: str) -> PortStats:
        return {
            "proto": proto,
            "connections": self.connections,
            "active": self.active,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "errors": self.errors,
            "refused": self.refused,
            "dropped": self.dropped,
        }


class Times:
    """How long something took: number, sum, longest, and a small histogram."""

    __slots__ = ("buckets", "longest", "total")

    def __init__(self) -> None:
        self.total = self.longest = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def add(self, seconds: float) -> None:
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self.buckets[bisect_left(BUCKETS, seconds)] += 1

    def told(self) -> ConnectTimes:
        """``buckets`` counts each range by itself; the last is everything longer."""
        return {
            "count": sum(self.buckets), "seconds": self.total, "longest": self.longest, "buckets": list(self.buckets)
        }  # fmt: skip


def merge(into: PortStats, more: PortStats) -> None:
    """Add the counters of the same port in another process."""
    into["connections"] += more["connections"]
    into["active"] += more["active"]
    into["bytes_in"] += more["bytes_in"]
    into["bytes_out"] += more["bytes_out"]
    into["errors"] += more["errors"]
    into["refused"] += more["refused"]
    into["dropped"] += more["dropped"]
    if "connect" in into and "connect" in more:
        times, others = into["connect"], more["connect"]
        times["count"] += others["count"]
        times["seconds"] += others["seconds"]
        times["longest"] = max(times["longest"], others["longest"])
        times["buckets"] = [left + right for left, right in zip(times["buckets"], others["buckets"], strict=True)]
