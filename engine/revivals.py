"""The other two processes come back when they die; what needed one of them just then may wait for that.

seen = revivals.count      before the work
revivals.wait(seen, s)     after it failed with Unavailable: True when one of them came back since
"""

from __future__ import annotations

import threading


class Revivals:
    """Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        return self._count

    def happened(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> bool:
        """Until the count is more than *seen*, *seconds* at most."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count > seen, max(seconds, 0.0))
