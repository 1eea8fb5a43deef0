"""One container's control group: its directories, what they count, and what is done to all in it at once (cgroups(7)).

cgroups.py makes it.  A directory is removed when its last process is gone; EBUSY for a moment after an exit is normal, the
caller tries again.
"""

from __future__ import annotations

import errno
import os
import select

from ...netlib.errors import NotSupported
from ...netlib.kernel.tree import remove_tree

_FREEZE_SECONDS = 3.0
"""The supervisor waits for it: a process in an uninterruptible sleep must not hold up the rest for long."""


def read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().strip()


def write(path: str, value: object) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


class Group:
    """One container's directories.  All methods are right when there are none."""

    def __init__(self, name: str, v1: dict[str, str], v2: str) -> None:
        self.name = name
        self.v1 = v1
        """Controller to directory."""
        self.v2 = v2
        self.warnings: list[str] = []
        self.filters_devices = False
        """A program at the v2 directory is to guard its devices; without one the v1 controller does, where it is."""

    @property
    def directories(self) -> list[str]:
        return list(dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]))

    @property
    def tasks(self) -> list[str]:
        return [directory + "/tasks" for directory in dict.fromkeys(self.v1.values())]

    def open_v2(self) -> int:
        """A descriptor for CLONE_INTO_CGROUP, -1 without v2."""
        return os.open(self.v2, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if self.v2 else -1

    def processes(self) -> list[int]:
        for directory in self.directories:
            try:
                return [int(word) for word in read(directory + "/cgroup.procs").split()]
            except FileNotFoundError:
                continue
        return []

    # -- state -----------------------------------------------------------------------------------------------

    def _number(self, path: str) -> int | None:
        try:
            text = read(path)
        except OSError:
            return None
        return int(text) if text.isdigit() else None

    def _keyed(self, path: str, key: str) -> int | None:
        try:
            text = read(path)
        except OSError:
            return None
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == key and value.isdigit():
                return int(value)
        return None

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for want of memory."""
        if "memory" in self.v1:
            return self._keyed(self.v1["memory"] + "/memory.oom_control", "oom_kill") or 0
        return (self._keyed(self.v2 + "/memory.events", "oom_kill") or 0) if self.v2 else 0

    def stats(self) -> dict[str, int]:
        """Usage now; what the host does not count is absent."""
        found: dict[str, int | None] = {}
        if memory := self.v1.get("memory"):
            found["memory"] = self._number(memory + "/memory.usage_in_bytes")
            found["memory_limit"] = self._number(memory + "/memory.limit_in_bytes")
            found["memory_max"] = self._number(memory + "/memory.max_usage_in_bytes")
        elif self.v2:
            found["memory"] = self._number(self.v2 + "/memory.current")
            found["memory_limit"] = self._number(self.v2 + "/memory.max")
            found["memory_max"] = self._number(self.v2 + "/memory.peak")
        if cpu := self.v1.get("cpuacct"):
            found["cpu"] = self._number(cpu + "/cpuacct.usage")
        elif self.v2:
            used = self._keyed(self.v2 + "/cpu.stat", "usage_usec")
            found["cpu"] = None if used is None else used * 1000
        pids = self.v1.get("pids") or self.v2
        if pids:
            found["pids"] = self._number(pids + "/pids.current")
        if self.directories:
            found["oom_kills"] = self.oom_kills()
        return {key: value for key, value in found.items() if value is not None}

    def watch_oom(self) -> tuple[int, bool] | None:
        """(descriptor, priority): an eventfd on v1, else memory.events, which is to be polled for EPOLLPRI.

        None where there is nothing to watch.
        """
        try:
            if memory := self.v1.get("memory"):
                return _oom_event(memory), False
            return os.open(self.v2 + "/memory.events", os.O_RDONLY | os.O_CLOEXEC), True
        except OSError:
            return None  # the exit still tells (oom_kills)

    # -- acts ------------------------------------------------------------------------------------------------

    def freeze(self, frozen: bool) -> None:
        """Stop all processes, or let them go on; returns when it is so.  NotSupported without a freezer.

        OSError when some do not stop in time; then all go on.
        """
        try:
            self._freeze(frozen)
        except TimeoutError:
            if frozen:  # what is said to run must not stand still as soon as the last one can
                self._ask_to_freeze(False)
            raise

    def _ask_to_freeze(self, frozen: bool) -> None:
        if self.v2:
            write(self.v2 + "/cgroup.freeze", int(frozen))
        else:
            write(self.v1["freezer"] + "/freezer.state", "FROZEN" if frozen else "THAWED")

    def _freeze(self, frozen: bool) -> None:
        if self.v2:
            with open(self.v2 + "/cgroup.events", encoding="ascii") as events:
                self._ask_to_freeze(frozen)
                poll = select.poll()
                poll.register(events, select.POLLPRI)
                while f"frozen {int(frozen)}" not in events.read():
                    if not poll.poll(_FREEZE_SECONDS * 1000):
                        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), self.v2)
                    events.seek(0)
        elif freezer := self.v1.get("freezer"):
            wanted = "FROZEN" if frozen else "THAWED"
            self._ask_to_freeze(frozen)
            poll = select.poll()  # v1 has no event for it: look every millisecond
            for _ in range(int(_FREEZE_SECONDS * 1000)):
                if read(freezer + "/freezer.state") == wanted:
                    return
                poll.poll(1)
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), freezer)
        else:
            raise NotSupported(
                "pausing needs a cgroup freezer, and this process may not make cgroups", hint="run the daemon as root"
            )

    def kill(self) -> None:
        """KILL everything in the group."""
        if self.v2:
            try:
                write(self.v2 + "/cgroup.kill", 1)
                return
            except OSError:
                pass  # before 5.14, or gone
        for pid in self.processes():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass

    def remove(self) -> bool:
        """Remove the directories; False when one is still busy: call again a little later.

        What a privileged container has made below them goes too.
        """
        done = True
        for directory in self.directories:
            try:
                try:
                    os.rmdir(directory)
                except OSError as error:
                    if error.errno != errno.EBUSY or os.stat(directory).st_nlink <= 2:
                        raise
                    remove_tree(directory, errors=[])  # its files go with each directory: unlink(2) may not take them
                    os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                done = False
        return done


def _oom_event(memory: str) -> int:
    """An eventfd that counts how often the v1 group *memory* was out of it (memory.rst of cgroup-v1, "OOM Control")."""
    control = os.open(memory + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    try:
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            write(memory + "/cgroup.event_control", f"{event} {control}")
        except OSError:
            os.close(event)
            raise
        return event
    finally:
        os.close(control)
