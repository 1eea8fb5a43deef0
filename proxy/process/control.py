"""The control socket: who may say what, and how a bad message ends.

    frame -> parse (ports.py: values or InvalidArgument) -> Forwarder -> {"ok": true, ...}
          `- not a frame: close this connection            `- error  -> {"ok": false, "error", "class", "hint"}

Only the owner of the socket file (mode 0600) connects, or whoever holds the other end of a socket pair.  A message is
handled whole: a ``listen`` of a thousand ports is one frame and one answer, and takes effect for all of them or for none.
Descriptors that come with a message which does not want them are closed.  A "tag" comes back with the answer.  What has
to be asked of other processes (bulk workers, the crew) is answered when they have answered; all else in the order of the
questions.  A peer that does not read its answers is dropped when ``_MAX_UNREAD`` bytes wait for it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ...netlib.errors import InvalidArgument, PynetError
from ...netlib.ipc import Channel, Message, ProtocolError
from .. import ports
from ..dataplane.tcp import TcpPort
from .guard import parse_argv

if TYPE_CHECKING:
    from .forwarder import Forwarder

_MAX_UNREAD = 32 << 20
_CONNECTIONS, _MAX_CONNECTIONS = 100, 1000
"""Connections in one answer: unless it says, and at most.  Each costs 3 us in which no port is served."""


class ControlServer:
    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket | None, forwarder: Forwarder) -> None:
        self._loop, self._listener, self._forwarder = loop, listener, forwarder
        self.retire: Callable[[float], None] = forwarder.retire
        """What a ``shutdown`` with a drain does."""
        self._peers: dict[Channel, asyncio.Task[None] | None] = {}
        """Each with the answer that those after it have to wait for."""
        self._on_end: dict[Channel, Callable[[], None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = self._leaving = False
        self._operations: dict[str, Callable[[Message, list[int]], tuple[Message, list[int]]]] = {
            "listen": self._listen,
            "retarget": self._retarget,
            "withdraw": self._withdraw,
            "fetch": self._fetch,
            "watch": self._watch,
            "unwatch": self._unwatch,
            "ping": self._ping,
            "shutdown": self._shutdown,
        }
        self._slow: dict[str, Callable[[Message, list[int]], Awaitable[Message]]] = {
            "stats": self._stats,
            "connections": self._connections,
            "metrics": self._metrics,
        }
        if listener is not None:
            loop.add_reader(listener.fileno(), self._on_connect)

    def adopt(self, sock: socket.socket, on_end: Callable[[], None]) -> None:
        """Serve a connection that was not accepted here; *on_end* when it is over."""
        self._on_end[self._add(sock)] = on_end

    def stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    def leave(self) -> None:
        """Give the control socket up; who is connected is dropped when the answers that are due have gone out."""
        self.stop_listening()
        self._on_end.clear()
        self._leaving = True
        self._loop.call_soon(self._drop_answered)

    def _drop_answered(self) -> None:
        for channel, last in list(self._peers.items()):
            if not channel.pending and (last is None or last.done()):
                self._drop(channel)

    def close(self) -> None:
        self.stop_listening()
        self._on_end.clear()
        for channel in list(self._peers):
            channel.sock.setblocking(False)
            self._drop(channel)

    def _on_connect(self) -> None:
        assert self._listener is not None
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
        self._add(sock)

    def _add(self, sock: socket.socket) -> Channel:
        sock.setblocking(False)
        channel = Channel(sock)
        self._peers[channel] = None
        self._loop.add_reader(sock.fileno(), self._on_readable, channel)
        return channel

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._on_connect)

    def _drop(self, channel: Channel) -> None:
        if channel in self._peers:
            del self._peers[channel]
            self._loop.remove_reader(channel.fileno())
            self._loop.remove_writer(channel.fileno())
            channel.close()
            on_end = self._on_end.pop(channel, None)
            if on_end is not None:
                on_end()

    def _on_readable(self, channel: Channel) -> None:
        try:
            frames, is_open = channel.drain()
        except (ProtocolError, OSError) as error:
            print(f"pynet forwarder: control connection closed: {error}", file=sys.stderr, flush=True)
            self._drop(channel)
            return
        for message, fds in frames:
            slow = self._slow.get(str(message.get("op")))
            if slow is not None:
                self._background(self._answer_later(channel, message, fds, slow))
            else:
                self._answer_in_order(channel, message, *self._handle(message, fds))
        if not is_open:
            self._drop(channel)

    def _background(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _answer_in_order(self, channel: Channel, message: Message, reply: Message, fds: list[int]) -> None:
        """Answer now, or when the crew has done the same and what was asked before is answered."""
        crew = self._spread(message) if reply["ok"] else None
        before = self._peers.get(channel)
        if crew is None and (before is None or before.done()):
            self._answer(channel, message, reply, fds)
        elif channel in self._peers:
            copies = [os.dup(fd) for fd in fds]
            waiting = [task for task in (before, crew) if task is not None]
            self._peers[channel] = self._background(self._answer_after(waiting, channel, message, reply, copies))

    async def _answer_after(
        self, waiting: list[asyncio.Task[Any]], channel: Channel, message: Message, reply: Message, fds: list[int]
    ) -> None:
        try:
            await asyncio.wait(waiting)
            self._answer(channel, message, reply, fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def _answer_later(
        self,
        channel: Channel,
        message: Message,
        fds: list[int],
        operation: Callable[[Message, list[int]], Awaitable[Message]],
    ) -> None:
        try:
            reply = {"ok": True, **await operation(message, fds)}
        except Exception as error:
            reply = _refusal(message, error)
        finally:
            for fd in fds:
                os.close(fd)
        self._answer(channel, message, reply, [])

    def _answer(self, channel: Channel, message: Message, reply: Message, fds: list[int]) -> None:
        if channel not in self._peers:
            return
        if "tag" in message:
            reply["tag"] = message["tag"]
        try:
            done = channel.queue(reply, fds)
        except (OSError, ProtocolError):
            self._drop(channel)
            return
        if channel.pending > _MAX_UNREAD:
            self._drop(channel)
        elif not done:
            self._loop.add_writer(channel.fileno(), self._on_writable, channel)
        elif self._leaving:
            self._loop.call_soon(self._drop_answered)

    def _on_writable(self, channel: Channel) -> None:
        try:
            if channel.flush():
                self._loop.remove_writer(channel.fileno())
                if self._leaving:
                    self._drop_answered()
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
        except Exception as error:
            return _refusal(message, error), []
        finally:
            for fd in fds:
                os.close(fd)

    def _listen(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        self._forwarder.listen(ports.parse_listen(message, len(fds), self._forwarder.default_drain), fds)
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
            (
                port.spec()
                if isinstance(port, TcpPort)
                else ports.PortSpec(port.id, port.proto, port.target, port.drain)
            ).entry()
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

    def _ping(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        answer: Message = {
            "pid": os.getpid(),
            "workers": self._forwarder.workers,
            "drain": self._forwarder.default_drain,
        }
        return {**answer, "live": self._forwarder.live.count + self._forwarder.pool.live}, []

    def _shutdown(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        drain = ports.parse_drain(message.get("drain", 0))
        if drain:
            self.retire(drain)
        else:
            self._loop.call_soon(self._forwarder.request_stop)
        return {}, []

    def _spread(self, message: Message) -> asyncio.Task[list[Message]] | None:
        """Make the crew do what was done here.  None when there is nothing to wait for."""
        crew = self._forwarder.crew
        if not crew.members:
            return None
        match message["op"]:
            case "listen" | "retarget" as operation:
                ids = [entry["id"] for entry in message["ports"]]
                served, fds = self._forwarder.listen_message(ids)
                if operation == "retarget":
                    entries = [{"id": entry["id"], "target": entry["target"]} for entry in served["ports"]]
                    served, fds = {"op": "retarget", "ports": entries}, []
                elif len(served["ports"]) < len(ids):
                    # an id that is a udp port now may have been another's
                    streams = {entry["id"] for entry in served["ports"]}
                    crew.spread({"op": "withdraw", "ids": [name for name in ids if name not in streams]}, [])
                return crew.spread(served, fds) if served["ports"] else None
            case "withdraw":
                return crew.spread(message, [])
            case _:
                return None

    # -- operations that take time -----------------------------------------------------------------------------

    async def _stats(self, message: Message, fds: list[int]) -> Message:
        return await self._forwarder.stats()

    async def _connections(self, message: Message, fds: list[int]) -> Message:
        limit = ports.parse_limit(message.get("limit", _CONNECTIONS), _MAX_CONNECTIONS)
        return await self._forwarder.connections(ports.parse_id(message.get("id")), limit)

    async def _metrics(self, message: Message, fds: list[int]) -> Message:
        if len(fds) > 1:
            raise InvalidArgument("metrics takes one socket, or none to end it")
        sock = None
        if fds:
            try:
                sock = socket.socket(fileno=fds[0])
            except OSError as error:
                raise InvalidArgument("the descriptor of metrics is not a socket") from error
            del fds[0]
            if sock.type != socket.SOCK_STREAM:
                sock.close()
                raise InvalidArgument("the descriptor of metrics is not a stream socket")
        await self._forwarder.expose(sock)
        return {}


def _refusal(message: Message, error: Exception) -> Message:
    if isinstance(error, PynetError):
        return {"ok": False, "error": str(error), "class": type(error).__name__, "hint": error.hint}
    # a bug or a full table must not end the process that holds everybody's ports
    print(f"pynet forwarder: {message.get('op')!s:.40}: {error!r}", file=sys.stderr, flush=True)
    return {"ok": False, "error": f"internal error: {error}", "class": "InternalError", "hint": ""}
