"""What the supervisor remembers of a container on disk: ``<run>/containers/<id>/``.

    spec.json    the specification it was started with
    state.json   its State, replaced atomically at every change
    in out err   FIFOs (no ``in`` without open_stdin, no ``out`` and ``err`` with a tty)
    journal      the log batch that is under way (runtime/supervisor/logs.py)
    begun        empty until the first process is let go, which says so itself: between the record and that, a kill of the
                 supervisor leaves a pid on record whose program has never run

A record is made before anything else of a container and removed last, so whatever a killed supervisor left behind (a
process, a cgroup) is found by its record.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from ...netlib.errors import InvalidArgument
from ...netlib.kernel.tree import remove_tree

_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def check_id(value: object) -> str:
    """*value* as an id, which is also a file name; InvalidArgument otherwise."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidArgument(f"invalid container id {value!r}")
    return value


class Record:
    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def create(self) -> None:
        os.makedirs(self.directory, mode=0o700, exist_ok=True)

    def save(self, name: str, value: Any) -> None:
        """Write *name*.json so that a reader, or a crash, sees the old or the new one.

        No fsync: a power failure takes the processes too, and the run directory does not outlive a boot.  OSError when
        it does not fit: the old one stays.
        """
        path = self.path(name + ".json")
        rest = memoryview(json.dumps(value, separators=(",", ":")).encode())
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            while rest:
                rest = rest[os.write(fd, rest) :]  # a disk that is nearly full takes a part, and refuses the next
        except OSError as error:
            os.unlink(path + ".new")
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(fd)
        os.rename(path + ".new", path)

    def load(self, name: str) -> Any:
        """The value, or None when there is no file; OSError or ValueError when there is one that can not be read."""
        try:
            with open(self.path(name + ".json"), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return None

    def make_fifo(self, name: str) -> str:
        path = self.path(name)
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            pass  # a restart
        return path

    def open_begun(self) -> int:
        """A descriptor of ``begun``, emptied: for the child, which makes it longer (no disk is too full for that)."""
        return os.open(self.path("begun"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def has_begun(self) -> bool:
        """Whether the first process on record was let go; True when there is nothing to tell by."""
        try:
            return os.stat(self.path("begun")).st_size > 0
        except FileNotFoundError:
            return True

    def remove(self) -> None:
        """Forget it all; twice is once."""
        remove_tree(self.directory, errors=[])
