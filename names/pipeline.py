"""One TCP connection to an upstream, for all who have a question to it (RFC 7766 6.2.1).

    ask -> [connected? else connect once for all who wait] -> length, message ---> upstream
                 future by id <--- reader: length, message, in any order <--------'

Questions are written as they come; answers are told apart by id and question.  A connection that ends with questions
unanswered is made anew for them as long as each one answers something: servers that close after an answer are served one answer
at a time.  It is closed when nobody has asked for a while, and left when a question was given up on which nothing came meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from .asking import belongs

UNDER_WAY: Final = 64
"""Questions on one connection; one more waits for its turn."""
IDLE: Final = 10.0
"""Seconds without a question until we close (RFC 7766 6.2.3: of the order of seconds)."""
BOGUS: Final = 16
"""Answers to what was not asked, until the connection is given up."""


class Ended(Exception):
    """The connection ended before the answer.  *served*: it had answered somebody."""

    def __init__(self, served: bool) -> None:
        super().__init__("the server closed the connection")
        self.served = served


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._served = 0
        self.usable = True
        """Whether further questions may go to it."""
        self._idle: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._read())

    async def ask(self, wire: bytes, message: Callable[[int], bytes]) -> bytes:
        if self._idle:
            self._idle.cancel()
        id = secrets.randbits(16)
        while id in self._waiting:
            id = secrets.randbits(16)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[id] = wire, answer
        data, served = message(id), self._served
        try:
            self._writer.write(len(data).to_bytes(2, "big") + data)
            return await answer
        finally:
            del self._waiting[id]
            if answer.cancelled() and served == self._served:  # nothing came meanwhile: nobody shall wait behind that
                self.usable = False
            if not self._waiting:
                if self.usable:
                    self._idle = asyncio.get_running_loop().call_later(IDLE, self.close)
                else:
                    self.close()

    async def _read(self) -> None:
        bogus = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while bogus < BOGUS:
                size = int.from_bytes(await self._reader.readexactly(2), "big")
                data = await self._reader.readexactly(size)
                wire, answer = self._waiting.get(int.from_bytes(data[:2], "big"), (b"", None))
                if answer is None or answer.done() or not belongs(data, int.from_bytes(data[:2], "big"), wire):
                    bogus += 1
                    continue
                self._served += 1
                answer.set_result(data)
        self.close()

    def close(self) -> None:
        """Whoever still waits is told."""
        self.usable = False
        if self._idle:
            self._idle.cancel()
        self._task.cancel()
        self._writer.transport.abort()
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Ended(self._served > 0))


class Pipeline:
    def __init__(self, connect: Callable[[], Awaitable[socket.socket]]) -> None:
        """*connect* gives a connected socket, in a bounded time, or OSError."""
        self._connect = connect
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._turns = asyncio.Semaphore(UNDER_WAY)
        self.made = 0
        """Connections so far."""

    async def ask(self, wire: bytes, message: Callable[[int], bytes]) -> bytes:
        """The answer to *wire*; *message* makes what is sent, with an id.  OSError, or Ended.  Whoever asks bounds the time."""
        async with self._turns:
            while True:
                connection = await self._connected()
                try:
                    return await connection.ask(wire, message)
                except Ended as error:
                    if not error.served:
                        raise

    async def _connected(self) -> _Connection:
        if self._connection is not None and self._connection.usable:
            return self._connection
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open())
            self._connecting.add_done_callback(self._opened)
        return await asyncio.shield(self._connecting)

    async def _open(self) -> _Connection:
        sock = await self._connect()
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        self.made += 1
        self._connection = _Connection(reader, writer)
        return self._connection

    def _opened(self, task: asyncio.Task[_Connection]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # whoever waits has it; when nobody does any more it is nobody's

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
