"""From a question that is not ours to its answer, which there always is.

    cached    the cache alone, at once                                        (the hot path: everybody's thread)
    ask       cache -> is it our own, going round? -> limits -> the flight of this question --.
              `-- stale, when nobody knows better (RFC 8767) ---------------------------------|-- wait
    flight    one for all who ask the same: a race of upstreams; its answer goes to the cache <'
    race      best first; the next when the last is late, or has failed (race.py)

Whose upstreams: a sandbox's own (``--dns``), through sockets made in its namespace, or the host's.  Each set has its number in
the cache's keys, so nobody is told what another's servers say; a set that is replaced (the host's resolv.conf has changed, a
view has) takes its answers with it.

Nothing here fails but by SERVFAIL or REFUSED, no flight lasts longer than ``Limits.total`` seconds, which is less than the C
library waits, and askers that go away leave their flight to those who came later, and to the cache.  A question that reaches us
in the very case that we have sent it in has gone round (through a resolver on the host that asks a container, say), and is
answered SERVFAIL at once; one that went round in lower case finds its own flight, and ends with it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..netlib.naming import ADDRESS, View
from . import message
from .asking import Asking, letters
from .cache import CAPACITY, Cache, Entry, Key, clock
from .message import MAX_TCP, NXDOMAIN, REFUSED, SERVFAIL, Question
from .race import Race, Result
from .reply import Reply
from .upstream import PORT, TELLING, MakeSocket, Readers, Sent, Upstream, make_here

FAILURE: Final = 1.0
"""Seconds for which a failure is kept, so that who asks again and again does not ask for it (RFC 9520 3.2: at least one)."""
STALE_TTL: Final = 30
"""What a stale answer says of its time (RFC 8767 4)."""
STALE_AFTER: Final = 1.8
"""Seconds that an asker waits for a fresh one (RFC 8767 5, client response timer)."""
STALE_RETRY: Final = 30.0
"""Seconds until a failed refresh is tried again (RFC 8767 5, failure recheck timer)."""


@dataclass(frozen=True)
class Limits:
    total: float = 4.5
    """Seconds until SERVFAIL: res_init(3) waits for 5."""
    again: float = 1.0
    """Seconds until a silent server is asked a second time, and twice that a third."""
    askers: int = 1024
    """Of one sandbox, under way (Docker's number, of a container); one more is REFUSED."""
    flights: int = 2048
    """Different questions under way: each has a socket, or two."""


LIMITS = Limits()


class Source(NamedTuple):
    """From where an answer came."""

    kind: str
    """cache, stale, upstream, shared (somebody else had asked already), failed, refused, loop, nobody (there is no upstream)."""
    upstream: str = ""
    """Its address."""
    seconds: float = 0.0
    """That the asker waited."""
    hedged: bool = False
    """Another upstream was asked as well."""
    why: str = ""
    """Of a failure: what the upstreams' were."""

    @property
    def text(self) -> str:
        """For people: upstream 192.0.2.1, hedged; failed: 192.0.2.1 is silent."""
        words = f"{self.kind} {self.upstream}".rstrip() + (", hedged" if self.hedged else "")
        return f"{words}: {self.why}" if self.why else words


class Upstreams:
    """Servers that are asked alike, and whose answers are each other's."""

    _numbers = itertools.count(1)

    def __init__(self, addresses: tuple[str, ...], servers: Sequence[Upstream]) -> None:
        self.addresses, self.servers = addresses, servers
        self.number = next(self._numbers)

    def close(self) -> None:
        for server in self.servers:
            server.close()


class Flight:
    """One question that is under way for all who ask it."""

    __slots__ = ("result", "task", "upstreams", "waiting")

    def __init__(self, upstreams: int) -> None:
        self.upstreams = upstreams
        self.result = Result()
        self.waiting: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[None]

    async def landed(self, seconds: float | None) -> None:
        """Wait until it has, or for so long; whoever is cancelled is cancelled alone."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self.waiting.append(waiter)
        timer = None if seconds is None else loop.call_later(seconds, _settle, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Forwarder:
    """Belongs to one event loop; ``cached`` may be called beside it, in its thread."""

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        inside: Callable[[str, int, int], socket.socket] | None = None,
        left: Callable[[str], object] = lambda sandbox: None,
        make_socket: MakeSocket = make_here,
        port: int = PORT,
        capacity: int = CAPACITY,
        serve_stale: float = 0.0,
        limits: Limits = LIMITS,
        wake: Callable[[], object] = lambda: None,
        readers: Readers | None = None,
        clock: Callable[[], float] = clock,
    ) -> None:
        """*servers*: the host's, until ``use`` names others; *make_socket* makes sockets to them.
        *inside(sandbox, family, type)* makes one in a sandbox's namespace; without it nobody has servers of their own;
        *left(sandbox)* is called when none more will be made there.
        *serve_stale*: seconds for which an answer that has ended may be told while nobody has another (0: not at all).
        *wake* is called when ``cached`` has given the loop something to do; *readers* waits for sockets in its place."""
        self.cache = Cache(capacity, stale=serve_stale, clock=clock)
        self.counters: Counter[str] = Counter()
        """Answers by ``Source.kind``, and *hedged*, *prefetched*, *tcp*."""
        self._inside, self._left, self._make_socket, self._port, self._limits = inside, left, make_socket, port, limits
        self._wake, self._clock, self._readers = wake, clock, readers
        self._sent = Sent()
        self._flights: dict[Key, Flight] = {}
        self._apart: set[Flight] = set()
        self._askers: Counter[str] = Counter()
        self._own: dict[str, Upstreams] = {}
        self.host = Upstreams((), ())
        """Whom the host asks."""
        self.use(servers)

    # -- whom to ask ---------------------------------------------------------------------------------------------------

    def use(self, servers: Sequence[str]) -> None:
        """The host's servers are these from now on.  The same again changes nothing."""
        if tuple(servers) != self.host.addresses:
            self._leave(self.host)
            self.host = self._set(tuple(servers), self._make_socket)

    def forget(self, sandbox: str) -> None:
        """A sandbox is gone, or in another namespace: its own servers are, and what they said."""
        if own := self._own.pop(sandbox, None):
            for flight in (*self._flights.values(), *self._apart):
                if flight.upstreams == own.number:
                    flight.task.cancel()  # its sockets would hold the namespace
            self._leave(own)
        self._left(sandbox)

    def upstreams(self, sandbox: str, view: View) -> Upstreams | None:
        """Whom *sandbox* asks; None: nobody."""
        if not view.upstreams:
            return self.host if view.outside and self.host.servers else None
        own = self._own.get(sandbox)
        if own is None or own.addresses != view.upstreams:
            if own is not None:
                self.forget(sandbox)
            inside = self._inside
            if inside is None:
                return None
            own = self._own[sandbox] = self._set(view.upstreams, lambda family, type: inside(sandbox, family, type))
        return own if own.servers else None

    def _set(self, addresses: tuple[str, ...], make_socket: MakeSocket) -> Upstreams:
        """A sandbox's 127.0.0.11 is ourselves; the host's may be another engine's, in whose container we are."""
        ours = make_socket is not self._make_socket
        servers = [
            Upstream(address, self._port, make_socket=make_socket, sent=self._sent, readers=self._readers)
            for address in dict.fromkeys(addresses)
            if not (ours and address in (ADDRESS, f"::ffff:{ADDRESS}"))
        ]
        return Upstreams(addresses, servers)

    def _leave(self, upstreams: Upstreams) -> None:
        upstreams.close()
        self.cache.forget(upstreams.number)

    # -- what is known -------------------------------------------------------------------------------------------------

    def cached(self, sandbox: str, view: View, question: Question, *, tcp: bool = False) -> tuple[bytes, float] | None:
        """The answer, when it is at hand and has not ended, and the seconds until its TTLs are other ones."""
        upstreams = self.upstreams(sandbox, view)
        if upstreams is None or not question.recursion:
            return None
        name, kind, klass = question.name, question.type, question.klass
        entry = self.cache.get(
            (upstreams.number, name, kind, klass, question.dnssec_ok, question.checking_disabled)
        )  # fmt: skip
        if entry is None or (question.options and Asking.of(question).options):
            return None
        now = self._clock()
        if now >= entry.ends:
            return None
        if self.cache.soon(entry):
            self._prefetch(entry, upstreams, question)
        self.counters["cache"] += 1
        room = MAX_TCP if tcp else question.room
        age = int(now - entry.stored)
        said = entry.reply.say(question, room=room, age=age, shared=True)
        return said, min(entry.stored + age + 1, entry.ends) - now

    def _prefetch(self, entry: Entry, upstreams: Upstreams, question: Question) -> None:
        assert entry.key is not None
        if entry.key not in self._flights and len(self._flights) < self._limits.flights:
            entry.refreshing = True
            self.counters["prefetched"] += 1
            self._take_off(entry.key, upstreams, Asking.of(question))
            self._wake()

    # -- asking --------------------------------------------------------------------------------------------------------

    async def answer(self, sandbox: str, view: View, question: Question, *, tcp: bool = False) -> tuple[bytes, Source]:
        """The answer, which there always is, and from where it came.  Raises nothing but CancelledError."""
        start = time.monotonic()
        if (known := self.cached(sandbox, view, question, tcp=tcp)) is not None:
            return known[0], Source("cache", seconds=time.monotonic() - start)
        reply, source = await self._find(sandbox, view, question, tcp)
        self.counters[source.kind] += 1
        self.counters["hedged"] += source.hedged
        return reply, source._replace(seconds=time.monotonic() - start)

    async def _find(self, sandbox: str, view: View, question: Question, tcp: bool) -> tuple[bytes, Source]:
        upstreams = self.upstreams(sandbox, view)
        if upstreams is None:
            code = SERVFAIL if view.outside or view.upstreams else NXDOMAIN
            return message.reply(question, code), Source("nobody", why="there is no server to ask")
        if question.wire in self._sent and letters(question.wire) >= TELLING:
            return message.reply(question, SERVFAIL), Source("loop", why="our own question came back")
        asking = Asking.of(question)
        key = self._key(upstreams, question) if asking.shared else None
        flight = self._flights.get(key) if key else None
        joined = flight is not None
        if self._askers[sandbox] >= self._limits.askers or (
            flight is None and len(self._flights) + len(self._apart) >= self._limits.flights
        ):
            return message.reply(question, REFUSED), Source("refused", why="too many questions are under way")
        room = MAX_TCP if tcp else question.room
        stale = self.cache.peek(key) if key else None
        old = stale.reply if stale else None
        if stale is not None and old is not None and self._clock() < stale.retry:
            return self._stale(old, question, room)
        flight = flight or self._take_off(key, upstreams, asking)
        self._askers[sandbox] += 1
        try:
            await flight.landed(None if old is None else STALE_AFTER)
        finally:
            self._askers[sandbox] -= 1
            if not self._askers[sandbox]:
                del self._askers[sandbox]
        result = flight.result
        why = "; ".join(result.why)
        if old is not None and (result.reply is None or not result.reply.answers):
            return self._stale(old, question, room)
        if result.reply is None:
            why = why or "no answer in time"
            return message.reply(question, SERVFAIL), Source("failed", hedged=result.hedged, why=why)
        reply = result.reply.say(question, room=room, shared=joined)
        return reply, Source("shared" if joined else "upstream", result.upstream, hedged=result.hedged, why=why)

    @staticmethod
    def _stale(reply: Reply, question: Question, room: int) -> tuple[bytes, Source]:
        return reply.say(question, room=room, ttl=STALE_TTL, shared=True), Source("stale")

    @staticmethod
    def _key(upstreams: Upstreams, question: Question) -> Key:
        name, kind, klass = question.name, question.type, question.klass
        return upstreams.number, name, kind, klass, question.dnssec_ok, question.checking_disabled

    # -- a flight ------------------------------------------------------------------------------------------------------

    def _take_off(self, key: Key | None, upstreams: Upstreams, asking: Asking) -> Flight:
        flight = Flight(upstreams.number)
        flight.task = asyncio.get_running_loop().create_task(self._fly(flight, key, upstreams, asking))
        if key is None:
            self._apart.add(flight)
        else:
            self._flights[key] = flight
        return flight

    async def _fly(self, flight: Flight, key: Key | None, upstreams: Upstreams, asking: Asking) -> None:
        limits = self._limits
        try:
            await Race(upstreams.servers, asking, flight.result, again=limits.again, total=limits.total).run()
        finally:
            if key is None:
                self._apart.discard(flight)
            else:
                self._flights.pop(key, None)
                self._keep(key, flight.result.reply)
            for waiter in flight.waiting:
                _settle(waiter)

    def _keep(self, key: Key, reply: Reply | None) -> None:
        """What a flight has brought.  An answer that was there already outlives its failure."""
        known = self.cache.peek(key)
        if reply is not None and reply.answers:
            self.cache.put(key, reply)
        elif known is None:
            self.cache.put(key, reply or Reply(SERVFAIL), FAILURE)
        else:
            known.retry = self._clock() + STALE_RETRY

    def close(self) -> None:
        for flight in (*self._flights.values(), *self._apart):
            flight.task.cancel()
        for sandbox in tuple(self._own):
            self.forget(sandbox)
        self.host.close()
