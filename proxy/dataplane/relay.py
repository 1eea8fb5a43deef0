"""Moving bytes between two TCP sockets, in both directions, as if there were one.

    client ==up==> target        Connection: two sockets, two Directions
    client <=down= target        Direction: source, sink, and the bytes that are in our hands

What one end does, the other end sees: bytes in order, a FIN as a FIN (half-close, RFC 9293 3.6), a reset as a reset,
and a reader that does not read as a window that closes.

Readiness.  Each socket is registered once, edge-triggered, for everything.  An edge says "since now", so a Direction
remembers: ``readable`` until the source has been read dry, ``writable`` until the sink was full.  Back-pressure is
nothing but these flags: a source whose sink is full is not read, so the kernel's window closes.

How bytes move, by ``step`` until a budget is used:

    rest or in_pipe   we hold bytes: deliver those first; nothing is read meanwhile     (at most 64 KiB, or one pipe)
    pipe              bulk: splice source -> pipe -> sink, no copy through user space
    else              copy: recv into one buffer that all connections share, send from it

Two reads that filled the buffer make a Direction bulk; it is small again when bursts stay under 32 KiB.  splice's
EAGAIN means "source empty" or "pipe full": only an empty pipe is filled and a filled one is drained, so it is never
ambiguous.

Dry.  A short read means that the source is dry, with two exceptions: a FIN may stand behind the bytes without an edge
of its own, and a read stops at urgent data.  epoll tells of both in the same event (RDHUP, PRI): ``until_dry`` makes
the Direction read on to the 0 or the EAGAIN.  What stands behind a short read is known when epoll has told of a FIN and
of nothing else (``last``): the FIN.  So the bytes are sent with MSG_MORE, and leave in one segment with our own FIN.

A budget per turn keeps one stream from starving the rest: what is not finished joins the lane's ready queue.

Connections that have moved ``elephant`` bytes are offered to a bulk worker (bulkpool.py), at a moment when no byte of
theirs is in our hands.  This module knows no listeners, no asyncio and no ports: workers run it as it is.
"""

from __future__ import annotations

import os
import socket
import struct
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import Protocol

from .lane import Lane
from .pipes import Pipe, PipePool

BUFFER = 65536
"""Bytes of the shared copy buffer."""
BUDGET = 8
"""Steps that one Direction may take before others have their turn."""
_BULK_READS = 2
_SMALL_BURST = 32768
_SPLICE = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_ALL = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET
_PLAIN = EPOLLIN | EPOLLOUT
_FIN_ALONE = EPOLLRDHUP | EPOLLPRI | EPOLLERR
_RESET = struct.pack("ii", 1, 0)
"""struct linger {on, 0 s}: close(2) sends RST (socket(7))."""

CLOSED, RESET, REFUSED = "closed", "reset", "refused"
"""How a connection ended: by a FIN each way, by a reset or an error, before the target had accepted."""

Socket = socket.SocketType


class Owner(Protocol):
    """Whoever counts connections and needs to know of their end."""

    def connected(self, connection: Connection) -> None:
        """The target has accepted; not called for a connection that was made ``established``."""
        ...

    def ended(self, connection: Connection, how: str) -> None: ...


class BulkTaker(Protocol):
    def take(self, connection: Connection) -> bool:
        """Hand the connection's descriptors on; True when that was done and the caller must forget it."""
        ...


