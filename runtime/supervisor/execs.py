"""The processes that joined a container (docker exec), in the supervisor.

    join --> running --> ended: event "exec-exited"
      '--> it can not start: the reply says why, there is no event

Their standard streams are pipes, or a terminal of the container's own devpts, whose other ends go to the client with
the reply: they are not logged, and live as long as the client keeps them.  The pids are part of the container's state, so
that a supervisor that takes over still reports their ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from ...netlib.errors import Conflict, NotFound
from ..spec import UNKNOWN_EXIT, ContainerSpec, ExecSpec
from . import spawn
from .context import Context
from .errors import StartError, describe
from .run import Run
from .watched import Watched

Reply = Callable[[StartError | None, int, list[int]], None]
"""(error, pid, the client's descriptors); the descriptors stay ours."""


class Owner(Protocol):
    """What its processes need of a container."""

    id: str
    context: Context
    spec: ContainerSpec
    state: dict[str, Any]
    run: Run

    @property
    def alive(self) -> bool: ...
    def need_alive(self) -> None: ...
    def save(self) -> None: ...
    def emit(self, event: str, **fields: Any) -> None: ...


class Exec:
    def __init__(self, id: str, process: Watched, master: int) -> None:
        self.id, self.process, self.master = id, process, master

    def close(self) -> None:
        self.process.close()
        _close([self.master])


class Execs:
    """Those of one container."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._running: dict[str, Exec] = {}

    @property
    def pids(self) -> list[int]:
        return [item.process.pid for item in self._running.values()]

    def master(self, id: str) -> int:
        if id not in self._running:
            raise NotFound(f"No such exec instance: {id}")
        return self._running[id].master

    def start(self, id: str, wanted: ExecSpec, reply: Reply) -> None:
        """Clone it; *reply* hears of it when its program runs, or can not."""
        owner = self._owner
        owner.need_alive()
        if owner.state["status"] == "paused":
            raise Conflict(f"Container {owner.id} is paused, unpause the container before exec")
        if id in self._running:
            raise Conflict(f"exec instance {id} is running already")
        theirs: list[int] = []
        ours: list[int] = []
        cgroup = master = -1
        group = owner.run.group
        try:
            if wanted["tty"]:
                master = spawn.container_terminal(owner.run.first.pidfd, owner.run.first.pid)
                ours = [master]
                theirs = [spawn.open_terminal(master)] * 3
                if wanted["size"] is not None:
                    spawn.resize(master, *wanted["size"])
            else:
                theirs, ours = _pipes(wanted["stdin"])
            cgroup = group.open_v2() if group is not None else -1
            child = spawn.join(
                owner.context.host,
                owner.spec,
                wanted,
                theirs,
                target=owner.run.first.pidfd,
                cgroup=cgroup,
                cgroup_tasks=group.tasks if group is not None else [],
            )
        except BaseException as error:
            _close(ours)
            if isinstance(error, OSError):
                raise StartError(describe(error)) from error
            raise
        finally:
            _close([*set(theirs), cgroup])
        item = self._add(id, master)

        def runs() -> None:
            try:
                reply(None, child.pid, ours)
            finally:
                _close([fd for fd in ours if fd != master])

        def failed(error: StartError) -> None:
            self._forget(item)
            _close([fd for fd in ours if fd != master])
            reply(error, 0, [])

        item.process.follow(child, runs, failed)
        self._save()
        child.go()

    def _add(self, id: str, master: int = -1) -> Exec:
        item = Exec(id, Watched(self._owner.context, lambda code: self._ended(item, code)), master)
        self._running[id] = item
        return item

    def _forget(self, item: Exec) -> None:
        item.close()
        del self._running[item.id]
        if self._owner.alive:
            self._save()

    def _save(self) -> None:
        self._owner.state["execs"] = [
            {"id": item.id, "pid": item.process.pid, "start_time": item.process.start_time}
            for item in self._running.values()
        ]
        self._owner.save()

    def _ended(self, item: Exec, code: int | None) -> None:
        self._forget(item)
        self._owner.emit("exec-exited", exec_id=item.id, exit_code=UNKNOWN_EXIT if code is None else code)

    def restore(self, entries: list[dict[str, Any]]) -> None:
        """Take over those of a killed supervisor."""
        for entry in entries:
            item = self._add(entry["id"])
            if not item.process.take_over(entry["pid"], entry["start_time"]):
                self._ended(item, None)


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
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC)
        except OSError:
            _close([*theirs, *ours])
            raise
        theirs.append(reader if number == 0 else writer)
        ours.append(writer if number == 0 else reader)
    return theirs, ours
