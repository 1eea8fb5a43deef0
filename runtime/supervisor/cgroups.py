"""Control groups of containers on v1, v2 and hybrid hosts (cgroups(7)).

What is mounted is read from mountinfo.  A container has one directory in each v1 hierarchy that it needs and one in
the v2 tree wherever that is mounted, with or without controllers: it alone has ``cgroup.kill``, ``cgroup.freeze`` and
clone3's CLONE_INTO_CGROUP.  On v1 the child moves itself by writing "0" to ``tasks`` (runtime/child/process.py says why).

    v1      memory cpu cpuacct pids devices (cpuset, freezer only when asked for or needed)
    v2      all controllers of the root are enabled downwards as far as the host lets us; devices by child/device_filter.py

Where nothing may be made (an ordinary user's namespace) ``create`` gives a group without directories: containers run,
limits are reported as warnings.
"""

from __future__ import annotations

import errno
import os
import re

from .. import linux
from ..child import device_filter
from ..spec import Limits
from .group import Group, read, write

PERIOD = 100_000
"""CFS period in microseconds: Docker's, and the kernel's default."""
_MIN_QUOTA = 1000
_V1 = ("memory", "cpu", "cpuacct", "pids", "devices")


def cpu_weight(shares: int) -> int:
    """cgroup v2's cpu.weight (1..10000) for v1's cpu.shares (2..262144), as the OCI runtimes map it."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def cpu_quota(nano_cpus: int) -> int:
    """Microseconds a period for --cpus; the kernel takes no less than 1000."""
    return max(nano_cpus * PERIOD // 1_000_000_000, _MIN_QUOTA)


def parse_mountinfo(text: str) -> tuple[dict[str, str], str]:
    """({v1 controller: mount point}, v2 mount point or "") from /proc/self/mountinfo (proc(5))."""
    v1: dict[str, str] = {}
    v2 = ""
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if not separator or len(fields) < 5 or len(rest) < 3:
            continue
        if rest[0] == "cgroup2":
            v2 = v2 or _unescape(fields[4])
        elif rest[0] == "cgroup":
            for word in rest[2].split(","):
                if word not in ("rw", "ro") and "=" not in word:
                    v1.setdefault(word, _unescape(fields[4]))
    return v1, v2


def _unescape(point: str) -> str:
    """A mount point as proc(5) writes it: space, tab, newline and backslash are three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)


