"""The overlay that becomes a container's root, and the devpts of its terminals, as detached mounts.

It is made by the supervisor (so that an error is an exception with the kernel's own words) and attached by the child
in its own mount namespace: it never appears in the host's mount table, and a crash leaks no mount.

``lowerdir+`` takes one layer a call, up to 500 (fs/overlayfs/params.c); mount(2)'s single page of options would cut
a long list silently.  Kernels before 6.8 know only the joined list.  fsconfig(2) limits a value to 255 bytes, so a
longer path is given by a descriptor, as /proc/self/fd/N.  redirect_dir, metacopy and index are switched off: with them
the upper directory is no longer a plain set of changes that a commit can read.
"""

from __future__ import annotations

import errno
import os

from ...netlib.kernel import syscall as k
from .. import linux
from ..spec import RootFS


class _Paths:
    """Path strings that fit into fsconfig; descriptors that stand for long ones stay open until ``close``."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def short(self, path: str) -> str:
        if len(os.fsencode(path)) <= linux.FSCONFIG_VALUE_MAX:
            return path
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fds.append(fd)
        return f"/proc/self/fd/{fd}"

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")


def make_overlay(rootfs: RootFS, *, user_namespace: bool, devices: bool) -> int:
    """Mount *rootfs* detached; OSError says which option the kernel refuses and why.

    *devices*: what nodes an image brings may be opened: its cgroup says which.  Where no cgroup can, none may.
    """
    for path in (*rootfs["lower"], rootfs["upper"], rootfs["work"]):
        if not os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, "layer directory is missing", path)
    paths = _Paths()
    try:
        lower = [paths.short(path) for path in rootfs["lower"]]
        rest: list[tuple[str, str | None]] = [
            ("upperdir", paths.short(rootfs["upper"])),
            ("workdir", paths.short(rootfs["work"])),
            ("index", "off"),
        ]
        if user_namespace:
            # trusted.* attributes are the initial namespace's; without them redirect_dir and metacopy are off, and may
            # not even be named (overlayfs.rst, "User xattr")
            rest.append(("userxattr", None))
        else:
            rest += [("redirect_dir", "off"), ("metacopy", "off")]
        attributes = 0 if devices else k.MOUNT_ATTR_NODEV
        try:
            return linux.make_mount("overlay", [*(("lowerdir+", path) for path in lower), *rest], attributes)
        except OSError as error:
            if error.errno != errno.EINVAL or "lowerdir+" not in str(error.filename):
                raise
        return linux.make_mount("overlay", [("lowerdir", ":".join(map(_escape, lower))), *rest], attributes)
    finally:
        paths.close()


def make_devpts() -> int:
    """A new instance of devpts, detached."""
    options: list[tuple[str, str | None]] = [("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620")]
    attributes = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NOEXEC
    try:
        return linux.make_mount("devpts", [*options, ("gid", "5")], attributes)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return linux.make_mount("devpts", options, attributes)  # group 5 (tty) is not mapped in this user namespace
