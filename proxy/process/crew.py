"""Several forwarders on the same listening sockets, for when one core is not enough.

    control --> first (this process) --- listen, retarget, withdraw ---> member 2 ... N
                 all ports                  + the same sockets            tcp and sctp ports

The first one has the control socket, UDP (a client's datagrams must all meet the same flow) and the say; it starts the
others as forwarders whose only control connection is a socket pair to it, and repeats to them what it has done itself.
What a member refuses is no error: the port is served by those that took it.  An answer waits until every member has
answered, so a port that is withdrawn is closed in all of them; a member that does not answer within ``_TIMEOUT`` is killed.

A member that dies is started again, after a pause, and told everything.  When the first one dies the members give up
their listeners at once, so that whoever comes next gets the clients, and go on until their live connections have ended.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from ...netlib.control.questions import Frame, result
from ...netlib.errors import PynetError, Unavailable
from ...netlib.ipc import Message
from ..start import Child, command, start
from .peer import Peer

_TIMEOUT = 5.0
_PAUSE = 1.0
"""Seconds until a member that has died is started again."""

Frames = Callable[[], Iterable[Frame]]
"""Made anew for each member, each frame when it is to be sent."""
Followed = asyncio.Task[list[Message]] | None
"""The answers of the members, when all have given theirs or died; None where there are no members."""


def start_controlled(
    loop: asyncio.AbstractEventLoop, options: Iterable[str], on_exit: Callable[[], None]
) -> tuple[Child, Peer]:
    """A forwarder that serves one socket pair, and the connection to it."""
    ours, its = socket.socketpair()
    with its:
        try:
            argv = command("pynet.proxy.process.forwarder", "--control-fd", str(its.fileno()), *options)
            child = Child(loop, start(argv, [its.fileno()]), on_exit)
        except BaseException:
            ours.close()
            raise
    return child, Peer(loop, ours)


class _Member:
    def __init__(self, crew: Crew, options: list[str]) -> None:
        self._crew = crew
        self.child, self.peer = start_controlled(crew.loop, ["--graceful", *options], self._on_exit)
        self.turn = asyncio.Lock()
        """Held while it follows: changes come one after the other, in the order in which they were made."""

    def _on_exit(self) -> None:
        self.peer.close()
        self._crew.exited(self)


class Crew:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        size: int,
        options: list[str],
        everything: Frames,
    ) -> None:
        """*size* members beside this process; *everything*: what tells a new one what is served."""
        self.loop, self._size, self._options, self._everything = loop, size, options, everything
        self.members: list[_Member] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Bring the crew up to its size."""
        self._timer = None
        while len(self.members) < self._size:
            try:
                member = _Member(self, self._options)
            except OSError as error:
                print(f"pynet forwarder: no further one could be started: {error}", file=sys.stderr, flush=True)
                self._again()
                return
            self.members.append(member)
            self._background(self._follow(member, self._everything))

    def _again(self) -> None:
        if self._size and self._timer is None:
            self._timer = self.loop.call_later(_PAUSE, self.start)

    def exited(self, member: _Member) -> None:
        self.members.remove(member)
        if self._all_gone is not None and not self.members and not self._all_gone.done():
            self._all_gone.set_result(None)
        self._again()

    def _background(self, what: Coroutine[Any, Any, list[Message]]) -> asyncio.Task[list[Message]]:
        task = self.loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, member: _Member, frames: Frames) -> list[Message]:
        """Its answers; none from where it refused, has died, or has to."""
        answers: list[Message] = []
        for message, fds in frames():
            try:
                answers.append(result(await asyncio.wait_for(member.peer.request(message, fds), _TIMEOUT))[0])
            except Unavailable:
                break
            except TimeoutError:
                member.child.kill()
                break
            except PynetError as error:
                print(f"pynet forwarder: member {member.child.pid}: {error}", file=sys.stderr, flush=True)
        return answers

    async def _follow(self, member: _Member, frames: Frames) -> list[Message]:
        async with member.turn:
            return await self._ask(member, frames)

    async def _all(
        self, what: Callable[[_Member, Frames], Coroutine[Any, Any, list[Message]]], frames: Frames
    ) -> list[Message]:
        answers = await asyncio.gather(*(what(member, frames) for member in self.members))
        return [answer for of_member in answers for answer in of_member]

    def ask(self, frames: Frames) -> Followed:
        """Ask every member something."""
        return self._background(self._all(self._ask, frames)) if self.members else None

    def spread(self, frames: Frames) -> Followed:
        """Have every member do what was done here, after what it was told before."""
        return self._background(self._all(self._follow, frames)) if self.members else None

    def retire(self, drain: float) -> None:
        """No member is started any more; those that are give their listeners up and end as this process does."""
        self._size = 0
        if self._timer is not None:
            self._timer.cancel()
        self.spread(lambda: [({"op": "shutdown", "drain": drain}, [])])

    async def close(self) -> None:
        """Make the members reset their connections and end, and wait for that."""
        self._size = 0
        if self._timer is not None:
            self._timer.cancel()
        if not self.members:
            return
        self._all_gone = self.loop.create_future()
        self.spread(lambda: [({"op": "shutdown"}, [])])
        await asyncio.wait([self._all_gone], timeout=_TIMEOUT)
