"""Room for the removals that free a full disk: a file that is given up when the store can not be written.

    run, create, import   fail with "no space left", as they should
    exit, stop, rm        need a page or two of the store; the reserve is deleted for them, and made again afterwards

Without it a container that filled the disk could not be removed, because the removal has to be written down first; and a
daemon that was killed then could not open its store again.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..netlib.errors import InternalError, MultipleErrors

P = ParamSpec("P")
T = TypeVar("T")

SIZE = 256 << 10
"""Bytes: a removal writes some pages of 4 KiB to the store's log, opening it 32 KiB of shared memory."""
FREE_FACTOR = 4
"""The reserve is made only where this many times its size is free: it must not be what fills a small disk."""


class DiskFull(InternalError):
    """Nothing more can be written below the state directory."""

    hint = "remove containers, images or other files there, and try again"

    def __init__(self, root: Path) -> None:
        super().__init__(f"no space left on the file system of {root}")


def is_full(error: BaseException | None) -> bool:
    """Whether *error*, or what it came from, says that the disk is full (SQLite has a code of its own)."""
    while error is not None:
        if isinstance(error, MultipleErrors) and any(is_full(one) for one in error.errors):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__
    return False


class Reserve:
    """The file ``<root>/reserve``.  Every call may be repeated."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "reserve"

    def make(self) -> None:
        """See that the file is there, where there is room for it."""
        if self._path.exists():
            return
        try:
            room = os.statvfs(self._root)
            if room.f_bavail * room.f_frsize < FREE_FACTOR * SIZE:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            finally:
                os.close(fd)
        except OSError:
            self._path.unlink(missing_ok=True)  # a file system that can not: then there is none

    def spend(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function*; when the disk is full, give the reserve up and call it once more."""
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not is_full(error):
                raise
        self._path.unlink(missing_ok=True)
        return function(*args, **kwargs)


def told(error: BaseException, root: Path) -> BaseException:
    """*error*, or what to tell the client when the disk is full."""
    if isinstance(error, (sqlite3.Error, OSError)) and is_full(error):
        return DiskFull(root)
    return error
