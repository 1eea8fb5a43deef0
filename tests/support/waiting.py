"""How tests wait for what others do in their own time: patiently, because a busy machine takes long for what takes a moment."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

PATIENCE = 20.0
"""Seconds until something that should have happened counts as a failure."""
SILENCE = 0.25
"""Seconds after which what must not come counts as not coming.  If it came it would take a millisecond, or longer on a busy
machine: so a test that hears nothing also shows, before or after, that it would have heard."""


def until(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    """Wait for something that has no event to wait for; *what* is said if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        select.select([], [], [], 0.005)
