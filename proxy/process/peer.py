"""The asking side of a control connection, under asyncio: many requests at a time, each answered by its tag.

    request(message) -> {"op": ..., "tag": 7} -> ... -> {"ok": ..., "tag": 7} -> the future of 7

For who starts a forwarder and holds the other end of a socket pair: the crew (crew.py) and programs (api.py).
``client.py`` is the one for threads.  When the other end goes away, or says what is no frame, every request that waits
fails with errors.Unavailable, and so does every later one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable

from ...netlib.errors import Unavailable
from ...netlib.ipc import Channel, Message, ProtocolError

Reply = tuple[Message, list[int]]


class Peer:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, on_end: Callable[[], None] | None = None
    ) -> None:
        """Owns *sock*.  *on_end* is called once, when the other end has gone; not after ``close``."""
        sock.setblocking(False)
        self._loop, self._channel, self._on_end = loop, Channel(sock), on_end
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._tag = 0
        self._open = True
        loop.add_reader(sock.fileno(), self._on_readable)

    def request(self, message: Message, fds: Iterable[int] = ()) -> asyncio.Future[Reply]:
        """The answer to *message*, refusals too, and its descriptors, which the caller owns."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self._open:
            future.set_exception(Unavailable("the forwarder has ended"))
            return future
        self._tag += 1
        self._waiting[self._tag] = future
        try:
            if not self._channel.queue({**message, "tag": self._tag}, list(fds)):
                self._loop.add_writer(self._channel.fileno(), self._on_writable)
        except OSError:
            self._end()
        except ProtocolError as error:
            del self._waiting[self._tag]
            future.set_exception(error)
        return future

    def close(self) -> None:
        self._on_end = None
        self._end()

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the forwarder has ended"))
        if self._on_end is not None:
            self._on_end()

    def _on_readable(self) -> None:
        try:
            frames, is_open = self._channel.drain()
        except (ProtocolError, OSError):
            frames, is_open = [], False
        for message, fds in frames:
            tag = message.pop("tag", None)
            future = self._waiting.pop(tag, None) if isinstance(tag, int) else None
            if future is not None and not future.done():
                future.set_result((message, fds))
            else:
                for fd in fds:
                    os.close(fd)
        if not is_open:
            self._end()

    def _on_writable(self) -> None:
        try:
            if self._channel.flush():
                self._loop.remove_writer(self._channel.fileno())
        except OSError:
            self._end()
