"""What a userland proxy tells of its ports, as types: its statistics, and its live connections.

docs/proxy.md, "What is counted", says what each number means.  Bytes "in" go to the target, bytes "out" come from it.
Every room may import this module.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class ConnectTimes(TypedDict):
    """How long targets took to accept."""

    count: int
    seconds: float
    """Their sum."""
    longest: float
    buckets: list[int]
    """How many in each range of dataplane.counters.BUCKETS, and longer."""


class PortStats(TypedDict):
    proto: str
    connections: int
    active: int
    bytes_in: int
    bytes_out: int
    errors: int
    refused: int
    dropped: int
    connect: NotRequired[ConnectTimes]
    """tcp and sctp."""


class Stats(TypedDict):
    pid: int
    processes: list[int]
    """Those that accept, the first among them."""
    workers: list[int]
    """Bulk workers."""
    ports: dict[str, PortStats]


class Connection(TypedDict):
    client: tuple[str, int] | None
    """None when the kernel has forgotten it: the other end has reset the connection."""
    target: tuple[str, int] | None
    source: tuple[str, int] | None
    """How the target sees us."""
    state: str
    """connecting or open."""
    age: float
    """Seconds."""
    bytes_in: int
    bytes_out: int
    pid: int
    worker: NotRequired[int]
    """The bulk worker that has it."""


class Connections(TypedDict):
    total: int
    connections: list[Connection]
    """The oldest ones first."""
