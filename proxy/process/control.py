"""What may be said on the control socket: each operation, from a message's values to the service's.

    message -> parse (ports.py: values or InvalidArgument) -> Service (service.py) -> fields and descriptors of the answer

Only the owner of the socket file (mode 0600) connects, or whoever holds the other end of a socket pair.  A ``listen`` takes
effect for all of its ports or for none, also where it comes in pages (messages.py): a page is checked and kept until the last
one is there.  What a caller has begun and not finished is dropped with it, and when it has begun ``_MAX_BATCHES`` others.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from ...netlib.control.server import DONE, Answer, Caller, Server
from ...netlib.errors import InvalidArgument
from ...netlib.ipc import PATIENCE, Message
from .. import ports
from ..ports import PortSpec
from .guard import parse_argv
from .service import Service

_CONNECTIONS, _MAX_CONNECTIONS = 100, 1000
"""Connections in one answer: unless it says, and at most.  Each costs 3 us in which no port is served."""
_MAX_BATCHES = 4
_MAX_BATCH = 1 << 18
"""Ports: more than there are, on two addresses of each family."""


class _Batch:
    """The pages of a ``listen`` that have come."""

    def __init__(self) -> None:
        self.specs: list[PortSpec] = []
        self.fds: list[int] = []

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


class ControlServer(Server):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket | None,
        service: Service,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(loop, listener, patience, what="pynet forwarder")
        self._service = service
        self._batches: dict[Caller, dict[int, _Batch]] = {}
        self.retire: Callable[[float], None] = service.retire
        """What a ``shutdown`` with a drain does."""
        self.operations |= {
            "listen": self._listen,
            "retarget": self._retarget,
            "withdraw": self._withdraw,
            "fetch": self._fetch,
            "watch": self._watch,
            "unwatch": self._unwatch,
            "ping": self._ping,
            "shutdown": self._shutdown,
        }
        self.slow |= {"stats": self._stats, "connections": self._connections, "metrics": self._metrics}

    # -- ports -------------------------------------------------------------------------------------------------

    def _collect(self, caller: Caller, message: Message, fds: list[int]) -> _Batch | None:
        """A page of a ``listen`` has come; the whole of it, or None when there are pages to come."""
        number, more = message.get("batch"), message.get("more", False)
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(more, bool):
            raise InvalidArgument("batch must be a number, and more true or false")
        begun = self._batches.setdefault(caller, {})
        batch = begun.pop(number, None) or _Batch()
        try:
            batch.specs += ports.parse_listen(message, len(fds), self._service.default_drain)
            if len(batch.specs) > _MAX_BATCH:
                raise InvalidArgument(f"no more than {_MAX_BATCH} ports can be listened to at one time")
        except BaseException:
            batch.close()
            raise
        batch.fds += fds
        fds.clear()
        if not more:
            return batch
        while len(begun) >= _MAX_BATCHES:
            begun.pop(next(iter(begun))).close()
        begun[number] = batch
        return None

    def forget(self, caller: Caller) -> None:
        for batch in self._batches.pop(caller, {}).values():
            batch.close()

    def _listen(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        if "batch" not in message:
            specs = ports.parse_listen(message, len(fds), self._service.default_drain)
            return Answer({}, [], self._service.listen(specs, fds))
        batch = self._collect(caller, message, fds)
        if batch is None:
            return DONE
        try:
            ports.check_ids(batch.specs)
            return Answer({}, [], self._service.listen(batch.specs, batch.fds))
        finally:
            batch.close()

    def _retarget(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        return Answer({}, [], self._service.retarget(ports.parse_retarget(message)))

    def _withdraw(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        drain = message.get("drain")
        ids = ports.parse_ids(message.get("ids"))
        return Answer({}, [], self._service.withdraw(ids, None if drain is None else ports.parse_drain(drain)))

    def _fetch(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        held = self._service.ports
        ids, more = ports.page_of_ids(held, *ports.parse_page(message))
        fields: Message = {"ports": [held[id].spec().entry() for id in ids]}
        return Answer(fields | {"more": True} if more else fields, [held[id].listener.fileno() for id in ids])

    # -- processes ---------------------------------------------------------------------------------------------

    def _watch(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        pid, started = message.get("pid"), message.get("started")
        if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
            raise InvalidArgument("pid must be a positive integer")
        if started is not None and not isinstance(started, int):
            raise InvalidArgument("started must be the process's start time in clock ticks")
        self._service.guard.watch(pid, parse_argv(message.get("start")), started)
        return DONE

    def _unwatch(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        argv = message.get("start")
        self._service.guard.unwatch(None if argv is None else parse_argv(argv))
        return DONE

    def _ping(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        service = self._service
        told = {
            "pid": os.getpid(),
            "workers": service.workers,
            "drain": service.default_drain,
            "live": service.live_here,
        }
        return Answer(told, [])

    def _shutdown(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        drain = ports.parse_drain(message.get("drain", 0))
        if drain:
            self.retire(drain)
        else:
            self._loop.call_soon(self._service.request_stop)
        return DONE

    # -- what takes time ---------------------------------------------------------------------------------------

    async def _stats(self, message: Message, fds: list[int]) -> Message:
        if "ids" in message:
            return {**await self._service.stats(ports.parse_ids(message["ids"]))}
        ids, more = ports.page_of_ids(self._service.ports, *ports.parse_page(message))
        answer = await self._service.stats(ids)
        return {**answer, "more": True} if more else {**answer}

    async def _connections(self, message: Message, fds: list[int]) -> Message:
        limit = ports.parse_limit(message.get("limit", _CONNECTIONS), _MAX_CONNECTIONS)
        return {**await self._service.connections(ports.parse_id(message.get("id")), limit)}

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
        await self._service.expose(sock)
        return {}
