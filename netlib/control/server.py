"""The connections of the control socket: frames in, answers out, and what a bad one costs.

    accept --> Caller --frames--> operation --> answer (in order), or a task that answers later (``slow`` ones)
                  `- no frame, half a frame for PATIENCE, answers that are not read: this connection is closed

A message is handled whole.  An answer goes out when those before it have, and when what it waits for (the crew) is done;
slow operations, which ask other processes, are answered when those have answered.  Descriptors that come with a message
which does not want them are closed.  A "tag" comes back with the answer.  What an operation can not do is its answer,
what it raises besides is a bug: it is printed and answered, and the process goes on, for it serves everybody.

Bounds, a connection: ``_MAX_UNREAD`` bytes of answers, one frame's worth of questions (netlib/ipc.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from ..errors import InvalidArgument, PynetError, Unavailable
from ..ipc import PATIENCE, Channel, Message, ProtocolError, TooFewDescriptors

_MAX_UNREAD = 32 << 20
_PARK = 0.05


class Caller:
    """One connection."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.last: asyncio.Task[None] | None = None
        """The answer that those after it have to wait for."""
        self.on_end: Callable[[], None] | None = None
        """Called when the other end has gone; not where we close the connection as we end."""
        self.impatience: asyncio.TimerHandle | None = None


class Answer(NamedTuple):
    fields: Message
    fds: list[int]
    """To send with it; they stay their owner's."""
    after: asyncio.Task[Any] | None = None
    """What has to be done first."""


DONE = Answer({}, [])
Operation = Callable[[Caller, Message, list[int]], Answer]
"""Closes none of the descriptors; takes those that it keeps out of the list."""
SlowOperation = Callable[[Message, list[int]], Awaitable[Message]]