def reset(sock: Socket) -> None:
    """Close with a RST, whatever is queued."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # EINVAL on a socket that the peer has reset: there is nobody left to tell
    sock.close()


class Direction:
    """One way through a connection."""

    __slots__ = (
        "burst", "connection", "ended", "full_reads", "in_pipe", "last", "pipe", "queued", "readable", "recv_into",
        "rest", "send", "sink", "sink_fd", "source_fd", "total", "until_dry", "writable",
    )  # fmt: skip

    def __init__(self, connection: Connection, source: Socket, source_fd: int, sink: Socket, sink_fd: int) -> None:
        self.connection = connection
        self.sink = sink
        self.source_fd, self.sink_fd = source_fd, sink_fd
        self.recv_into, self.send = source.recv_into, sink.send
        self.readable = self.writable = self.last = self.ended = self.queued = False
        self.until_dry = connection.relay.messages
        self.rest: bytes | None = None
        self.pipe: Pipe | None = None
        self.in_pipe = self.full_reads = self.burst = 0
        self.total = 0
        """Bytes read from the source."""

    def go_on(self) -> None:
        """The next turn of a Direction that had used its budget."""
        self.queued = False
        if not self.connection.done:
            self.connection.relay.pump(self)


class Connection:
    """A pair of sockets.  Its events come to ``on_connecting`` until the target has accepted, then to ``on_target``."""

    __slots__ = ("_connected", "client", "done", "down", "owner", "relay", "started", "target", "up")

    def __init__(self, relay: Relay, client: Socket, target: Socket, owner: Owner, *, established: bool) -> None:
        """Both sockets are non-blocking; *target* is connected or connecting."""
        self.relay, self.client, self.target, self.owner = relay, client, target, owner
        self.done = False
        self.started = 0.0
        """When it was accepted, for the owner's use (time.monotonic)."""
        self._connected = established
        client_fd, target_fd = client.fileno(), target.fileno()
        self.up = Direction(self, client, client_fd, target, target_fd)
        self.down = Direction(self, target, target_fd, client, client_fd)
        self.down.writable = True

    def start(self) -> None:
        """Register with the lane.  Edges that came before are reported at once (epoll(7))."""
        lane = self.relay.lane
        lane.add(self.up.source_fd, _ALL, self.on_client)
        lane.add(self.down.source_fd, _ALL, self.on_target if self._connected else self.on_connecting)

    @property
    def is_connecting(self) -> bool:
        return not self._connected

    def on_client(self, events: int) -> None:
        self._on(events, self.up, self.down)

    def on_target(self, events: int) -> None:
        self._on(events, self.down, self.up)

    def on_connecting(self, events: int) -> None:
        if events & (EPOLLERR | EPOLLHUP):
            self.relay.abort(self, REFUSED)
        elif events & EPOLLOUT:
            self._connected = True
            self.owner.connected(self)
            self.relay.lane.handlers[self.down.source_fd] = self.on_target
            self._on(events, self.down, self.up)

    def _on(self, events: int, from_it: Direction, to_it: Direction) -> None:
        """*events* of the socket that is the source of *from_it* and the sink of *to_it*."""
        if (
            events == _PLAIN
            and to_it.writable
            and from_it.writable
            and from_it.rest is None
            and from_it.pipe is None
            and from_it.full_reads < _BULK_READS
            and not from_it.ended
        ):
            # one short message with nothing pending: most events of an interactive connection
            from_it.readable = True
            if self.relay.copy(from_it):
                self.relay.pump(from_it)
            return
        if events & EPOLLOUT and not to_it.writable:
            to_it.writable = True
            self.relay.pump(to_it)
            if self.done:
                return
        if events & ~EPOLLOUT:
            from_it.readable = True
            if events & ~_PLAIN:
                from_it.until_dry = True
                from_it.last = events & _FIN_ALONE == EPOLLRDHUP and not self.relay.messages
            self.relay.pump(from_it)
            if events & EPOLLERR and not self.done:
                self.relay.abort(self)


