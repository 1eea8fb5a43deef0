"""The directories of a layer while it is unpacked: opened by path, made where missing, given their modes at the end.

Every path is resolved by the kernel with the layer as its root (openat2(2), RESOLVE_IN_ROOT), so the layer's own links lead
nowhere but into the layer.  Descriptors are kept by the path that they were asked by, some hundreds of them; who replaces a
directory or a link calls ``forget``, since paths may have led through it.  A directory that no entry names takes its owner
and mode from the layers below, of which overlayfs would show them, else it is root's 0755.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from ...netlib.kernel.syscall import openat2
from .attributes import Attributes
from .limits import Budget

KEPT = 512
"""Descriptors that are kept before they are all given up."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Directories:
    """*lower* are the layers below, topmost first.  Paths are relative and have no ``..``; the root's is empty."""

    def __init__(self, destination: str, lower: Sequence[str], attributes: Attributes, budget: Budget) -> None:
        self._attributes, self._budget = attributes, budget
        self._kept: dict[bytes, int] = {}
        self._lower: list[int] = []
        self._late: dict[bytes, tuple[int, int]] = {}
        try:
            self.root = self._kept[b""] = os.open(destination, DIRECTORY)
            for path in lower:
                self._lower.append(os.open(path, DIRECTORY))
            os.fchmod(self.root, 0o755)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for fd in (*self._kept.values(), *self._lower):
            os.close(fd)
        self._kept.clear()
        self._lower.clear()

    @property
    def has_lower(self) -> bool:
        return bool(self._lower)

    def open(self, path: bytes) -> int:
        """A descriptor of the directory *path*, made with its parents when missing; it stays ours."""
        fd = self._kept.get(path)
        if fd is None:
            fd = self._kept[path] = self._open(path)
        return fd

    def _open(self, path: bytes) -> int:
        missing: list[bytes] = []
        there, fd = path, -1
        while fd < 0:
            try:
                fd = openat2(self.root, there or b".", DIRECTORY)
            except FileNotFoundError:
                there, _, base = there.rpartition(b"/")
                missing.append(base)
        try:
            for base in reversed(missing):
                self._budget.spend_entry()
                os.mkdir(base, 0o755, dir_fd=fd)
                made = os.open(base, DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = made
                there = there + b"/" + base if there else base
                self._copy_from_lower(there, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def trim(self) -> None:
        """Between entries only: within one, descriptors that were asked for are in use."""
        if len(self._kept) > KEPT:
            self.forget()

    def forget(self, but: int = -1) -> None:
        """Something that paths led through was replaced; the descriptor *but* is in use and stays."""
        for path, fd in list(self._kept.items()):
            if path and fd != but:
                os.close(self._kept.pop(path))

    def _copy_from_lower(self, path: bytes, fd: int) -> None:
        for lower in self._lower:
            try:
                found = openat2(lower, path, DIRECTORY)
            except OSError:
                continue  # not in this layer; whatever is wrong there is not this archive's fault
            try:
                status = os.fstat(found)
            finally:
                os.close(found)
            self._attributes.own(status.st_uid, status.st_gid, fd)
            self.finish_later(path, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
            return
        os.fchmod(fd, 0o755)  # mkdir's was subject to the umask

    def finish_later(self, path: bytes, mode: int, mtime_ns: int) -> None:
        """A mode that forbids writing, and a time that every child changes, wait until all is there."""
        if path not in self._late:
            self._budget.spend_name(len(path))
        self._late[path] = (mode, mtime_ns)

    def finish(self) -> None:
        """Innermost first: a parent's time changes with its children."""
        for path in sorted(self._late, key=lambda path: path.count(b"/"), reverse=True):
            mode, mtime_ns = self._late[path]
            try:
                fd = openat2(self.root, path, DIRECTORY | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                continue  # a later entry replaced it
            try:
                os.fchmod(fd, mode)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)
