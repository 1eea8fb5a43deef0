"""Restart policies: whether a container that ended starts again, and when.  Pure."""

from __future__ import annotations

from ..spec import Restart

FIRST, LONGEST = 0.1, 60.0
"""Seconds; the delay doubles (moby, restartmanager)."""
LONG_RUN = 10.0
"""Who ran this long starts with the first delay again."""


def wants_restart(policy: Restart, *, exit_code: int, restarts: int, stopped_by_user: bool) -> bool:
    """*restarts* counts those that this policy has made since the last start by a user."""
    if stopped_by_user:
        return False
    if policy["name"] in ("always", "unless-stopped"):
        return True
    if policy["name"] == "on-failure":
        return exit_code != 0 and (policy["max"] <= 0 or restarts < policy["max"])
    return False


def next_delay(previous: float, *, ran: float) -> float:
    """Seconds until the next start, after a run of *ran* seconds; *previous* is 0 before the first restart."""
    if previous == 0 or ran >= LONG_RUN:
        return FIRST
    return min(previous * 2, LONGEST)
