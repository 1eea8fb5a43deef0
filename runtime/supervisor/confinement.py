"""A container's cgroup over its life in the supervisor: made at a start, watched for OOM, removed after the exit."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from ..spec import ContainerSpec
from .cgroups import Cgroups, Group
from .loop import Loop

_RETRY_SECONDS = 0.01
_TRIES = 500


class Confinement:
    def __init__(self, loop: Loop, cgroups: Cgroups, on_oom: Callable[[], None]) -> None:
        self.group: Group | None = None
        self.busy = False
        """An ended container's directories are still being removed."""
        self._loop, self._cgroups, self._on_oom = loop, cgroups, on_oom
        self._watched = -1
        self._cleaned: list[Callable[[], None]] = []

    def make(self, spec: ContainerSpec) -> Group:
        devices: list[str] | None = None
        if not spec["privileged"]:
            devices = [rule for text in spec["devices"] if (rule := device_rule(text))]
        self.group = self._cgroups.create(spec["cgroup"], spec["limits"], devices=devices)
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
        if group is None or group.remove() or tries <= 0:
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


def device_rule(text: str) -> str:
    """The cgroup's rule for one of the specification's devices; "" for what is no device (its start reports it)."""
    source, _, rest = text.partition(":")
    last = text.rpartition(":")[2]
    access = last if rest and "/" not in last else "rwm"
    try:
        status = os.stat(source)
    except OSError:
        return ""
    kind = {0o020000: "c", 0o060000: "b"}.get(status.st_mode & 0o170000)
    if kind is None:
        return ""
    return f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} {access}"
