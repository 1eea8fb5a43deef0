"""The TCP connections of a process that are live: which still wait for their target, and when the last one is gone.

    begin --> waits for its target --connected--> open --leave--> gone
                    `-- longer than ``connect_timeout``: aborted, as refused

A target that drops what comes to it would otherwise keep its clients for the kernel's two minutes (tcp_syn_retries,
tcp(7)).  All waits have one length, so the order of a dict is the order of their ends, and one timer serves them all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from ...netlib.ports import told
from .lane import Lane
from .relay import REFUSED, Connection, Socket

CONNECT_TIMEOUT = 30.0
"""Seconds that a target has to accept."""


class Live:
    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        self._loop, self._lane, self._timeout = loop, lane, connect_timeout
        self._waiting: dict[Connection, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.count = 0
        self.on_empty: Callable[[], None] | None = None
        """Called when the last one has gone."""

    def begin(self, connection: Connection) -> None:
        """A new connection, which waits for its target."""
        connection.started = monotonic()
        self.count += 1
        self._waiting[connection] = None
        if self._timer is None:
            self._schedule(self._timeout)

    def connected(self, connection: Connection) -> float:
        """Seconds that it has waited."""
        del self._waiting[connection]
        return monotonic() - connection.started

    def leave(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)
        self.count -= 1
        if not self.count and self.on_empty is not None:
            self.on_empty()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self, delay: float) -> None:
        self._timer = self._loop.call_later(delay, self._sweep)
        self._lane.wake = True

    def _sweep(self) -> None:
        self._timer = None
        late = monotonic() - self._timeout
        for connection in list(self._waiting):
            if connection.started > late:
                self._schedule(connection.started - late)
                return
            connection.relay.abort(connection, REFUSED)


def _address(sock: Socket, *, peer: bool) -> tuple[str, int] | None:
    """(ip, port), or None when the kernel has forgotten it: the other end has reset the connection."""
    try:
        found = sock.getpeername() if peer else sock.getsockname()
    except OSError:
        return None
    return found[0], found[1]


class Ends(NamedTuple):
    """Who talks to whom, and how the target sees us."""

    client: tuple[str, int] | None
    target: tuple[str, int] | None
    source: tuple[str, int] | None


def ends(connection: Connection) -> Ends:
    return Ends(
        _address(connection.client, peer=True),
        _address(connection.target, peer=True),
        _address(connection.target, peer=False),
    )


def describe(connection: Connection, now: float) -> told.Connection:
    """One entry of the answer to ``connections``."""
    client, target, source = ends(connection)
    return {
        "client": client,
        "target": target,
        "source": source,
        "state": "connecting" if connection.is_connecting else "open",
        "age": round(now - connection.started, 3),
        "bytes_in": connection.up.total,
        "bytes_out": connection.down.total,
        "pid": os.getpid(),
    }
