"""One question, several servers: who is asked when, until one has an answer.

    round 1   best first; the next one when an answer takes longer than the best one's usually do (``Health.patience``), or the
              last one has failed
    round 2   those that have said nothing yet, a second later: a datagram may be lost
    round 3   the same, two seconds later
    then      wait for them until time is over

A server whose rest is over is asked beside the first one, once: that is how it is found to be back.  Whoever has lost is not
waited for, and is known to be slow; an error is an answer only where nobody has another.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .asking import Asking
from .health import UNKNOWN, ranked
from .reply import Reply
from .upstream import Failed, Upstream

ROUNDS = 3


@dataclass
class Result:
    reply: Reply | None = None
    """None: nobody said anything that could be used."""
    upstream: str = ""
    """The address of who said it."""
    hedged: bool = False
    """Somebody else was asked as well, before there was an answer."""
    why: list[str] = field(default_factory=list[str])
    """What went wrong, with whom."""


class Race:
    def __init__(
        self, servers: Sequence[Upstream], asking: Asking, result: Result, *, again: float, total: float
    ) -> None:
        """*again*: seconds until a silent server is asked once more; *total*: until nobody waits any longer."""
        self._order = ranked(servers)
        self._asking, self._again, self._result = asking, again, result
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + total
        self._under_way: dict[asyncio.Task[Reply], Upstream] = {}
        self._done: list[asyncio.Task[Reply]] = []
        """Of those, the ones that were not looked at yet."""
        self._waiter: asyncio.Future[None] | None = None
        self._since: dict[Upstream, float] = {}
        """Since when each is silent."""

    async def run(self) -> None:
        """Until there is an answer, nobody is left who could have one, or time is over."""
        try:
            await self._run()
        finally:
            for server, since in self._since.items():
                if server.address != self._result.upstream:
                    server.health.late(self._loop.time() - since)
            if self._under_way:
                for task in self._under_way:
                    task.cancel()
                await asyncio.wait(self._under_way)

    async def _run(self) -> None:
        asked = self._order
        if len(asked) > 1:
            probed = self._probed()
            asked = [server for server in asked if server not in probed]
        patience = min((server.health.patience for server in self._order if not server.health.resting), default=UNKNOWN)
        for number in range(ROUNDS):
            for server in asked[:-1]:
                self._start(server)
                if await self._heard(patience):
                    return
            if asked:
                self._start(asked[-1])
            if await self._heard(self._again * 2**number, through=True):
                return
            asked = [server for server in self._order if server in self._since]
        await self._heard(math.inf, through=True)

    def _probed(self) -> list[Upstream]:
        """Those that are asked beside the best one."""
        found = list[Upstream]()
        for server in self._order[1:]:
            server.health.fade()
            if server.health.probe():
                self._start(server)
                found.append(server)
        return found

    def _start(self, server: Upstream) -> None:
        if self._under_way:
            self._result.hedged = True
        task = self._loop.create_task(server.ask(self._asking))
        self._under_way[task] = server
        self._since.setdefault(server, self._loop.time())
        task.add_done_callback(self._came)

    def _came(self, task: asyncio.Task[Reply]) -> None:
        self._done.append(task)
        self._elapsed()

    def _elapsed(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _heard(self, seconds: float, *, through: bool = False) -> bool:
        """Wait for an answer for so long, *through* errors of some as long as others are under way."""
        end = min(self._loop.time() + seconds, self._end)
        while self._under_way:
            if not self._done:
                if self._loop.time() >= end:
                    return False
                self._waiter = self._loop.create_future()
                timer = self._loop.call_at(end, self._elapsed)
                try:
                    await self._waiter
                finally:
                    timer.cancel()
            done, self._done = self._done, []
            answers = [task for task in done if self._settled(task)]
            if answers or (done and not through):
                return bool(answers)
        return False

    def _settled(self, task: asyncio.Task[Reply]) -> bool:
        """Note what a server said; True when it is an answer.  Else it is the best there is so far, perhaps."""
        server, result = self._under_way.pop(task), self._result
        self._since.pop(server, None)
        try:
            reply = task.result()
        except Failed as error:
            if error.away:
                server.health.failed()
            result.why.append(f"{server.address}: {error}")
            return False
        if reply.answers and (result.reply is None or not result.reply.answers):
            result.reply, result.upstream = reply, server.address
            return True
        if result.reply is None or (reply.truncated and not (result.reply.truncated or result.reply.answers)):
            result.reply, result.upstream = reply, server.address
        if not reply.answers:
            result.why.append(f"{server.address}: {'truncated' if reply.truncated else f'code {reply.code}'}")
        return reply.answers
