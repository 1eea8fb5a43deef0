"""Messages between the forwarder and its bulk workers, over a SOCK_SEQPACKET pair: one record a message.

forwarder -> worker     ADOPT(id, flags, totals) + 2 descriptors    CUT(id)     REPORT      QUIT
worker -> forwarder     HELLO    PROGRESS(id, totals)    ENDED(id, totals, flags)    REPORTED
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from select import EPOLLIN, EPOLLOUT
from typing import NamedTuple

from .lane import Lane

ADOPT, CUT, REPORT, QUIT, HELLO, PROGRESS, ENDED, REPORTED = range(1, 9)
UP_ENDED, DOWN_ENDED, FAILED = 1, 2, 4
"""Flags: the FIN of that direction has been passed on already; the connection ended by a reset."""
_RECORD = struct.Struct("=BBQQQ")


class Record(NamedTuple):
    kind: int
    flags: int = 0
    id: int = 0
    up: int = 0
    down: int = 0


class Wire:
    """One end.  ``on_record(record, descriptors)`` for each message, ``on_end()`` once when the other end is gone."""

    def __init__(
        self,
        lane: Lane,
        sock: socket.socket,
        on_record: Callable[[Record, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._lane, self._sock, self._on_record, self._on_end = lane, sock, on_record, on_end
        self._waiting: deque[bytes] = deque()
        sock.setblocking(False)
        lane.add(sock.fileno(), EPOLLIN, self._on_event)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._lane.remove(self._sock.fileno())
            self._sock.close()

    def send(self, record: Record) -> None:
        """Send, or queue until the other end has read."""
        self._waiting.append(_RECORD.pack(*record))
        self._flush()

    def try_send_descriptors(self, record: Record, fds: list[int]) -> bool:
        """Send now or not at all: the caller has another way."""
        if self._waiting:
            return False
        try:
            socket.send_fds(self._sock, [_RECORD.pack(*record)], fds)
        except OSError:
            return False
        return True

    def _flush(self) -> None:
        if self._sock.fileno() < 0:
            return
        while self._waiting:
            try:
                self._sock.send(self._waiting[0])
            except BlockingIOError:
                self._lane.change(self._sock.fileno(), EPOLLIN | EPOLLOUT)
                return
            except OSError:
                return  # the other end is gone: the event that says so follows
            self._waiting.popleft()

    def _on_event(self, events: int) -> None:
        if events & EPOLLOUT:
            self._lane.change(self._sock.fileno(), EPOLLIN)
            self._flush()
        if events & ~EPOLLOUT:
            self._lane.ready.append(self._receive)  # not now: lane.py says why

    def _receive(self) -> None:
        if self._sock.fileno() < 0:
            return
        for _ in range(64):
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, _RECORD.size, 2)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if len(data) != _RECORD.size:
                for fd in fds:
                    os.close(fd)
                self.close()
                self._on_end()
                return
            self._on_record(Record._make(_RECORD.unpack(data)), fds)
            if self._sock.fileno() < 0:
                return
