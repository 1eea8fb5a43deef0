"""A change that is shown and not made, as an answer says it: the calls with ``dry-run=1`` (docs/live.md)."""

from __future__ import annotations

from collections.abc import Iterable

from ..netlib.change import Step


def plan_shape(steps: Iterable[Step]) -> list[dict[str, str]]:
    """Each step in order: a verb (make, alter, unmake), and the line that says what it is done to."""
    return [{"Verb": step.verb, "What": str(step.resource)} for step in steps]
