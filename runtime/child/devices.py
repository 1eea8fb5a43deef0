"""The host's device nodes in a container: which there are, what its cgroup lets it open, and the nodes themselves.

    look (stat, once) -> rules -> devices.allow (v1), or a filter program (v2, device_filter.py)
                  '----> make: the same numbers, owner and mode, in the container

A path of the user's may lie on a file server that does not answer, so the child looks at it, not the supervisor; once, so
that what its rule allows is what is made.  All of it comes before the child joins its cgroup, and before anything of the
container is there.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from ..spec import DEVICES
from . import device_filter
from .order import Launch

ALLOWED = (
    "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:1 rwm",
    "c 5:2 rwm", "c 136:* rwm",
)  # fmt: skip
"""Making any node is allowed, opening only these (runc, libcontainer/specconv, AllowedDevices)."""
_OWN = {
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    ".lxc",
    ".lxd-mounts",
    ".udev",
    "ptmx",
    *(name for name, _, _ in DEVICES),
}
"""Of /dev: terminals, and what a container has of its own."""


class Node(NamedTuple):
    """A device node of the host's that a container gets."""

    host: str
    target: str
    status: os.stat_result

    def rule(self, access: str) -> str:
        """The device cgroup's rule for it, "c 10:229 rwm"."""
        kind = "c" if stat.S_ISCHR(self.status.st_mode) else "b"
        return f"{kind} {os.major(self.status.st_rdev)}:{os.minor(self.status.st_rdev)} {access}"


def look(host: str, target: str) -> Node:
    """The node at *host*, links followed on the host as the user named it."""
    status = os.stat(host)
    if not stat.S_ISCHR(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise OSError(errno.ENODEV, "not a device node", host)
    return Node(host, target, status)


def of_host(top: str = "/dev") -> list[Node]:
    """All device nodes of the host's /dev (--privileged).  What goes away meanwhile is passed over."""
    found: list[Node] = []
    for directory, folders, files in os.walk(top):
        if directory == top:
            folders[:] = [name for name in folders if name not in _OWN]
            files = [name for name in files if name not in _OWN]
        for name in files:
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                found.append(Node(path, path, status))
    return found


def gather(launch: Launch) -> list[Node]:
    """What the container gets, and its cgroup guarded accordingly."""
    found: list[Node] = []
    rules = [*ALLOWED]
    for host, target, access in launch.devices:
        node = look(host, target)
        found.append(node)
        rules.append(node.rule(access))
    if launch.host_devices:
        found += of_host()
    guard(rules, v1=launch.device_group, v2=launch.device_group2)
    return found


def guard(rules: list[str], *, v1: str = "", v2: str = "") -> None:
    """Let the group at *v1* or *v2* ("" is none) open what *rules* name, and nothing else."""
    if v1:
        _write(v1 + "/devices.deny", "a")
        for rule in rules:
            _write(v1 + "/devices.allow", rule)
    if v2:
        device_filter.guard(v2, rules)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
