"""The root directory: one process's at a time, and its owner's alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .errors import RootBusy


def make_private(root: Path) -> None:
    """The root directory is its owner's alone: images and volumes hold setuid programs, records hold secrets (CVE-2021-41091).

    So is one that an older pynet made 0711.  One that was there before us keeps its mode: it may be anybody's.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (root / "pynet.db").exists():
        root.chmod(root.stat().st_mode & 0o7700)


def lock_root(root: Path) -> int:
    """A descriptor that holds the lock until it is closed, or its process ends; RootBusy."""
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise RootBusy(str(root), f"process {holder}" if holder else "") from None
    except BaseException:
        os.close(fd)
        raise
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd
