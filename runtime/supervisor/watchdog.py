"""The daemon's watchdog: a command that is started again when the process that asked for it dies.

The process asks at each of its starts.  One that dies before it has asked is tried again ever more rarely.
"""

from __future__ import annotations

import os
import signal
import sys

from ...netlib.errors import NotFound
from .loop import Loop, Timer

FIRST, LONGEST = 0.2, 30.0
"""Seconds between tries; the first follows at once."""


class Watchdog:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pidfd = -1
        self._argv: list[str] = []
        self._env: dict[str, str] | None = None
        self._delay = 0.0
        self._timer: Timer | None = None

    def watch(self, pid: int, argv: list[str], env: dict[str, str] | None) -> None:
        """Start *argv* when *pid* dies, in place of what was said before; an empty *argv* ends the watch."""
        self._forget()
        self._delay = 0.0
        self._argv, self._env = argv, env
        if argv:
            try:
                self._follow(pid)
            except OSError as error:
                raise NotFound(f"no process {pid} to watch: {error.strerror}") from None

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pidfd >= 0:
            self._loop.discard(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _follow(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)
        self._loop.add(self._pidfd, lambda _: self._died())

    def _died(self) -> None:
        self._forget()
        self._timer = self._loop.later(self._delay, self._start)
        self._delay = min(max(self._delay * 2, FIRST), LONGEST)

    def _start(self) -> None:
        self._timer = None
        argv = self._argv
        try:
            pid = os.posix_spawn(
                argv[0],
                argv,
                dict(os.environ) if self._env is None else self._env,
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE],
            )
        except OSError as error:
            print(f"{argv[0]} can not be started again: {error}", file=sys.stderr, flush=True)
            self._died()  # no memory, or a file that is being replaced: there is another try
            return
        try:
            self._follow(pid)
        except OSError as error:  # no descriptor is left: it asks for itself when it is up
            print(f"process {pid} can not be watched: {error}", file=sys.stderr, flush=True)
