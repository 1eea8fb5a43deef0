"""The control socket: who may say what, and how a bad message ends.

    frame -> parse (ports.py: values or InvalidArgument) -> Forwarder -> {"ok": true, ...}
          `- not a frame: close this connection            `- error  -> {"ok": false, "error", "class", "hint"}

Only the owner of the socket file (mode 0600) connects.  A message is handled whole: a ``listen`` of a thousand ports is
one frame and one answer, and takes effect for all of them or for none.  Descriptors that come with a message which does
not want them are closed.  A peer that does not read its answers is dropped when ``_MAX_UNREAD`` bytes wait for it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..netlib.errors import InvalidArgument, PynetError
from ..netlib.ipc import Channel, Message, ProtocolError
from . import ports
from .guard import parse_argv

if TYPE_CHECKING:
    from .forwarder import Forwarder

_MAX_UNREAD = 32 << 20


class ControlServer:
    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, forwarder: Forwarder) -> None:
        self._loop, self._listener, self._forwarder = loop, listener, forwarder
        self._peers: set[Channel] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._operations: dict[str, Callable[[Message, list[int]], tuple[Message, list[int]]]] = {
            "listen": self._listen,
            "retarget": self._retarget,
            "withdraw": self._withdraw,
            "fetch": self._fetch,
            "watch": self._watch,
            "unwatch": self._unwatch,
            "ping": lambda message, fds: ({"pid": os.getpid()}, []),
            "shutdown": self._shutdown,
        }
        loop.add_reader(listener.fileno(), self._on_connect)

    def close(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for channel in list(self._peers):
            channel.sock.setblocking(False)
            self._drop(channel)

    def _on_connect(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # out of descriptors: who connects waits in the queue, and the loop must not spin meanwhile
            if not self._refusing:
                print(f"pynet forwarder: control connection: {error}", file=sys.stderr, flush=True)
            self._refusing = True
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(0.05, self._resume)
            return
        self._refusing = False
        sock.setblocking(False)
        channel = Channel(sock)
        self._peers.add(channel)
        self._loop.add_reader(sock.fileno(), self._on_readable, channel)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._on_connect)

    def _drop(self, channel: Channel) -> None:
        if channel in self._peers:
            self._peers.discard(channel)
            self._loop.remove_reader(channel.fileno())
            self._loop.remove_writer(channel.fileno())
            channel.close()

    def _on_readable(self, channel: Channel) -> None:
        try:
            frames, is_open = channel.drain()
        except (ProtocolError, OSError) as error:
            print(f"pynet forwarder: control connection closed: {error}", file=sys.stderr, flush=True)
            self._drop(channel)
            return
        for message, fds in frames:
            if message.get("op") == "stats":
                for fd in fds:
                    os.close(fd)
                task = self._loop.create_task(self._stats(channel))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._answer(channel, *self._handle(message, fds))
        if not is_open:
            self._drop(channel)

    def _answer(self, channel: Channel, reply: Message, fds: list[int]) -> None:
        if channel not in self._peers:
            return
        try:
            done = channel.queue(reply, fds)
        except (OSError, ProtocolError):
            self._drop(channel)
            return
        if channel.pending > _MAX_UNREAD:
            self._drop(channel)
        elif not done:
            self._loop.add_writer(channel.fileno(), self._on_writable, channel)

    def _on_writable(self, channel: Channel) -> None:
        try:
            if channel.flush():
                self._loop.remove_writer(channel.fileno())
        except OSError:
            self._drop(channel)

    # -- operations --------------------------------------------------------------------------------------------

    def _handle(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        """The answer, and descriptors to send with it.  Closes those of *fds* that nobody has taken out of the list."""
        try:
            operation = self._operations.get(str(message.get("op")))
            if operation is None:
                raise InvalidArgument(f"unknown operation {str(message.get('op'))[:40]!r}")
            reply, answer_fds = operation(message, fds)
            return {"ok": True, **reply}, answer_fds
        except PynetError as error:
            return {"ok": False, "error": str(error), "class": type(error).__name__, "hint": error.hint}, []
        except Exception as error:  # a bug or a full table must not end the process that holds everybody's ports
            print(f"pynet forwarder: {message.get('op')!s:.40}: {error!r}", file=sys.stderr, flush=True)
            return {"ok": False, "error": f"internal error: {error}", "class": "InternalError", "hint": ""}, []
        finally:
            for fd in fds:
                os.close(fd)

    def _listen(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        self._forwarder.listen(ports.parse_listen(message, len(fds)), fds)
        return {}, []

    def _retarget(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        self._forwarder.retarget(ports.parse_retarget(message))
        return {}, []

    def _withdraw(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        drain = message.get("drain")
        ids = ports.parse_ids(message.get("ids"))
        self._forwarder.withdraw(ids, None if drain is None else ports.parse_drain(drain))
        return {}, []

    def _fetch(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        held = self._forwarder.held()
        entries = [
            {"id": port.id, "proto": port.proto, "target": [port.target.ip, port.target.port], "drain": port.drain}
            for port in held
        ]
        return {"ports": entries}, [port.listener.fileno() for port in held]

    def _watch(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        pid, started = message.get("pid"), message.get("started")
        if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
            raise InvalidArgument("pid must be a positive integer")
        if started is not None and not isinstance(started, int):
            raise InvalidArgument("started must be the process's start time in clock ticks")
        self._forwarder.guard.watch(pid, parse_argv(message.get("start")), started)
        return {}, []

    def _unwatch(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        argv = message.get("start")
        self._forwarder.guard.unwatch(None if argv is None else parse_argv(argv))
        return {}, []

    def _shutdown(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        self._loop.call_soon(self._forwarder.request_stop)
        return {}, []

    async def _stats(self, channel: Channel) -> None:
        self._answer(channel, {"ok": True, **await self._forwarder.stats()}, [])
