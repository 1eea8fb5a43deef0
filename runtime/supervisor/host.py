"""What the supervisor finds out about itself and its machine once, at its start."""

from __future__ import annotations

import os
import resource

from .. import linux


class Host:
    def __init__(self, place: str) -> None:
        self.place = place
        self.user_namespace = linux.in_user_namespace()
        self.bounding = _of_status("CapBnd:")
        """Nobody can be given more capabilities than these."""
        self.permitted = _of_status("CapPrm:")
        self.files_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.cgroup2 = False
        """Only v2 is mounted: containers see their own at /sys/fs/cgroup."""
        self.devices_guarded = False
        """A devices controller stands between containers and the host's disks."""
        self.null = linux.check_null(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        """Standard input and output of what has none: no container's /dev/null is ever opened."""

    def close(self) -> None:
        os.close(self.null)


def _of_status(field: str) -> int:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return next((int(line.split()[1], 16) for line in file if line.startswith(field)), 0)
