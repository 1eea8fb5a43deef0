"""The name server: UDP and TCP of many sandboxes on one epoll set, in one thread, with asyncio beside it for what is forwarded.

    socket of a sandbox --> Datagrams (datagrams.py) -- memo --> reply                      most questions: two system calls
       on the Lane     `--> Streams (streams.py)  --.   |
                                                    v   v
                                         Served.answer: message -> answers -> reply        a view, or an error that an RFC names
                                                        |
                                                        `-- not ours --> Forwarder: at hand, or a task that asks

A socket says by itself which sandbox asks, since a container sees its own loopback alone.  Sockets of a sandbox are read once
its view was told, not before: after a restart the questions wait in them until it is known what to say.

Nobody waits for another: a socket is read for a few datagrams, then the next one that has some (epoll hands them out in
turn), and questions under way are counted, by sandbox, by connection and in all.  Nothing here waits for a client.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from time import monotonic, perf_counter
from typing import NamedTuple, Protocol

from ..netlib.naming import Names, View
from ..proxy.dataplane.lane import Lane
from . import answers, message
from .counters import Counters, Limits
from .datagrams import Datagrams, Send
from .forward import Source
from .memo import TURNS, Memo, Passing, Turns
from .message import MAX_TCP, REFUSED, SERVFAIL, Malformed, Question
from .streams import Connections, Streams
from .zones import Zones


class Forwarder(Protocol):
    """Who answers what is not ours (forward.py).  Its messages answer *question*: its id, its name as asked, and over UDP no
    more than ``question.room``."""

    def cached(self, sandbox: str, view: View, question: Question, *, tcp: bool) -> tuple[bytes, float] | None:
        """An answer that is at hand, and for how many seconds it is right to the byte; or None.  Called in the thread that
        serves everybody: it must not take long."""
        ...

    async def answer(self, sandbox: str, view: View, question: Question, *, tcp: bool) -> tuple[bytes, Source]:
        """An answer and from where it is, after a bounded time: SERVFAIL when nobody has one."""
        ...

    def forget(self, sandbox: str) -> None:
        """A sandbox is gone, or another has its id."""
        ...


class Entry(NamedTuple):
    """A line of the query log."""

    sandbox: str
    tcp: bool
    question: Question | None
    """None: malformed."""
    source: str
    """From where the answer is: hosts, network NAME, the rule that it is by; of what is forwarded, ``Source``'s text."""
    code: int | None
    """None: nothing was said."""
    seconds: float


Note = Callable[[Entry], None]


class Asked(NamedTuple):
    """One message, how to reply to it, and who wants to know how that went."""

    question: Question | None
    tcp: bool
    send: Send
    note: Note | None
    start: float

    def answered(self, sandbox: str, source: str, reply: bytes | None) -> None:
        if reply is not None:
            self.send(reply)
        if self.note:
            code = None if reply is None else reply[3] & 15
            self.note(Entry(sandbox, self.tcp, self.question, source, code, perf_counter() - self.start))


class Served:
    """One sandbox."""

    __slots__ = ("_seen", "_server", "_stamp", "_turn", "counters", "datagrams", "id", "memo", "streams", "under_way")

    def __init__(self, server: Server, id: str, udp: socket.socket, tcp: socket.socket, counters: Counters) -> None:
        self._server, self.id, self.counters = server, id, counters
        limits = server.limits
        self.memo = Memo(limits.memo_entries, limits.memo_bytes)
        self._seen = self._stamp = self._turn = 0
        self.under_way: set[asyncio.Task[None]] = set()
        self.datagrams = Datagrams(
            server.lane, udp, self.answer, memo=self.memo, fresh=self.fresh, counters=counters, burst=limits.burst
        )
        self.streams = Streams(server.connections, tcp, self.answer, counters)

    def read(self, yes: bool) -> None:
        if yes:
            self.datagrams.start()
            self.streams.start()
        else:
            self.datagrams.stop()
            self.streams.stop()

    def close(self) -> None:
        self.datagrams.close()
        self.streams.close()
        for task in self.under_way:
            task.cancel()

    def fresh(self) -> None:
        """Forget replies that may not be so any more."""
        zones = self._server.zones
        if self._seen != zones.generation:
            self._seen = zones.generation
            stamp = zones.stamp(self.id)
            if stamp != self._stamp:
                self._stamp = stamp
                self.memo.clear()

    def answer(self, data: bytes, tcp: bool, send: Send) -> bool:
        """datagrams.Answer"""
        try:
            return self.resolve(data, tcp, send, self._server.log)
        except Exception as error:  # a defect of ours: one question goes without an answer, everybody else has theirs
            self._server.report(error, f"a question of {self.id}")
            return False

    def resolve(self, data: bytes, tcp: bool, send: Send, note: Note | None) -> bool:
        """*note* is told how it went, once it is answered."""
        start = perf_counter() if note else 0.0
        question = message.parse(data)
        if isinstance(question, Malformed):
            self.counters.malformed += 1
            Asked(None, tcp, send, note, start).answered(self.id, question.why, question.reply)
            return question.reply is not None
        asked = Asked(question, tcp, send, note, start)
        answer = answers.find(self._server.zones, self.id, question)
        if answer is None:
            self._forward(asked, question, data)
            return True
        self.counters.local += 1
        room = MAX_TCP if tcp else question.room
        self._turn += 1
        reply = answer.reply(question, self._turn, room)
        asked.answered(self.id, answer.source, reply)
        if answer.lasting and not tcp and not note and answer.turns <= TURNS:
            if answer.turns == 1:
                self.memo.keep(data[2:], reply[2:])
            else:
                replies = [answer.reply(question, turn, room)[2:] for turn in range(answer.turns)]
                self.memo.keep(data[2:], Turns(replies, self._turn + 1))
        return True

    def _forward(self, asked: Asked, question: Question, data: bytes) -> None:
        server = self._server
        view = server.zones.view(self.id)
        assert view is not None  # else there was an answer
        source, reply = "cache", None
        known = server.forwarder.cached(self.id, view, question, tcp=asked.tcp)
        if known is not None:
            self.counters.cached += 1
            reply, seconds = _fitting(asked, question, known[0]), known[1]
            if seconds and not asked.tcp and not asked.note:
                self.memo.keep(data[2:], Passing(reply[2:], monotonic() + seconds))
        elif len(self.under_way) >= min(server.limits.forwarded, server.limits.forwarded_in_all - server.under_way):
            self.counters.refused += 1
            source, reply = "too many under way", message.reply(question, REFUSED)
        if reply is not None:
            asked.answered(self.id, source, reply)
            return
        self.counters.forwarded += 1
        task = server.loop.create_task(self._ask(asked, question, view))
        self.under_way.add(task)
        server.under_way += 1
        task.add_done_callback(self._asked)
        server.lane.wake = True  # asyncio has something to do

    async def _ask(self, asked: Asked, question: Question, view: View) -> None:
        try:
            reply, source = await self._server.forwarder.answer(self.id, view, question, tcp=asked.tcp)
        except Exception as error:
            self._server.report(error, f"forwarding for {self.id}")
            reply, source = message.reply(question, SERVFAIL), Source("failed", why=str(error))
        self.counters.failed += reply[3] & 15 == SERVFAIL
        task = asyncio.current_task()
        if task:
            self._asked(task)  # before its asker may ask again
        asked.answered(self.id, source.text, _fitting(asked, question, reply))

    def _asked(self, task: asyncio.Task[None]) -> None:
        if task in self.under_way:
            self.under_way.discard(task)
            self._server.under_way -= 1


