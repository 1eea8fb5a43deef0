"""One question, several servers: who is asked when, until one has an answer.

    round 1   best first; the next one when an answer takes longer than the best one's usually do (``Health.patience``), or the
              last one has failed
    round 2   those that have said nothing yet, a second later: a datagram may be lost
    round 3   the same, two seconds later
    then      wait for them, as long as whoever asks does

A server whose rest is over is asked beside the first one, once: that is how it is found to be back.  Whoever has lost is not
waited for, and is known to be slow; an error is an answer only where nobody has another.
"""

from __future__ import annotations

import asyncio
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
    def __init__(self, servers: Sequence[Upstream], asking: Asking, again: float, result: Result) -> None:
        """*again*: seconds until a silent server is asked once more.  *result* has what is known, also when time is over."""
        self._order = ranked(servers)
        self._asking, self._again, self._result = asking, again, result
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[asyncio.Task[Reply], Upstream] = {}
        self._since: dict[Upstream, float] = {}
        """Since when each is silent."""

    async def run(self) -> None:
        """Until there is an answer, or nobody is left who could have one; cancelled when time is over."""
        try:
            await self._run()
        finally:
            for task in self._under_way:
                task.cancel()
            for server, since in self._since.items():
                if server.address != self._result.upstream:
                    server.health.late(self._loop.time() - since)
            if self._under_way:
                await asyncio.wait(self._under_way)

    async def _run(self) -> None:
        probed = self._probed()
        patience = min((server.health.patience for server in self._order if not server.health.resting), default=UNKNOWN)
        asked = [server for server in self._order if server not in probed]
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
        await self._heard(None, through=True)

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
        self._under_way[self._loop.create_task(server.ask(self._asking))] = server
        self._since.setdefault(server, self._loop.time())

    async def _heard(self, seconds: float | None, *, through: bool = False) -> bool:
        """Wait for an answer for so long (None: without an end), *through* errors of some as long as others are under way."""
        end = None if seconds is None else self._loop.time() + seconds
        while self._under_way:
            left = None if end is None else max(end - self._loop.time(), 0.0)
            done, _ = await asyncio.wait(self._under_way, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return False
            answers = [task for task in done if self._settled(task)]
            if answers or not through:
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
