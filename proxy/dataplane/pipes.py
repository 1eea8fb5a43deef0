"""Pipes for splice(2): pooled, and bounded in number.

A pipe is the kernel's buffer between two sockets.  Making one costs four system calls, so empty ones are kept.  At most
``LIMIT`` exist: that is what stalled readers can pin, and whoever finds none copies through user space, which is slower
and needs no memory that lasts.

Rule: a pipe that holds bytes never comes back to the pool; it is closed.
"""

from __future__ import annotations

import fcntl
import os

SIZE = 1 << 20
"""Bytes in one pipe: pipe-max-size (pipe(7)).  256 KiB took a tenth more processor time a byte."""
LIMIT = 64
"""Most pipes that exist at one time: 64 MiB, which is what an ordinary user may have (pipe-user-pages-soft)."""
_SPARE = 32
"""Most empty pipes that are kept."""

Pipe = tuple[int, int]


class PipePool:
    def __init__(self, size: int = SIZE, limit: int = LIMIT) -> None:
        self.size, self.limit = size, limit
        self._free: list[Pipe] = []
        self.count = 0
        """Pipes that exist, lent or free."""

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None when the limit of pipes or of descriptors is reached."""
        if self._free:
            return self._free.pop()
        if self.count >= self.limit:
            return None
        try:
            read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, self.size)
        except OSError:
            pass  # EPERM past the user's soft limit: the kernel's default size serves, in more steps
        self.count += 1
        return read, write

    def give_back(self, pipe: Pipe) -> None:
        """Take an *empty* pipe back."""
        if len(self._free) < _SPARE:
            self._free.append(pipe)
        else:
            self.discard(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Close a pipe, and lose what it holds."""
        self.count -= 1
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        while self._free:
            self.discard(self._free.pop())