class Cgroups:
    """The host's hierarchies."""

    def __init__(self, mountinfo: str | None = None) -> None:
        if mountinfo is None:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                mountinfo = file.read()
        v1, self.v2 = parse_mountinfo(mountinfo)
        wanted = {*_V1, "cpuset", "freezer"}
        self.v1 = {name: point for name, point in v1.items() if name in wanted}
        self.v2_controllers: list[str] = []
        if self.v2:
            try:
                self.v2_controllers = read(self.v2 + "/cgroup.controllers").split()
            except OSError:
                self.v2 = ""
        self.filters_devices = bool(self.v2) and "devices" not in self.v1 and device_filter.supported()
        self.refused = ""
        """Why no group can be made here; "" while none was refused."""
        points = [*self.v1.values(), *([self.v2] if self.v2 else [])]
        if points and not any(os.access(point, os.W_OK) for point in points):
            self.refused = os.strerror(errno.EACCES)
        elif points and linux.in_user_namespace():
            # root's own uid in it may make directories here, but moves no process out of the group it is in
            self.refused = "a user namespace"

    @property
    def guards_devices(self) -> bool:
        """Whether containers can be kept from opening the host's devices."""
        return not self.refused and ("devices" in self.v1 or self.filters_devices)

    @property
    def controllers(self) -> list[str]:
        return [] if self.refused else sorted({*self.v1, *self.v2_controllers})

    def probe(self, parent: str) -> None:
        """Find out whether groups may be made below *parent*; ``refused`` says if not."""
        try:
            for point in dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]):
                os.makedirs(f"{point}/{parent}", exist_ok=True)
        except OSError as error:
            self.refused = error.strerror or str(error)

    def _paths(self, name: str, limits: Limits) -> tuple[dict[str, str], str]:
        v1 = {controller: f"{point}/{name}" for controller, point in self.v1.items() if controller in _V1}
        if limits["cpuset_cpus"] and "cpuset" in self.v1:
            v1["cpuset"] = f"{self.v1['cpuset']}/{name}"
        if not self.v2 and "freezer" in self.v1:
            v1["freezer"] = f"{self.v1['freezer']}/{name}"
        return v1, f"{self.v2}/{name}" if self.v2 else ""

    def find(self, name: str, limits: Limits) -> Group:
        """The group *name* as ``create`` has made it, for a supervisor that takes over; nothing is made."""
        v1, v2 = self._paths(name, limits)
        v1 = {controller: path for controller, path in v1.items() if os.path.isdir(path)}
        return Group(name, v1, v2 if v2 and os.path.isdir(v2) else "")

    def create(self, name: str, limits: Limits) -> Group:
        """Make the directories and set the limits; the first process guards its devices (child/devices.py).

        OSError when the host refuses a value; limits that can not be had at all are warnings of the group.
        """
        if not self.refused and not (self.v1 or self.v2):
            self.refused = "none are mounted"
        if not self.refused:
            self.probe(os.path.dirname(name))
        if self.refused:
            group = Group(name, {}, "")
            group.warnings = [
                f"{text} limit ignored: this process may not make cgroups ({self.refused})" for text in _wanted(limits)
            ]
            return group
        v1, v2 = self._paths(name, limits)
        group = Group(name, v1, v2)
        try:
            if v2:
                self._make_v2(name)
            for path in dict.fromkeys(v1.values()):
                os.makedirs(path, exist_ok=True)
            self._limit(group, limits)
            group.filters_devices = self.filters_devices
        except BaseException:
            group.remove()
            raise
        return group

    def _make_v2(self, name: str) -> None:
        path = self.v2
        for part in name.split("/"):
            if self.v2_controllers:
                for controller in self.v2_controllers:
                    try:
                        write(path + "/cgroup.subtree_control", f"+{controller}")
                    except OSError:
                        pass  # not delegated to us, or processes live here: its limits become warnings
            path = f"{path}/{part}"
            os.makedirs(path, exist_ok=True)

    def _limit(self, group: Group, limits: Limits) -> None:
        if limits["memory"] > 0:
            self._limit_memory(group, limits["memory"], limits["memory_swap"])
        if limits["nano_cpus"] > 0:
            quota = cpu_quota(limits["nano_cpus"])
            if "cpu" in group.v1:
                write(group.v1["cpu"] + "/cpu.cfs_period_us", PERIOD)
                write(group.v1["cpu"] + "/cpu.cfs_quota_us", quota)
            else:
                self._set_v2(group, "cpu.max", f"{quota} {PERIOD}", "cpu")
        if limits["cpu_shares"] > 0:
            if "cpu" in group.v1:
                write(group.v1["cpu"] + "/cpu.shares", limits["cpu_shares"])
            else:
                self._set_v2(group, "cpu.weight", cpu_weight(limits["cpu_shares"]), "cpu shares")
        if limits["pids"] > 0:
            if "pids" in group.v1:
                write(group.v1["pids"] + "/pids.max", limits["pids"])
            else:
                self._set_v2(group, "pids.max", limits["pids"], "pids")
        if limits["cpuset_cpus"]:
            if "cpuset" in group.v1:
                self._fill_cpuset(group.name)
                write(group.v1["cpuset"] + "/cpuset.cpus", limits["cpuset_cpus"])
            else:
                self._set_v2(group, "cpuset.cpus", limits["cpuset_cpus"], "cpuset")

    def _set_v2(self, group: Group, file: str, value: object, what: str) -> None:
        if group.v2 and os.path.exists(f"{group.v2}/{file}"):
            write(f"{group.v2}/{file}", value)
        else:
            group.warnings.append(f"{what} limit ignored: the host has no such cgroup controller for us")

    def _limit_memory(self, group: Group, memory: int, swap: int) -> None:
        total = 2 * memory if swap == 0 else swap
        if "memory" in group.v1:
            directory = group.v1["memory"]
            write(directory + "/memory.limit_in_bytes", memory)
            try:
                write(directory + "/memory.memsw.limit_in_bytes", total)
            except FileNotFoundError:
                group.warnings.append("swap limit ignored: the kernel does not account swap")
            return
        self._set_v2(group, "memory.max", memory, "memory")
        if group.v2 and os.path.exists(group.v2 + "/memory.swap.max"):
            write(group.v2 + "/memory.swap.max", "max" if total < 0 else max(total - memory, 0))

    def _fill_cpuset(self, name: str) -> None:
        """A new v1 cpuset is empty and takes no process: copy the parent's cpus and memory nodes, level by level."""
        path = self.v1["cpuset"]
        for part in name.split("/"):
            parent, path = path, f"{path}/{part}"
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not read(f"{path}/{file}"):
                    write(f"{path}/{file}", read(f"{parent}/{file}"))

    def remove_parents(self, name: str) -> None:
        """Remove the now empty directories above the group *name*; one that others use stays."""
        for point in dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]):
            parent = os.path.dirname(name)
            while parent:
                try:
                    os.rmdir(f"{point}/{parent}")
                except OSError:
                    break  # not empty, not there, or not ours
                parent = os.path.dirname(parent)


def _wanted(limits: Limits) -> list[str]:
    names = {
        "memory": "memory",
        "nano_cpus": "cpu",
        "cpu_shares": "cpu shares",
        "cpuset_cpus": "cpuset",
        "pids": "pids",
    }
    return [text for key, text in names.items() if limits.get(key) not in (0, -1, "", None)]
