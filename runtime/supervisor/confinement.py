"""A container's cgroup over its life in the supervisor: made at a start, watched for OOM, removed after the exit."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from ..spec import ContainerSpec
from .cgroups import Cgroups
from .group import Group
from .loop import Loop

_RETRY_SECONDS = 0.01
_TRIES = 500


def _removed(group: Group) -> bool:
    """Whether there is nothing more to do: a directory that can not be removed is told, and holds up no end."""
    try:
        return group.remove()
    except OSError as error:
        print(f"cgroup {group.name} can not be removed: {error}", file=sys.stderr, flush=True)
        return True


class Confinement:
    def __init__(self, loop: Loop, cgroups: Cgroups, on_oom: Callable[[], None]) -> None:
        self.group: Group | None = None
        self.busy = False
        """An ended container's directories are still being removed."""
        self._loop, self._cgroups, self._on_oom = loop, cgroups, on_oom
        self._watched = -1
        self._cleaned: list[Callable[[], None]] = []

    def make(self, spec: ContainerSpec) -> Group:
        self.group = self._cgroups.create(spec["cgroup"], spec["limits"])
        return self.group

    def find(self, spec: ContainerSpec) -> None:
        """The one that a supervisor before us has made."""
        self.group = self._cgroups.find(spec["cgroup"], spec["limits"])

    def watch(self, spec: ContainerSpec) -> None:
        """Call *on_oom* whenever the kernel kills a process for want of memory."""
        if self.group is None or spec["limits"]["memory"] <= 0:
            return
        watched = self.group.watch_oom()
        if watched is not None:
            self._watched, priority = watched
            self._loop.add(self._watched, self._event, select.EPOLLPRI if priority else select.EPOLLIN)

    def _event(self, events: int) -> None:
        try:
            if events & select.EPOLLPRI:
                os.pread(self._watched, 4096, 0)  # kernfs is silent again once it was read from its beginning
            else:
                os.read(self._watched, 8)  # the eventfd's count
        except OSError:
            pass  # ENODEV: the group is being removed
        if self.oom_killed:
            self._on_oom()

    @property
    def oom_killed(self) -> bool:
        return self.group is not None and self.group.oom_kills() > 0

    def unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.discard(self._watched)
            os.close(self._watched)
            self._watched = -1

    def remove(self, tries: int = _TRIES) -> None:
        """Remove the directories; what is busy for the moment is tried again."""
        group = self.group
        if group is None or _removed(group) or tries <= 0:
            self.group, self.busy = None, False
            cleaned, self._cleaned = self._cleaned, []
            for call in cleaned:
                call()
            return
        if tries == _TRIES:
            group.kill()
        self.busy = True
        self._loop.later(_RETRY_SECONDS, lambda: self.remove(tries - 1))

    def when_removed(self, call: Callable[[], None]) -> None:
        """Now, or as soon as the directories are gone."""
        if self.busy:
            self._cleaned.append(call)
        else:
            call()
