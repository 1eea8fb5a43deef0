"""Captures for clients: which sandbox a container's packets pass, and how many captures there are at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..netlib.capture import Capture
from ..netlib.errors import Conflict, InvalidArgument, NotFound
from .container.registry import Registry
from .core import Core

MOST = 16
"""Captures at a time: each may hold some megabytes of the kernel's memory for each interface."""


class Captures:
    def __init__(self, core: Core, registry: Registry) -> None:
        self._controller = core.controller
        self._registry = registry
        self._lock = threading.Lock()
        self._running = 0

    def open(self, ref: str, interfaces: Sequence[str], snaplen: int, expression: str, count: int) -> Capture:
        """Begin; who asked gives it to ``close``.  Conflict for a container that does not run."""
        container = self._registry.get(ref)
        if not container.running:
            raise Conflict(
                f"container {container.id} is not running", hint="`pynet start` it first; `pynet ps -a` shows its state"
            )
        owner = self._registry.network_owner(container)
        if owner.network_mode == "host":
            raise InvalidArgument(
                f"container {container.name} is in the host's network: its packets are the host's",
                hint="capture on the host, with tcpdump",
            )
        with self._lock:
            if self._running >= MOST:
                raise Conflict(f"{MOST} captures are running", hint="end one of them first")
            self._running += 1
        try:
            sandbox = self._controller.sandbox(owner.id)
            return sandbox.capture(interfaces=interfaces, snaplen=snaplen, expression=expression, count=count)
        except BaseException as error:
            self._ended()
            if isinstance(error, NotFound) and owner.id not in self._controller.registry.sandboxes:
                raise Conflict(f"container {container.id} is not running", hint="it ended just now") from error
            raise

    def close(self, capture: Capture) -> None:
        capture.close()
        self._ended()

    def _ended(self) -> None:
        with self._lock:
            self._running -= 1
