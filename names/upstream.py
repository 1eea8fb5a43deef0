"""One upstream server: a question goes out, an answer comes back that can be nobody else's.

    ask --> UDP: a socket for this question alone, connected; random id, random case ----> server
             |<-- answer: from there, by that id, with the question as it was sent <-------'
             |--- FORMERR, NOTIMP: the server may speak no EDNS: once more without it
             |--- the question came back in another case: once more in lower case
             `--- truncated: over TCP (pipeline.py)

Who wants to forge an answer must guess a port (some 15 bits), an id (16) and a bit a letter (RFC 5452;
draft-vixie-dnsext-dns0x20).  The socket is connected, so the kernel drops what comes from elsewhere, and tells of ICMP errors at
once.  What does not belong to the question is dropped and counted; after a number of such the question is given up.  Servers
that do not keep the case, or speak no EDNS, are remembered for an hour, after they have shown it.

The sockets are the event loop's readers for as long as their one question is under way: asyncio-dgram makes a transport, a
protocol and a queue for each, which costs five times as much (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import fcntl
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from ..proxy.dataplane.lane import Lane
from .asking import Asking, belongs, letters, mixed
from .health import Health
from .message import FORMERR, HEADER, NOTIMP, QR, REFUSED, SERVFAIL, TC
from .pipeline import Ended, Pipeline
from .reply import Reply, read

PORT: Final = 53
MakeSocket = Callable[[int, int], socket.socket]
"""(family, type) -> a socket, made in the namespace that the server is to be reached from; blocking or not."""

SIZE: Final = 4096
"""Bytes of a datagram that are read; we have said that 1232 are the most."""
BOGUS: Final = 16
"""Datagrams that do not belong to the question, until it is given up."""
REMEMBERED: Final = 3600.0
"""Seconds for which a server's shortcoming is believed."""
SHOWN: Final = 3
"""Times in a row that it must have shown it to be remembered as one that does not keep the case."""
TELLING: Final = 8
"""A question of so many letters comes back in the very case that it was sent in by chance once in 256 times, or because it
goes round."""
CONNECT: Final = 3.0
_SIOCGIFINDEX: Final = 0x8933


class Readers(Protocol):
    """What waits for a socket to be readable: an event loop, or something that is faster at it."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...


class OnLane:
    """A Lane's epoll set, which costs a tenth of the event loop's own bookkeeping for a socket that lives for one datagram."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.remove_reader = lane.remove

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        def readable(_event: int) -> None:
            callback()
            self._lane.wake = True  # whoever waits for it is a task

        self._lane.add(fd, select.EPOLLIN, readable)


class Failed(Exception):
    """The server gave no answer that can be used.  One line says why; *away*: there is nobody."""

    def __init__(self, why: str, *, away: bool = False) -> None:
        super().__init__(why)
        self.away = away


class _CaseLost(Exception):
    """The answer is to the same question in another case."""


class Sent(dict[bytes, int]):
    """Questions that are under way, as they were sent, and how often: one that comes in the very same case is ours."""

    def add(self, wire: bytes) -> None:
        self[wire] = self.get(wire, 0) + 1

    def remove(self, wire: bytes) -> None:
        count = self.pop(wire)
        if count > 1:
            self[wire] = count - 1


def make_here(family: int, type: int) -> socket.socket:
    return socket.socket(family, type)


