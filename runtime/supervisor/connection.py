"""A client's connection to the supervisor, and one request on it."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

from ...netlib import ipc
from ...netlib.errors import InvalidArgument, PynetError
from .errors import StartError
from .loop import Loop

_MAX_PENDING = 64 << 20
"""A client that leaves this many bytes unread is dropped."""
_WHOLE = (1 << 63) - 1
"""Numbers are the API's 64 bits; JSON has longer ones."""

Fields = dict[str, Any]
Handler = Callable[["Connection", Fields, list[int]], None]


class Connection:
    """*handle* is called with each frame that arrives, *closed* once, at the end."""

    def __init__(self, sock: socket.socket, loop: Loop, handle: Handler, closed: Callable[[Connection], None]) -> None:
        sock.setblocking(False)
        self.channel = ipc.Channel(sock)
        self._loop, self._handle, self._closed = loop, handle, closed
        self.subscribed = False
        self.open = True

    def send(self, message: ipc.Message, fds: list[int] | None = None) -> None:
        """TooFewDescriptors where *fds* can not be copied: nothing was sent."""
        if not self.open:
            return
        try:
            done = self.channel.queue(message, fds)
        except ipc.TooFewDescriptors:
            raise  # the connection is as good as before
        except OSError:
            self.close()
            return
        if self.channel.pending > _MAX_PENDING:
            self.close()
        elif not done:
            self._loop.modify(self.channel.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def handle(self, events: int) -> None:
        try:
            if events & select.EPOLLOUT and self.channel.flush():
                self._loop.modify(self.channel.fileno(), select.EPOLLIN)
            if not events & ~select.EPOLLOUT:
                return
            frames, still_open = self.channel.drain()
        except (OSError, ipc.ProtocolError):
            self.close()
            return
        for message, fds in frames:
            self._loop.call(self._handle, self, message, fds)  # what one runs into is not the next one's loss
        if not still_open:
            self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            self._loop.discard(self.channel.fileno())
            self.channel.close()
            self._closed(self)


class Request:
    """One request on its way; answered once, now or later."""

    def __init__(self, connection: Connection, message: Fields, fds: list[int]) -> None:
        self.connection, self.message, self.fds = connection, message, fds

    def reply(self, fds: list[int] | None = None, *, or_without: bool = False, **fields: Any) -> None:
        """*or_without*: go without the descriptors where none is left for their copies; else that is the answer."""
        answer = {"seq": self.message.get("seq"), "ok": True, **fields}
        try:
            self.connection.send(answer, fds)
        except ipc.TooFewDescriptors as error:
            if or_without:
                self.connection.send(answer)
            else:
                self.fail(StartError(str(error.strerror)))

    def fail(self, error: PynetError | StartError) -> None:
        if isinstance(error, StartError):
            body: Fields = {"message": error.message, "class": "StartFailed", "code": error.code}
        else:
            body = {"message": error.message, "class": type(error).__name__}
        self.connection.send({"seq": self.message.get("seq"), "ok": False, "error": body})

    def text(self, key: str) -> str:
        value = self.message.get(key)
        if not isinstance(value, str):
            raise InvalidArgument(f"{self.message.get('op')}: {key} is missing or not a string")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        value = self.message.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not -_WHOLE <= value <= _WHOLE:
            raise InvalidArgument(f"{self.message.get('op')}: {key} is missing or not a number")
        return value

    def mapping(self, key: str) -> Fields:
        value = self.message.get(key)
        if not isinstance(value, dict):
            raise InvalidArgument(f"{self.message.get('op')}: {key} is missing or not an object")
        return value
