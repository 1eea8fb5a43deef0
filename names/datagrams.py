"""The questions of one sandbox over UDP.

    readable: fresh() -> up to *burst* times: recvfrom -> memo -> sendto
                                                     `-> answer(message, tcp, send): now or later

The socket is level-triggered: what is left after a burst is told again, when the others that had something had their turn.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from ..proxy.dataplane.lane import Lane
from .counters import Counters
from .memo import Memo

SIZE = 4096
"""No query is longer; the rest of one that is, is cut off, and what is left is malformed."""

Send = Callable[[bytes], None]
Answer = Callable[[bytes, bool, Send], bool]
"""(message, whether over TCP, how to reply once): False when nothing will be said."""


class Datagrams:
    __slots__ = ("_answer", "_burst", "_counters", "_fresh", "_lane", "_memo", "reading", "sock")

    def __init__(
        self,
        lane: Lane,
        sock: socket.socket,
        answer: Answer,
        *,
        memo: Memo,
        fresh: Callable[[], None],
        counters: Counters,
        burst: int,
    ) -> None:
        """*fresh* is called before the memo is looked into: it clears what is no longer so."""
        sock.setblocking(False)
        self._lane, self.sock, self._answer, self._fresh = lane, sock, answer, fresh
        self._memo, self._counters, self._burst = memo, counters, burst
        self.reading = False

    def start(self) -> None:
        if not self.reading:
            self._lane.add(self.sock.fileno(), select.EPOLLIN, self._readable)
            self.reading = True

    def stop(self) -> None:
        """Read no further; what comes waits in the socket."""
        if self.reading:
            self._lane.remove(self.sock.fileno())
            self.reading = False

    def close(self) -> None:
        self.stop()
        self.sock.close()

    def _readable(self, _event: int) -> None:
        self._fresh()
        receive, send, look = self.sock.recvfrom, self.sock.sendto, self._memo.get
        count = hits = unsent = 0
        for _ in range(self._burst):
            try:
                data, address = receive(SIZE)
            except BlockingIOError:
                break
            except OSError:
                continue  # an error that was queued is taken away by being told
            count += 1
            known = look(data[2:])
            if known is not None and not isinstance(known, bytes):
                known = known.next()
            if known is None:
                self._answer(data, False, partial(self._send, address))
                if not self.reading:
                    break
                continue
            hits += 1
            try:
                send(data[:2] + known, address)
            except OSError:
                unsent += 1
        counters = self._counters
        counters.udp += count
        counters.memo += hits
        counters.unsent += unsent

    def _send(self, address: Any, reply: bytes) -> None:
        try:
            self.sock.sendto(reply, address)
        except OSError:  # the asker is gone, or the sandbox: EBADF
            self._counters.unsent += 1