class Upstream:
    """Belongs to one event loop."""

    def __init__(
        self,
        address: str,
        port: int = PORT,
        *,
        make_socket: MakeSocket = make_here,
        sent: Sent | None = None,
        readers: Readers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*address*: IPv4 or IPv6, perhaps with a scope.  *sent* learns of every question that is under way."""
        self.address, self.port = address, port
        self.health = Health(clock)
        self.bogus = 0
        """Datagrams that belonged to nothing that was asked."""
        self._make_socket, self._clock, self._readers = make_socket, clock, readers
        self._sent = Sent() if sent is None else sent
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._host, _, self._scope = address.partition("%")
        self._lost = 0
        self._plain_until = self._without_edns_until = 0.0
        self._pipeline = Pipeline(self._open)

    @property
    def keeps_case(self) -> bool:
        return self._clock() >= self._plain_until

    @property
    def speaks_edns(self) -> bool:
        return self._clock() >= self._without_edns_until

    def close(self) -> None:
        self._pipeline.close()

    async def ask(self, asking: Asking) -> Reply:
        """What the server says.  Failed where it says nothing that can be used; cancelled by whoever has waited enough."""
        edns = self.speaks_edns
        start = self._clock()
        data, wire = await self._by_datagram(asking, edns)
        self.health.answered(self._clock() - start)
        if edns and data[3] & 15 in (FORMERR, NOTIMP):
            data, wire = await self._by_datagram(asking, False)
            if data[3] & 15 not in (FORMERR, NOTIMP):
                self._without_edns_until = self._clock() + REMEMBERED
        if len(data) < HEADER + len(wire):
            return Reply(data[3] & 15)
        if data[2] & TC >> 8 or len(data) == SIZE:
            short = Reply(data[3] & 15, truncated=True)
            try:
                data = await self._by_stream(asking, wire, edns)
            except Failed:
                return short
            if data[2] & TC >> 8:
                return short
        try:
            reply = read(data, wire, recursion=asking.recursion)
        except ValueError as error:
            raise Failed(f"not to be passed on: {error}") from None
        if reply.lame:
            raise Failed("refers to others")
        return reply

    async def _by_stream(self, asking: Asking, wire: bytes, edns: bool) -> bytes:
        try:
            return await self._pipeline.ask(wire, lambda id: asking.message(wire, id, edns=edns))
        except (OSError, Ended) as error:
            raise Failed(f"over TCP: {error}") from None

    async def _by_datagram(self, asking: Asking, edns: bool) -> tuple[bytes, bytes]:
        """An answer, and the question in the case that it was asked in."""
        wire = self._mixed(asking.wire)
        if wire == asking.wire:
            return await self._exchange(wire, asking, edns), wire
        self._sent.add(wire)
        try:
            answer = await self._exchange(wire, asking, edns)
            self._lost = 0
            return answer, wire
        except _CaseLost:
            pass
        finally:
            self._sent.remove(wire)
        answer = await self._exchange(asking.wire, asking, edns)
        self._lost += 1
        if self._lost >= SHOWN:
            self._lost, self._plain_until = 0, self._clock() + REMEMBERED
        return answer, asking.wire

    def _mixed(self, plain: bytes) -> bytes:
        """As it goes out: where it would tell our own question from others', never in the case that everybody writes."""
        if not self.keeps_case:
            return plain
        wire = mixed(plain)
        while wire == plain and letters(wire) >= TELLING:
            wire = mixed(plain)
        return wire

    async def _exchange(self, wire: bytes, asking: Asking, edns: bool) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            sock = self._make_socket(self._family, socket.SOCK_DGRAM)
        except OSError as error:
            raise Failed(f"no socket: {error.strerror or error}") from None
        answer: asyncio.Future[bytes] = loop.create_future()
        id = secrets.randbits(16)
        try:
            sock.setblocking(False)
            sock.connect(self._at(sock))
            sock.send(asking.message(wire, id, edns=edns))
            readers = self._readers or loop
            readers.add_reader(sock.fileno(), _Arriving(self, sock, id, wire, answer))
            try:
                return await answer
            finally:
                readers.remove_reader(sock.fileno())
        except OSError as error:
            raise Failed(f"{error.strerror or error}", away=True) from None
        finally:
            sock.close()

    async def _open(self) -> socket.socket:
        sock = self._make_socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(CONNECT):
                await asyncio.get_running_loop().sock_connect(sock, self._at(sock))
        except BaseException:
            sock.close()
            raise
        return sock

    def _at(self, sock: socket.socket) -> tuple[Any, ...]:
        """The server's address, as *sock* reaches it: a scope is an interface of the socket's namespace."""
        if self._family == socket.AF_INET:
            return self._host, self.port
        scope = 0
        if self._scope.isdigit():
            scope = int(self._scope)
        elif self._scope:
            request = struct.pack("16si", self._scope.encode()[:15], 0)
            scope = struct.unpack("16si", fcntl.ioctl(sock, _SIOCGIFINDEX, request))[1]
        return self._host, self.port, 0, scope


class _Arriving:
    """What comes for one question."""

    __slots__ = ("_answer", "_bogus", "_id", "_sock", "_upstream", "_wire")

    def __init__(
        self, upstream: Upstream, sock: socket.socket, id: int, wire: bytes, answer: asyncio.Future[bytes]
    ) -> None:
        self._upstream, self._sock, self._id, self._wire, self._answer = upstream, sock, id, wire, answer
        self._bogus = 0

    def __call__(self) -> None:
        if self._answer.done():
            return
        try:
            data = self._sock.recv(SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:  # ICMP: nobody listens, or no way leads there
            self._answer.set_exception(error)
            return
        wire = self._wire
        if belongs(data, self._id, wire) or _bare(data, self._id):
            self._answer.set_result(data)
        elif belongs(data, self._id, data[HEADER : HEADER + len(wire)]) and _alike(data, wire):
            self._answer.set_exception(_CaseLost())
        else:
            self._upstream.bogus += 1
            self._bogus += 1
            if self._bogus >= BOGUS:
                self._answer.set_exception(Failed("too many answers to what was not asked"))


def _alike(data: bytes, wire: bytes) -> bool:
    name = data[HEADER : HEADER + len(wire) - 4]
    return name != wire[:-4] and name.lower() == wire[:-4].lower() and data.startswith(wire[-4:], HEADER + len(name))


def _bare(data: bytes, id: int) -> bool:
    """An error in a header alone, as servers say it that did not understand the question."""
    return (
        len(data) >= HEADER
        and int.from_bytes(data[:2], "big") == id
        and data[2] & 0xF8 == QR >> 8
        and data[4:HEADER] == bytes(8)
        and data[3] & 15 in (FORMERR, SERVFAIL, NOTIMP, REFUSED)
    )
