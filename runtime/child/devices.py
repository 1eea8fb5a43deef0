"""The host's device nodes: which there are, and the cgroup's rule for one."""

from __future__ import annotations

import os
import stat

from ..spec import DEVICES, Device


def host_devices() -> list[str]:
    """The device nodes of the host's /dev, without terminals and what a container has of its own (--privileged)."""
    found: list[str] = []
    own = {"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"}
    for directory, folders, files in os.walk("/dev"):
        if directory == "/dev":
            folders[:] = [name for name in folders if name not in own]
            files = [
                name for name in files if name not in own and name != "ptmx" and name not in {n for n, _, _ in DEVICES}
            ]
        for name in files:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                found.append(path)
    return found


def rule(device: Device) -> str:
    """The device cgroup's rule for one of a specification's, "c 10:229 rwm"; "" for what is no device (its start says so)."""
    try:
        status = os.stat(device["source"])
    except OSError:
        return ""
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        return ""
    return f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} {device['access']}"