def _fitting(asked: Asked, question: Question, reply: bytes) -> bytes:
    return reply if asked.tcp or len(reply) <= question.room else message.truncated(question)


LIMITS = Limits()


class Server:
    """All sandboxes.  Everything is called in the loop's thread."""

    def __init__(
        self,
        lane: Lane,
        loop: asyncio.AbstractEventLoop,
        forwarder: Forwarder,
        *,
        zones: Zones,
        limits: Limits = LIMITS,
    ) -> None:
        """*loop* selects by *lane*: ``asyncio.SelectorEventLoop(lane)``."""
        self.lane, self.loop, self.forwarder, self.zones, self.limits = lane, loop, forwarder, zones, limits
        self.connections = Connections(lane, loop, limits)
        self.under_way = 0
        """Questions that are forwarded, of all sandboxes."""
        self._served: dict[str, Served] = {}
        self._log: Note | None = None

    def serve(self, id: str, udp: socket.socket, tcp: socket.socket) -> None:
        """Answer what comes to these sockets, which are the server's from now on, in the place of a sandbox's last ones; as
        soon as its view is told."""
        before = self._served.pop(id, None)
        if before is not None:
            before.close()
            self.forwarder.forget(id)
        counters = before.counters if before else Counters()
        served = self._served[id] = Served(self, id, udp, tcp, counters)
        served.read(self.zones.view(id) is not None)

    def withdraw(self, id: str) -> None:
        """Close a sandbox's sockets; one that is not served is passed over."""
        served = self._served.pop(id, None)
        if served is not None:
            served.close()
            self.forwarder.forget(id)

    @property
    def served(self) -> frozenset[str]:
        return frozenset(self._served)

    def of(self, id: str) -> Served:
        """KeyError: it is not served."""
        return self._served[id]

    def sockets(self, id: str) -> tuple[socket.socket, socket.socket] | None:
        """What is served of a sandbox, for whoever shall have copies; still the server's."""
        served = self._served.get(id)
        return None if served is None else (served.datagrams.sock, served.streams.sock)

    def tell(
        self,
        views: Iterable[View] = (),
        names: Iterable[Names] = (),
        gone_views: Iterable[str] = (),
        gone_endpoints: Iterable[str] = (),
    ) -> None:
        """Zones.tell; every question that is read after it is answered by it."""
        told, gone = tuple(views), tuple(gone_views)
        self.zones.tell(told, names, gone, gone_endpoints)
        for id in {*gone, *(view.sandbox for view in told)} & self._served.keys():
            self._served[id].read(self.zones.view(id) is not None)

    async def query(self, id: str, data: bytes, *, tcp: bool = True) -> tuple[bytes | None, Entry]:
        """What the sandbox would be answered, from where and how fast; None: nothing.  KeyError: it is not served."""
        served = self.of(id)
        said: list[bytes] = []
        noted: asyncio.Future[Entry] = self.loop.create_future()
        served.resolve(data, tcp, said.append, noted.set_result)
        entry = await noted
        return (said[0] if said else None), entry

    def counters(self) -> dict[str, dict[str, int]]:
        return {id: served.counters.told() for id, served in self._served.items()}

    @property
    def log(self) -> Note | None:
        """Told of every question while it is set; then nothing is answered from memos."""
        return self._log

    @log.setter
    def log(self, note: Note | None) -> None:
        self._log = note
        for served in self._served.values():
            served.memo.clear()

    def report(self, error: Exception, what: str) -> None:
        self.loop.call_exception_handler({"message": f"name server: {what}", "exception": error})

    def close(self) -> None:
        for id in tuple(self._served):
            self.withdraw(id)
        self.connections.close()
