"""A process that runs in a container, the first or one that joined, watched until its end is known.

born here     a child of ours: its error pipe says whether the program runs, waitid(2) how it ended
taken over    the child of a supervisor that is gone: its pidfd says that it ended, and how where the kernel tells
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from .. import linux
from .context import Context
from .errors import StartError
from .spawn import Spawned

_NO_EVENTS = 0


class Watched:
    """*ended* is called once, with Docker's exit code, or None when nobody knows it."""

    def __init__(self, context: Context, ended: Callable[[int | None], None]) -> None:
        self.pid = self.start_time = 0
        self.pidfd = -1
        """Of the living process; -1 otherwise."""
        self._context, self._ended = context, ended
        self._child: Spawned | None = None
        self._error: StartError | None = None
        self._runs: Callable[[], None] = lambda: None
        self._failed: Callable[[StartError], None] = lambda _: None

    def follow(self, child: Spawned, runs: Callable[[], None], failed: Callable[[StartError], None]) -> None:
        """*child* is let go next: call *runs* when its program runs, or *failed* after it has ended without."""
        self._child, self._runs, self._failed = child, runs, failed
        self.pid, self.start_time, self.pidfd = child.pid, child.start_time, child.pidfd
        self._context.children[child.pid] = self._reaped
        self._context.loop.add(child.errors, lambda _: self._spoke())

    def _spoke(self) -> None:
        """The error pipe has ended or brings the reason."""
        child, self._child = self._child, None
        if child is None:
            return
        self._context.loop.discard(child.errors)
        self._error = child.outcome()
        os.close(child.errors)
        if self._error is None:
            self._runs()

    def _reaped(self, status: int) -> None:
        self._spoke()
        if self._error is not None:
            self._failed(self._error)  # how the child ended after that says nothing
        else:
            self._ended(linux.exit_code(status))

    def take_over(self, pid: int, start_time: int) -> bool:
        """Watch somebody else's child; False when it is gone."""
        self.pid, self.start_time = pid, start_time
        self.pidfd = linux.open_pidfd(pid, start_time)
        if self.pidfd >= 0:
            self._context.loop.add(self.pidfd, self._stranger_ended)
        return self.pidfd >= 0

    def _stranger_ended(self, events: int) -> None:
        status = linux.exit_status(self.pidfd, self.pid, self.start_time)
        if status is not None:
            self._ended(linux.exit_code(status))
        elif events & select.EPOLLHUP:
            self._ended(None)
        else:
            self._context.loop.modify(self.pidfd, _NO_EVENTS)  # between the zombie and the reap: HUP follows

    def told(self, pidfd: int) -> None:
        """*pidfd* is somebody's who held it all the time: it may know the end of a process that is gone."""
        status = linux.exit_status(pidfd, self.pid, self.start_time)
        if status is not None:
            self._ended(linux.exit_code(status))

    def signal(self, number: int) -> None:
        try:
            linux.send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass  # it has just ended; its exit is on the way

    def close(self) -> None:
        """Let go of a process that has ended."""
        if self.pidfd >= 0:
            self._context.loop.discard(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1