class Server:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket | None,
        patience: float = PATIENCE,
        *,
        what: str = "pynet",
    ) -> None:
        """*what* its messages begin with: whose control socket it is."""
        self._loop, self._listener, self._patience, self._what = loop, listener, patience, what
        self._callers: set[Caller] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = self._leaving = False
        self.operations: dict[str, Operation] = {}
        self.slow: dict[str, SlowOperation] = {}
        if listener is not None:
            loop.add_reader(listener.fileno(), self._on_connect)

    def adopt(self, sock: socket.socket, on_end: Callable[[], None]) -> None:
        """Serve a connection that was not accepted here; *on_end* when it is over."""
        self._add(sock).on_end = on_end

    def forget(self, caller: Caller) -> None:
        """For who keeps something for a connection: it is over, and closed after this."""

    def stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    def leave(self) -> None:
        """Give the control socket up; who is connected is dropped when the answers that are due have gone out."""
        self.stop_listening()
        for caller in self._callers:
            caller.on_end = None
        self._leaving = True
        self._loop.call_soon(self._drop_answered)

    def close(self) -> None:
        self.stop_listening()
        for caller in list(self._callers):
            caller.on_end = None
            self._drop(caller)

    # -- connections -------------------------------------------------------------------------------------------

    def _on_connect(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # out of descriptors: who connects waits in the queue, and the loop must not spin meanwhile
            if not self._refusing:
                print(f"{self._what}: control connection: {error}", file=sys.stderr, flush=True)
            self._refusing = True
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(_PARK, self._resume)
            return
        self._refusing = False
        self._add(sock)

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._on_connect)

    def _add(self, sock: socket.socket) -> Caller:
        sock.setblocking(False)
        caller = Caller(Channel(sock))
        self._callers.add(caller)
        self._loop.add_reader(sock.fileno(), self._on_readable, caller)
        return caller

    def _drop(self, caller: Caller) -> None:
        if caller not in self._callers:
            return
        self._callers.remove(caller)
        self._be_patient(caller)
        self.forget(caller)
        self._loop.remove_reader(caller.channel.fileno())
        self._loop.remove_writer(caller.channel.fileno())
        caller.channel.close()
        if caller.on_end is not None:
            caller.on_end()

    def _drop_answered(self) -> None:
        for caller in list(self._callers):
            if not caller.channel.pending and (caller.last is None or caller.last.done()):
                self._drop(caller)

    def _close_bad(self, caller: Caller, why: object) -> None:
        print(f"{self._what}: control connection closed: {why}", file=sys.stderr, flush=True)
        self._drop(caller)

    def _be_patient(self, caller: Caller) -> None:
        if caller.impatience is not None:
            caller.impatience.cancel()
            caller.impatience = None

    def _on_readable(self, caller: Caller) -> None:
        try:
            frames, is_open = caller.channel.drain()
        except (ProtocolError, OSError) as error:
            self._close_bad(caller, error)
            return
        if frames:
            self._be_patient(caller)
        for message, fds in frames:
            self._handle(caller, message, fds)
        if not is_open:
            self._drop(caller)
        elif caller in self._callers:
            if not caller.channel.partial:
                self._be_patient(caller)
            elif caller.impatience is None:
                caller.impatience = self._loop.call_later(
                    self._patience, self._close_bad, caller, f"no end of a frame for {self._patience:g} s"
                )

    # -- questions and answers ---------------------------------------------------------------------------------

    def _handle(self, caller: Caller, message: Message, fds: list[int]) -> None:
        name = str(message.get("op"))
        slow = self.slow.get(name)
        if slow is not None:
            self._background(self._answer_later(caller, message, fds, slow))
            return
        try:
            operation = self.operations.get(name)
            if operation is None:
                raise InvalidArgument(f"unknown operation {name[:40]!r}")
            fields, answer_fds, after = operation(caller, message, fds)
            self._answer_in_order(caller, message, {"ok": True, **fields}, answer_fds, after)
        except Exception as error:
            self._answer_in_order(caller, message, refusal_of(message, error), [])
        finally:
            for fd in fds:
                os.close(fd)

    def _background(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _answer_in_order(
        self, caller: Caller, message: Message, reply: Message, fds: list[int], after: asyncio.Task[Any] | None = None
    ) -> None:
        waiting = [task for task in (caller.last, after) if task is not None and not task.done()]
        if not waiting:
            self._answer(caller, message, reply, fds)
        elif caller in self._callers:
            copies: list[int] = []
            try:
                for fd in fds:
                    copies.append(os.dup(fd))
            except OSError as error:
                _close(copies)
                copies, reply = [], refusal_of(message, Unavailable(f"no descriptor is left: {error.strerror}"))
            caller.last = self._background(self._answer_after(waiting, caller, message, reply, copies))

    async def _answer_after(
        self, waiting: list[asyncio.Task[Any]], caller: Caller, message: Message, reply: Message, fds: list[int]
    ) -> None:
        try:
            await asyncio.wait(waiting)
            self._answer(caller, message, reply, fds)
        finally:
            _close(fds)

    async def _answer_later(self, caller: Caller, message: Message, fds: list[int], operation: SlowOperation) -> None:
        try:
            reply = {"ok": True, **await operation(message, fds)}
        except Exception as error:
            reply = refusal_of(message, error)
        finally:
            _close(fds)
        self._answer(caller, message, reply, [])

    def _answer(self, caller: Caller, message: Message, reply: Message, fds: list[int]) -> None:
        if caller not in self._callers:
            return
        channel = caller.channel
        tag = {"tag": message["tag"]} if "tag" in message else {}
        try:
            try:
                done = channel.queue({**reply, **tag}, fds)
            except ProtocolError as error:  # more than a frame may be: whoever asks does so in pages
                done = channel.queue({**refusal_of(message, InvalidArgument(str(error))), **tag})
            except TooFewDescriptors as error:
                done = channel.queue({**refusal_of(message, Unavailable(str(error))), **tag})
        except (OSError, ProtocolError):
            self._drop(caller)
            return
        if channel.pending > _MAX_UNREAD:
            self._drop(caller)
        elif not done:
            self._loop.add_writer(channel.fileno(), self._on_writable, caller)
        elif self._leaving:
            self._loop.call_soon(self._drop_answered)

    def _on_writable(self, caller: Caller) -> None:
        try:
            if caller.channel.flush():
                self._loop.remove_writer(caller.channel.fileno())
                if self._leaving:
                    self._drop_answered()
        except OSError:
            self._drop(caller)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def refusal_of(message: Message, error: Exception) -> Message:
    """The answer that says why not; questions.refusal reads it."""
    if isinstance(error, PynetError):
        return {"ok": False, "error": str(error), "class": type(error).__name__, "hint": error.hint}
    # a bug or a full table must not end the process that serves everybody
    print(f"pynet: {message.get('op')!s:.40}: {error!r}", file=sys.stderr, flush=True)
    return {"ok": False, "error": f"internal error: {error}", "class": "InternalError", "hint": ""}
