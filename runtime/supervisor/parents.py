"""The cgroups above those of containers: removed when no container has been there for a while, by whichever supervisor then is.

Which there are stands in a file too: a successor that finds no container has to remove them all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from .cgroups import Cgroups
from .loop import Loop, Timer

IDLE = 2.0
"""Seconds without containers until they are removed."""


class Parents:
    def __init__(self, loop: Loop, cgroups: Cgroups, file: str, idle: Callable[[], bool]) -> None:
        """*idle* says whether there are no containers."""
        self._loop, self._cgroups, self._file, self._idle = loop, cgroups, file, idle
        self._names: set[str] = set()
        """Of one group below each."""
        self._timer: Timer | None = None

    def restore(self) -> None:
        """What is on record."""
        try:
            with open(self._file, encoding="utf-8") as file:
                self._names.update(file.read().splitlines())
        except OSError:
            pass
        self.remove_later()

    def remember(self, name: str) -> None:
        """That there is a group above *name*."""
        if os.path.dirname(name) in {os.path.dirname(known) for known in self._names}:
            return
        self._names.add(name)
        try:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(f"{name}\n")
        except OSError:
            pass  # a full disk: then an empty directory may stay

    def remove_later(self) -> None:
        if self._names and self._idle() and self._timer is None:
            self._timer = self._loop.later(IDLE, self.remove)

    def remove(self) -> None:
        """Those that are empty."""
        self._timer = None
        for name in self._names:
            self._cgroups.remove_parents(name)
        if self._idle():
            self._names.clear()
            try:
                os.unlink(self._file)
            except OSError:
                pass
