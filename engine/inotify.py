"""inotify(7) for the event loop: wake whoever follows a file when it grows.  One descriptor for all.

Two followers of one file share its watch (the kernel gives one number an inode).  A wake-up only says "look again", so
lost or merged events do no harm.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress

from ..netlib.kernel import syscall

_EVENT = struct.Struct("iIII")


class Inotify:
    """Made lazily by the first follower; belongs to one event loop."""

    def __init__(self) -> None:
        self._fd = syscall.inotify_init1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
        self._followers: dict[int, list[asyncio.Event]] = {}
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    @contextmanager
    def follow(self, path: str) -> Generator[asyncio.Event]:
        """An event that is set whenever the file at *path* is written to; the follower clears it."""
        event = asyncio.Event()
        watch = syscall.inotify_add_watch(self._fd, path, syscall.IN_MODIFY)
        followers = self._followers.setdefault(watch, [])
        followers.append(event)
        try:
            yield event
        finally:
            followers.remove(event)
            if not followers and self._followers.pop(watch, None) is not None:
                with suppress(OSError):  # the file is gone, and its watch with it
                    syscall.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            for event in self._followers.get(watch, ()):
                event.set()
            if mask & syscall.IN_IGNORED:
                # the file is gone: the kernel may give the number to another one
                self._followers.pop(watch, None)