class Relay:
    """What all connections of a process share: the lane, the buffer, the pipes, the door to a bulk worker."""

    def __init__(
        self,
        lane: Lane,
        pipes: PipePool,
        bulk: BulkTaker | None = None,
        elephant: int = 4 << 20,
        *,
        messages: bool = False,
    ) -> None:
        """*messages*: a read brings one message of several, so a short one tells nothing of what stands behind it."""
        self.lane, self.pipes, self.bulk, self.elephant, self.messages = lane, pipes, bulk, elephant, messages
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)

    # -- one direction -----------------------------------------------------------------------------------------

    def pump(self, way: Direction) -> None:
        """Move what can be moved, up to the budget."""
        if way.ended:
            return
        for _ in range(BUDGET):
            if not way.writable:
                return
            if way.in_pipe or way.rest is not None:
                if not self._deliver(way):
                    return
            elif not way.readable:
                return
            elif way.pipe is not None:
                if not self._splice(way):
                    return
            elif way.full_reads >= _BULK_READS and self._become_bulk(way):
                continue
            elif not self.copy(way):
                return
        if not way.queued:
            way.queued = True
            self.lane.ready.append(way.go_on)

    def _deliver(self, way: Direction) -> bool:
        """Give the sink the bytes in our hands.  True when the Direction may take another step."""
        try:
            if way.in_pipe:
                assert way.pipe is not None
                way.in_pipe -= os.splice(way.pipe[0], way.sink_fd, way.in_pipe, flags=_SPLICE)
                return True
            assert way.rest is not None
            sent = way.send(way.rest)
        except BlockingIOError:
            way.writable = False
            return False
        except OSError:
            self.abort(way.connection)
            return False
        if sent < len(way.rest):
            way.rest, way.writable = way.rest[sent:], False
            return False
        way.rest = None
        return True

    def copy(self, way: Direction) -> bool:
        """One read and one send through the shared buffer.  True when the Direction may take another step."""
        try:
            count = way.recv_into(self._buffer)
        except BlockingIOError:
            way.readable = False
            return False
        except OSError:
            self.abort(way.connection)
            return False
        if count == 0:
            self._end(way)
            return False
        way.total += count
        last = way.last and count < BUFFER
        try:
            sent = way.send(self._view[:count], socket.MSG_MORE if last else 0)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort(way.connection)
            return False
        if sent < count:
            way.rest, way.writable = bytes(self._view[sent:count]), False
        elif last:
            self._end(way)
            return False
        if count == BUFFER:
            way.full_reads += 1
        else:
            way.full_reads = 0
            way.readable = way.until_dry
        return way.readable and way.writable

    def _become_bulk(self, way: Direction) -> bool:
        way.pipe = self.pipes.borrow()
        way.burst = 0
        return way.pipe is not None

    def _splice(self, way: Direction) -> bool:
        """Fill the empty pipe and drain it.  True when the Direction may take another step."""
        pipe = way.pipe
        assert pipe is not None
        try:
            count = os.splice(way.source_fd, pipe[1], self.pipes.size, flags=_SPLICE)
        except BlockingIOError:
            way.readable = False
            way.pipe = None
            self.pipes.give_back(pipe)
            if way.burst < _SMALL_BURST:
                way.full_reads = 0
            return False
        except OSError:
            self.abort(way.connection)
            return False
        if count == 0:
            self._end(way)
            return False
        way.burst += count
        way.total += count
        way.in_pipe = count
        try:
            way.in_pipe -= os.splice(pipe[0], way.sink_fd, count, flags=_SPLICE)
        except BlockingIOError:
            way.writable = False
            return False
        except OSError:
            self.abort(way.connection)
            return False
        return not (way.total > self.elephant and self.bulk is not None and self._hand_over(way.connection))

    def _end(self, way: Direction) -> None:
        """The source has said FIN and everything before it is delivered: say FIN to the sink."""
        way.ended = True
        if way.pipe is not None:
            self.pipes.give_back(way.pipe)
            way.pipe = None
        connection = way.connection
        if connection.up.ended and connection.down.ended:
            self._finish(connection, CLOSED)
            return
        try:
            way.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort(connection)

    # -- a whole connection ------------------------------------------------------------------------------------

    def _hand_over(self, connection: Connection) -> bool:
        up, down = connection.up, connection.down
        if up.in_pipe or down.in_pipe or up.rest is not None or down.rest is not None:
            return False
        assert self.bulk is not None
        if not self.bulk.take(connection):
            return False
        # the worker's copies keep the files open, so epoll would go on reporting them here
        self.lane.remove(up.source_fd)
        self.lane.remove(down.source_fd)
        self._drop(connection)
        connection.client.close()
        connection.target.close()
        self._untie(connection)
        return True

    def abort(self, connection: Connection, how: str = RESET) -> None:
        """Reset both ends."""
        if not connection.done:
            self._finish(connection, how)

    def _finish(self, connection: Connection, how: str) -> None:
        self._drop(connection)
        if how == CLOSED:
            connection.client.close()
            connection.target.close()
        else:
            reset(connection.client)
            reset(connection.target)
        connection.owner.ended(connection, how)
        self._untie(connection)

    def _drop(self, connection: Connection) -> None:
        connection.done = True
        for way in (connection.up, connection.down):
            self.lane.handlers.pop(way.source_fd, None)
            if way.pipe is not None:
                (self.pipes.discard if way.in_pipe else self.pipes.give_back)(way.pipe)
                way.pipe, way.in_pipe = None, 0
            way.rest = None

    @staticmethod
    def _untie(connection: Connection) -> None:
        """Break the cycle Connection <-> Direction, so that both are freed now and not by the collector."""
        for way in (connection.up, connection.down):
            way.connection = _DONE


class _Done:
    """Stands in for the connection of a Direction that is still in the ready queue."""

    done = True


_DONE: Connection = _Done()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
