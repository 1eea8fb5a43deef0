"""The processes that joined a container (docker exec), in the supervisor.

    join --> running --> ended: event "exec-exited"
      '--> it can not start: the reply says why, there is no event

Their standard streams are pipes, or a terminal of the container's own devpts, whose other ends go to the client with
the reply: they are not logged, and live as long as the client keeps them.  The pids are part of the container's state, so
that a supervisor that takes over still reports their ends.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ...netlib.errors import Conflict, NotFound
from .. import linux
from . import spawn

if TYPE_CHECKING:
    from .container import Container

Reply = Callable[[spawn.StartError | None, int, list[int]], None]
"""(error, pid, the client's descriptors); the descriptors stay ours."""
UNKNOWN_EXIT = 255


class Exec:
    def __init__(self, id: str, pid: int, start_time: int, pidfd: int) -> None:
        self.id, self.pid, self.start_time, self.pidfd = id, pid, start_time, pidfd
        self.master = -1
        self.spawned: spawn.Spawned | None = None
        self.reply: Reply | None = None
        self.client: list[int] = []
        self.failed = False


class Execs:
    """Those of one container."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._running: dict[str, Exec] = {}

    @property
    def pids(self) -> list[int]:
        return [item.pid for item in self._running.values()]

    def master(self, id: str) -> int:
        if id not in self._running:
            raise NotFound(f"No such exec instance: {id}")
        return self._running[id].master

    def start(self, id: str, process: dict[str, Any], reply: Reply) -> None:
        container = self._container
        container.need_alive()
        if container.state["status"] == "paused":
            raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
        if id in self._running:
            raise Conflict(f"exec instance {id} is running already")
        theirs: list[int] = []
        ours: list[int] = []
        cgroup = master = -1
        group = container.group
        try:
            if process.get("tty"):
                master = spawn.container_terminal(container.pidfd, container.state["pid"])
                ours, theirs = [master], [spawn.open_terminal(master)] * 3
            else:
                theirs, ours = _pipes(bool(process.get("stdin")))
            cgroup = group.open_v2() if group is not None else -1
            child = spawn.join(
                container.context.host,
                container.spec,
                process,
                theirs,
                target=container.pidfd,
                cgroup=cgroup,
                cgroup_tasks=group.tasks if group is not None else [],
            )
        except BaseException as error:
            _close(ours)
            if isinstance(error, OSError):
                raise spawn.StartError(f"{error.filename or 'exec'}: {error.strerror}") from error
            raise
        finally:
            _close([*set(theirs), cgroup])
        item = Exec(id, child.pid, child.start_time, child.pidfd)
        item.master, item.spawned, item.reply, item.client = master, child, reply, ours
        self._running[id] = item
        container.context.children[child.pid] = lambda status: self._exited(item, linux.exit_code(status))
        self._save()
        container.context.loop.add(child.errors, lambda _: self._outcome(item))
        child.go()

    def _save(self) -> None:
        self._container.state["execs"] = [
            {"id": item.id, "pid": item.pid, "start_time": item.start_time} for item in self._running.values()
        ]
        self._container.save()

    def _outcome(self, item: Exec) -> None:
        """The error pipe has ended or brings the reason."""
        child, item.spawned = item.spawned, None
        if child is None:
            return
        self._container.context.loop.discard(child.errors)
        error = child.outcome()
        os.close(child.errors)
        if error is not None:
            item.failed = True
            self._running.pop(item.id, None)
        reply, item.reply = item.reply, None
        if reply is not None:
            reply(error, item.pid, item.client)
        _close([fd for fd in item.client if fd != item.master])
        item.client = []

    def _exited(self, item: Exec, code: int) -> None:
        self._outcome(item)
        self._container.context.loop.discard(item.pidfd)
        _close([item.pidfd, item.master])
        if not item.failed:
            del self._running[item.id]
        if self._container.alive:
            self._save()
        if not item.failed:
            self._container.emit("exec-exited", exec_id=item.id, exit_code=code)

    def restore(self, entries: list[dict[str, Any]]) -> None:
        """Take over those of a killed supervisor."""
        for entry in entries:
            pidfd = linux.open_pidfd(entry["pid"], entry["start_time"])
            if pidfd < 0:
                self._container.emit("exec-exited", exec_id=entry["id"], exit_code=UNKNOWN_EXIT)
                continue
            item = Exec(entry["id"], entry["pid"], entry["start_time"], pidfd)
            self._running[item.id] = item
            self._container.context.loop.add(pidfd, partial(self._stranger_ended, item))

    def _stranger_ended(self, item: Exec, events: int) -> None:
        status = linux.exit_status(item.pidfd, item.pid)
        if status is None and not events & select.EPOLLHUP:
            self._container.context.loop.modify(item.pidfd, 0)  # between the zombie and the reap: HUP follows
            return
        self._exited(item, UNKNOWN_EXIT if status is None else linux.exit_code(status))


def _close(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _pipes(stdin: bool) -> tuple[list[int], list[int]]:
    """(the process's ends for 0, 1, 2; the client's ends)."""
    theirs: list[int] = []
    ours: list[int] = []
    for number in range(3):
        if number == 0 and not stdin:
            theirs.append(-1)
            continue
        reader, writer = os.pipe2(os.O_CLOEXEC)
        theirs.append(reader if number == 0 else writer)
        ours.append(writer if number == 0 else reader)
    return theirs, ours
