"""What all containers of a supervisor share: made once, at its start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cgroups import Cgroups
from .host import Host
from .logs import Peek
from .loop import Loop


class Context:
    def __init__(self, loop: Loop, host: Host, cgroups: Cgroups, emit: Callable[[dict[str, Any]], None]) -> None:
        self.loop, self.host, self.cgroups, self.emit = loop, host, cgroups, emit
        self.peek = Peek()
        self.children: dict[int, Callable[[int], None]] = {}
        """Our own children by pid, and what to call with the wait status."""

    def close(self) -> None:
        """Let go of all that it opened; containers are not touched."""
        self.peek.close()
        self.host.close()
        self.loop.close()
