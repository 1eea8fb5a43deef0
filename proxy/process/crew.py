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
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from ...netlib.errors import Unavailable
from ...netlib.ipc import Message
from .peer import Peer, Reply

CONTROL_FD = 3
_TIMEOUT = 5.0
_PAUSE = 1.0
"""Seconds until a member that has died is started again."""


def spawn_controlled(*options: str) -> tuple[int, socket.socket]:
    """(pid, our end) of a forwarder that serves one socket pair.  posix_spawn: nothing is copied or inherited."""
    ours, its = socket.socketpair()
    with its:
        try:
            # a dup2 onto the same number would keep close-on-exec
            source = its.fileno() if its.fileno() != CONTROL_FD else os.dup(its.fileno())
            argv = [
                sys.executable,
                "-I",
                "-m",
                "pynet.proxy.process.forwarder",
                "--control-fd",
                str(CONTROL_FD),
                *options,
            ]
            pid = os.posix_spawn(
                sys.executable,
                argv,
                dict(os.environ),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, source, CONTROL_FD),
                ],
                setsid=True,
                setsigmask=[],
            )
            if source != its.fileno():
                os.close(source)
        except OSError:
            ours.close()
            raise
    return pid, ours


class _Member:
    def __init__(self, crew: Crew, options: list[str]) -> None:
        self._crew = crew
        self.pid, sock = spawn_controlled("--graceful", *options)
        self.pidfd = os.pidfd_open(self.pid)
        self.peer = Peer(crew.loop, sock)
        crew.loop.add_reader(self.pidfd, self._on_exit)

    def kill(self) -> None:
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def _on_exit(self) -> None:
        self._crew.loop.remove_reader(self.pidfd)
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        self.peer.close()
        self._crew.exited(self)


class Crew:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        size: int,
        options: list[str],
        everything: Callable[[], tuple[Message, list[int]]],
    ) -> None:
        """*size* members beside this process; *everything*: the ``listen`` that tells a new one what is served."""
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
            message, fds = self._everything()
            self._background(self._ask(member, message, fds))

    def _again(self) -> None:
        if self._size and self._timer is None:
            self._timer = self.loop.call_later(_PAUSE, self.start)

    def exited(self, member: _Member) -> None:
        self.members.remove(member)
        if self._all_gone is not None and not self.members and not self._all_gone.done():
            self._all_gone.set_result(None)
        self._again()

    def _background(self, what: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, member: _Member, message: Message, fds: list[int]) -> Message:
        """The answer, or an empty one from a member that has died or has to."""
        try:
            # the descriptors are taken now, before anybody closes them
            reply: Reply = await asyncio.wait_for(member.peer.request(message, fds), _TIMEOUT)
        except Unavailable:
            return {}
        except TimeoutError:
            member.kill()
            return {}
        for fd in reply[1]:
            os.close(fd)
        if reply[0].get("ok") is not True:
            print(f"pynet forwarder: member {member.pid}: {reply[0].get('error')}", file=sys.stderr, flush=True)
            return {}
        return reply[0]

    def spread(self, message: Message, fds: list[int]) -> asyncio.Task[list[Message]] | None:
        """Ask every member; the answers of those that gave one.  None when there are no members."""
        if not self.members:
            return None
        copies = [os.dup(fd) for fd in fds]
        return self._background(self._spread(list(self.members), message, copies))

    async def _spread(self, members: list[_Member], message: Message, fds: list[int]) -> list[Message]:
        try:
            replies = await asyncio.gather(*(self._ask(member, message, fds) for member in members))
        finally:
            for fd in fds:
                os.close(fd)
        return [reply for reply in replies if reply]

    def retire(self, drain: float) -> None:
        """No member is started any more; those that are give their listeners up and end as this process does."""
        self._size = 0
        if self._timer is not None:
            self._timer.cancel()
        self.spread({"op": "shutdown", "drain": drain}, [])

    async def close(self) -> None:
        """Make the members reset their connections and end, and wait for that."""
        self._size = 0
        if self._timer is not None:
            self._timer.cancel()
        if not self.members:
            return
        self._all_gone = self.loop.create_future()
        self.spread({"op": "shutdown"}, [])
        await asyncio.wait([self._all_gone], timeout=_TIMEOUT)
