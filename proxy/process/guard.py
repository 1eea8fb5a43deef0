"""Starting a process again when it dies.

    watch(pid, argv) -> watching -- pidfd readable --> start argv -> child -- exits, unasked for --> pause, start

The process that asks is known by a pidfd, so a reused number can not be taken for it.  The one that is started is a
child until it asks for itself; when several survivors start one, a lock that it takes decides, and the losers exit: so
a child's exit is followed by a pause, in which the winner's own ``watch`` ends the matter.  Pauses double up to
``_LONGEST``, so a program that can not start costs little.

How it is started: start.py.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from typing import Any

from ...netlib.errors import InvalidArgument, NotFound
from ..start import Child, start

_FIRST, _LONGEST = 0.25, 10.0
MAX_WATCHES = 16


def parse_argv(value: Any) -> list[str]:
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= 256
        or not all(isinstance(word, str) and "\0" not in word for word in value)
        or not value[0].startswith("/")
    ):
        raise InvalidArgument("start must be a list of strings that begins with an absolute path")
    return value


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot: proc_pid_stat(5), field 22."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[19])


class _Watch:
    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.pidfd = -1
        self.timer: asyncio.TimerHandle | None = None
        self.pause = _FIRST


class Guard:
    def __init__(self, loop: asyncio.AbstractEventLoop, nofile: tuple[int, int] | None = None) -> None:
        """*nofile*: the limit of open files that what is started gets back; this process has raised its own."""
        self._loop, self._nofile = loop, nofile
        self._watches: dict[tuple[str, ...], _Watch] = {}
        self._children: set[Child] = set()
        self._closed = False

    def watch(self, pid: int, argv: list[str], started: int | None = None) -> None:
        """Start *argv* when *pid* dies.  A second call with the same *argv* replaces the first."""
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            raise NotFound(f"no process {pid} to watch: {error}") from error
        try:
            if started is not None and start_time(pid) != started:
                raise NotFound(f"process {pid} is another one than was meant")
        except BaseException:
            os.close(pidfd)
            raise
        key = tuple(argv)
        if key not in self._watches and len(self._watches) >= MAX_WATCHES:
            os.close(pidfd)
            raise InvalidArgument(f"no more than {MAX_WATCHES} processes can be watched")
        self._forget(key)
        watch = self._watches[key] = _Watch(argv)
        watch.pidfd = pidfd
        self._loop.add_reader(pidfd, self._on_death, key, watch)

    def unwatch(self, argv: list[str] | None = None) -> None:
        """The process said goodbye.  None: all of them.  What is not watched is no error."""
        for key in list(self._watches) if argv is None else [tuple(argv)]:
            self._forget(key)

    def close(self) -> None:
        self._closed = True
        self.unwatch()
        for child in self._children:
            child.forget()
        self._children.clear()

    def _forget(self, key: tuple[str, ...]) -> None:
        watch = self._watches.pop(key, None)
        if watch is None:
            return
        if watch.pidfd >= 0:
            self._loop.remove_reader(watch.pidfd)
            os.close(watch.pidfd)
        if watch.timer is not None:
            watch.timer.cancel()

    def _on_death(self, key: tuple[str, ...], watch: _Watch) -> None:
        self._loop.remove_reader(watch.pidfd)
        os.close(watch.pidfd)
        watch.pidfd = -1
        self._start(key, watch)

    def _start(self, key: tuple[str, ...], watch: _Watch) -> None:
        watch.timer = None
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            if self._nofile is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._nofile)
            process = start(watch.argv)
        except OSError as error:
            print(f"pynet forwarder: {watch.argv[0]} could not be started: {error}", file=sys.stderr, flush=True)
            self._again(key, watch)
            return
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, raised)

        def exited() -> None:
            self._children.discard(child)
            if self._watches.get(key) is watch:
                self._again(key, watch)

        try:
            child = Child(self._loop, process, exited)
        except OSError as error:  # no descriptor is left: another try, when there may be
            print(f"pynet forwarder: process {process.pid} can not be followed: {error}", file=sys.stderr, flush=True)
            self._again(key, watch)
            return
        self._children.add(child)

    def _again(self, key: tuple[str, ...], watch: _Watch) -> None:
        if not self._closed:
            watch.timer = self._loop.call_later(watch.pause, self._start, key, watch)
            watch.pause = min(watch.pause * 2, _LONGEST)
