"""A container's standard input: the FIFO ``in``, and who holds its write end.

stdin_once    the container's end reads only.  The supervisor holds a write end until the first attach, which gets
              one of its own; when the last of those is closed, the container sees the end of its input.
otherwise     the container's end is open both ways, and never ends.
"""

from __future__ import annotations

import errno
import os

from .records import Record


class Stdin:
    def __init__(self, record: Record, *, once: bool) -> None:
        self._record, self._once = record, once
        self._held = -1

    def open(self) -> int:
        """The container's end."""
        path = self._record.make_fifo("in")
        self.close()
        keeper = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            theirs = os.open(path, (os.O_RDONLY if self._once else os.O_RDWR) | os.O_CLOEXEC)
            if self._once:
                self._held = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(keeper)
        return theirs

    def attach(self) -> list[int]:
        """A write end for a client; none when the container has closed its input."""
        try:
            fd = os.open(self._record.path("in"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return []
        os.set_blocking(fd, True)
        self.close()
        return [fd]

    def close(self) -> None:
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
