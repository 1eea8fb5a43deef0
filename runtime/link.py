"""A client's connection to the supervisor: requests by number, made again where it breaks.

    threads --- send (one lock) ---> supervisor.sock ---> reader thread: a reply wakes the caller that waits for its number
                                                                    an event, or a new connection, goes to the client

When the connection ends, every waiting call fails with Lost, and the reader connects again until ``close``; a call made
meanwhile waits *patience* seconds for it.  Lost means that nobody knows whether the supervisor has done what it was asked:
whoever may ask twice does.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ..netlib import errors
from ..netlib.errors import InternalError, InvalidArgument, PynetError, Unavailable
from ..netlib.ipc import Channel, Message, ProtocolError, connect

CALL_TIMEOUT = 60.0
"""Seconds that an operation may take (``stop`` adds its own time-out)."""
_RETRY_SECONDS = 0.02


_WHEN_NOT_STARTED = {
    126: "is it a program that this user may execute? `pynet run --rm IMAGE ls -l FILE` shows it",
    127: "look for the command in the image: `pynet run --rm IMAGE ls /bin`",
}


class StartFailed(InvalidArgument):
    """A container or exec process could not be started; ``exit_code`` is Docker's 125, 126 or 127.

    The message is what runc's would be behind "unable to start container process: ".
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, hint=_WHEN_NOT_STARTED.get(code, ""))
        self.exit_code = code  # type: ignore[misc]  # the class's own is the CLI's for all other errors


class Lost(Unavailable):
    """The connection ended before the reply came: the request may have been carried out, or not."""


class _Call:
    """One request that waits for its reply."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.reply: Message | None = None
        self.fds: list[int] = []


class Link:
    """*on_event* and *on_connected* (after a connection that was made again) are called on the reader thread.

    Unavailable when nobody answers at *path* now.
    """

    def __init__(
        self, path: str, patience: float, on_event: Callable[[Message], None], on_connected: Callable[[], None]
    ) -> None:
        self.path, self.patience = path, patience
        self._on_event, self._on_connected = on_event, on_connected
        self._lock = threading.Lock()  # guards what follows
        self._calls: dict[int, _Call] = {}
        self._next = 1
        self._channel: Channel | None = None
        self._send_lock = threading.Lock()
        self._connected = threading.Event()
        self._closing = threading.Event()
        self._open()
        self._reader = threading.Thread(target=self._read, name="supervisor-reader", daemon=True)
        self._reader.start()

    def leave(self) -> None:
        """From now on an end of the connection is final."""
        self._closing.set()

    def close(self) -> None:
        self.leave()
        with self._lock:
            channel = self._channel
        if channel is not None:
            try:
                channel.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it ended by itself
        if threading.current_thread() is not self._reader:
            self._reader.join()

    # -- requests --------------------------------------------------------------------------------------------

    def request(
        self,
        message: Message,
        fds: list[int] | None = None,
        *,
        timeout: float | None = CALL_TIMEOUT,
        again: bool = False,
    ) -> tuple[Message, list[int]]:
        """The reply and its descriptors, which are the caller's.  *again*: it may be done twice, so it may be asked twice."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._request(message, fds, timeout)
            except Lost:
                if not again or self._closing.is_set() or time.monotonic() >= deadline:
                    raise

    def _request(self, message: Message, fds: list[int] | None, timeout: float | None) -> tuple[Message, list[int]]:
        call = _Call()
        number = self._send(call, message, fds)
        if not call.done.wait(timeout):
            with self._lock:
                unanswered = self._calls.pop(number, None)
            if unanswered is not None:
                raise Unavailable(f"the supervisor did not answer {message['op']} within {timeout} s")
            call.done.wait()  # the reader has it in hand
        if call.reply is None:
            raise Lost(f"the supervisor went away during {message['op']}", hint="it is started again; try again")
        if not call.reply.get("ok"):
            close_all(call.fds)
            raise _error(call.reply.get("error") or {})
        return call.reply, call.fds

    def _send(self, call: _Call, message: Message, fds: list[int] | None) -> int:
        """Send the request over the connection that there is, or that comes within *patience*."""
        deadline = time.monotonic() + self.patience
        while True:
            waits = not self._closing.is_set() and threading.current_thread() is not self._reader
            if waits and not self._connected.is_set():
                self._connected.wait(max(0.0, deadline - time.monotonic()))
            with self._lock:
                channel = self._channel
                if channel is None:
                    raise Unavailable(f"the supervisor at {self.path} is away", hint="it is started again; try again")
                number, self._next = self._next, self._next + 1
                self._calls[number] = call
            try:
                with self._send_lock:
                    channel.send({**message, "seq": number}, fds)
                return number
            except (OSError, ProtocolError) as error:
                with self._lock:
                    self._calls.pop(number, None)
                if isinstance(error, ProtocolError):
                    raise InvalidArgument(str(error)) from error
                # it did not arrive: nothing was begun
                if self._closing.is_set() or time.monotonic() >= deadline:
                    raise Unavailable(f"the supervisor at {self.path} went away: {error}") from error
                self._closing.wait(_RETRY_SECONDS)  # the reader is about to see it too

    # -- the reader ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            channel = connect(self.path)
        except OSError as error:
            raise Unavailable(f"no supervisor answers at {self.path}: {error.strerror}") from error
        with self._lock:
            self._channel = channel
        self._connected.set()

    def _read(self) -> None:
        while True:
            with self._lock:
                channel = self._channel
            assert channel is not None
            self._receive(channel)
            self._connected.clear()
            with self._lock:
                self._channel = None
                calls, self._calls = self._calls, {}
            channel.close()
            for call in calls.values():
                call.done.set()
            if not self._reconnect():
                return

    def _receive(self, channel: Channel) -> None:
        while True:
            try:
                frame = channel.receive()
            except (OSError, ProtocolError):
                return
            if frame is None:
                return
            message, fds = frame
            if "event" in message:
                close_all(fds)
                self._on_event(message)
                continue
            with self._lock:
                call = self._calls.pop(message.get("seq", 0), None)
            if call is None:
                close_all(fds)
                continue
            call.reply, call.fds = message, fds
            call.done.set()

    def _reconnect(self) -> bool:
        while not self._closing.is_set():
            try:
                self._open()
            except Unavailable:
                self._closing.wait(_RETRY_SECONDS)
                continue
            self._on_connected()
            return True
        return False


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _error(body: dict[str, Any]) -> PynetError:
    message, name = str(body.get("message", "the supervisor gave no reason")), str(body.get("class", ""))
    if name == "StartFailed":
        return StartFailed(message, int(body.get("code") or 125))
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, PynetError):
        return kind(message)
    return InternalError(message)
