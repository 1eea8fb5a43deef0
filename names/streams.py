"""The questions of one sandbox over TCP (RFC 7766): a connection asks as often as it likes, in whatever order it is answered.

    listener --accept--> Connection: received -> messages, two bytes of length before each -> answer(message, tcp, send)
                                     unsent  <- replies, as they come
    Connections: all of them, in order of their last message; a timer that cuts who holds one and says nothing

Everything is by events, so a client that stops anywhere holds nothing but its own connection, and that not for long:

    quiet between messages          Limits.idle           nothing of it under way
    within a message, in or out     Limits.message        counted from its first byte, whatever else moves
    one more than there may be      the one that has been quiet longest ends

What has no answer, as a length of less than a header, ends the connection: what follows it has no beginning (CVE-2026-35406).
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable

from ..proxy.dataplane.lane import Lane
from .counters import Counters, Limits
from .datagrams import Answer

_CHUNK = 16 << 10
_ACCEPTED = 8
"""Connections that are accepted before others have their turn."""
_MOVES = 4096
"""A client that takes so many bytes at once takes what it is sent."""
_RETRY = 0.2
"""Seconds until a listener is looked at again that could not accept for want of descriptors or memory."""


class Connections:
    """Every TCP connection of the server."""

    def __init__(self, lane: Lane, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self.lane, self.loop, self.limits = lane, loop, limits
        self.quiet: dict[Connection, None] = {}
        """In order of their last message, the quietest first."""
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.quiet)

    def add(self, connection: Connection) -> None:
        if len(self.quiet) >= self.limits.connections_in_all:
            self.make_room()
        self.quiet[connection] = None
        if self._sweeping is None:
            self.later(self.limits.sweep, self._sweep)

    def make_room(self) -> bool:
        """End the one that has been quiet longest; False when there is none."""
        for connection in self.quiet:
            connection.cut()
            return True
        return False

    def later(self, seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        self.lane.wake = True  # asyncio has to see that there is a timer
        return self.loop.call_later(seconds, function)

    def discard(self, connection: Connection) -> None:
        self.quiet.pop(connection, None)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self.loop.time()
        for connection in [one for one in self.quiet if one.deadline() <= now]:
            connection.cut()
        if self.quiet:
            self._sweeping = self.later(self.limits.sweep, self._sweep)

    def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None


class Streams:
    """A sandbox's listener and its connections."""

    __slots__ = ("_retry", "all", "answer", "counters", "mine", "reading", "sock")

    def __init__(self, everyone: Connections, sock: socket.socket, answer: Answer, counters: Counters) -> None:
        sock.setblocking(False)
        self.all, self.sock, self.answer, self.counters = everyone, sock, answer, counters
        self.mine: dict[Connection, None] = {}
        """In the same order."""
        self.reading = False
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if not self.reading:
            self.all.lane.add(self.sock.fileno(), select.EPOLLIN, self._acceptable)
            self.reading = True

    def stop(self) -> None:
        """Accept no further; who comes waits in the listener's queue."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self.reading:
            self.all.lane.remove(self.sock.fileno())
            self.reading = False

    def close(self) -> None:
        self.stop()
        self.sock.close()
        for connection in list(self.mine):
            connection.close()

    def _acceptable(self, _event: int) -> None:
        self.all.lane.ready.append(self._accept)  # when this turn's events are done: it makes descriptors

    def _accept(self) -> None:
        for _ in range(_ACCEPTED):
            if not self.reading:
                return
            try:
                sock, _ = self.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._short()
                return
            if len(self.mine) >= self.all.limits.connections:
                next(iter(self.mine)).cut()
            self.counters.connections += 1
            Connection(self, sock)

    def _short(self) -> None:
        """Nothing can be accepted now; a listener that is asked again at once would be a loop."""
        self.all.make_room()
        self.stop()
        self._retry = self.all.later(_RETRY, self.start)


class Connection:
    __slots__ = (
        *("_busy", "_deadline", "_ended", "_events", "_pending", "received", "_streams", "_unsent", "_unsent_since"),
        *("_within", "sock"),
    )

    def __init__(self, streams: Streams, sock: socket.socket) -> None:
        sock.setblocking(False)
        everyone = streams.all
        self._streams, self.sock = streams, sock
        self.received, self._unsent = bytearray(), bytearray()
        self._pending = 0
        """Questions under way."""
        self._busy = False
        """Messages are being handed over: replies that come meanwhile go out together."""
        self._ended = False
        """It asks no more; it may still take answers."""
        self._within = False
        """A message has begun."""
        self._deadline = everyone.loop.time() + everyone.limits.idle
        self._unsent_since = 0.0
        self._events = select.EPOLLIN
        everyone.add(self)
        streams.mine[self] = None
        everyone.lane.add(sock.fileno(), self._events, self._ready)

    def deadline(self) -> float:
        """When it is to be cut if nothing happens."""
        limits = self._streams.all.limits
        if self._unsent:
            return self._unsent_since + limits.message
        if self._pending >= (1 if not self._within else limits.pipelined):
            return float("inf")  # it waits for us, and who forwards has a bound of its own
        return self._deadline

    def cut(self) -> None:
        self._streams.counters.cut += 1
        self.close()

    def close(self) -> None:
        if self.sock.fileno() < 0:
            return
        self._streams.all.lane.remove(self.sock.fileno())
        self.sock.close()
        self._streams.all.discard(self)
        self._streams.mine.pop(self, None)

    # -- in ----------------------------------------------------------------------------------------------------

    def _ready(self, event: int) -> None:
        if event & ~select.EPOLLOUT and not self._read():
            return
        self._go_on()

    def _read(self) -> bool:
        """Whether the connection is still there."""
        if self._ended:  # an error: it takes no answers either
            self.close()
            return False
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            self.close()
            return False
        self.received += data
        self._ended = not data
        return True

    def _go_on(self) -> None:
        """Hand over what is complete and send what is answered, as far as both go now."""
        moved = False
        self._busy = True
        while self._hand_over():
            moved = True
            self._flush()
        self._busy = False
        if self.sock.fileno() >= 0:
            self._flush()
        if self.sock.fileno() >= 0:
            self._stand(moved)

    def _room(self) -> bool:
        limits = self._streams.all.limits
        return self._pending < limits.pipelined and len(self._unsent) < limits.unsent

    def _hand_over(self) -> bool:
        """Whether there was a message, and the connection is still there."""
        received, streams = self.received, self._streams
        at = 0
        while len(received) >= at + 2 and self._room():
            length = int.from_bytes(received[at : at + 2], "big")
            if len(received) < at + 2 + length:
                break
            message = bytes(received[at + 2 : at + 2 + length])
            at += 2 + length
            self._pending += 1
            streams.counters.tcp += 1
            if not streams.answer(message, True, self._send):
                self.cut()
            if self.sock.fileno() < 0:
                return False
        del received[:at]
        return at > 0

    def _stand(self, moved: bool) -> None:
        """What is awaited from now on, and until when."""
        everyone = self._streams.all
        if self._ended and not self._pending and not self._unsent:
            self.close()
            return
        if moved:
            _to_the_end(everyone.quiet, self)
            _to_the_end(self._streams.mine, self)
        within = bool(self.received)
        if moved or within != self._within:
            self._within = within
            self._deadline = everyone.loop.time() + (everyone.limits.message if within else everyone.limits.idle)
        events = select.EPOLLOUT if self._unsent else 0
        if self._room() and not self._ended:
            events |= select.EPOLLIN
        if events != self._events:
            self._events = events
            everyone.lane.change(self.sock.fileno(), events)

    # -- out ---------------------------------------------------------------------------------------------------

    def _send(self, reply: bytes) -> None:
        """One of the replies, in whatever order; the connection may be gone."""
        if self.sock.fileno() < 0:
            self._streams.counters.unsent += 1
            return
        self._pending -= 1
        if not self._unsent:
            self._unsent_since = self._streams.all.loop.time()
        self._unsent += len(reply).to_bytes(2, "big") + reply
        if not self._busy:
            self._go_on()

    def _flush(self) -> None:
        if not self._unsent:
            return
        try:
            sent = self.sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        if sent >= _MOVES:
            self._unsent_since = self._streams.all.loop.time()


def _to_the_end(those: dict[Connection, None], connection: Connection) -> None:
    del those[connection]
    those[connection] = None
