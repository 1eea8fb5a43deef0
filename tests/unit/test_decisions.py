"""Decisions from records alone: what becomes of a sandbox's published ports."""

from __future__ import annotations

from pynet.netlib.decisions import decide_unpublish
from pynet.netlib.model import PublishedPort, Room, SandboxRecord


class Counted(PublishedPort):
    """A port that counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return super().__eq__(other)

    __hash__ = PublishedPort.__hash__


def ports(count: int) -> tuple[PublishedPort, ...]:
    return tuple(Counted("tcp", "0.0.0.0", 10000 + n, 80) for n in range(count))


def room(has: tuple[PublishedPort, ...]) -> Room:
    return Room(SandboxRecord("a", "/x", ports=has))


def test_ports_that_are_withdrawn_are_gone_and_unknown_ones_passed_over() -> None:
    has = ports(5)
    after, gone = decide_unpublish(room(has[:4]), (has[3], has[1], has[4]))
    assert gone == (has[1], has[3])
    assert after.sandbox.ports == (has[0], has[2])
    assert decide_unpublish(room(has), None)[1] == has


def test_a_range_is_withdrawn_in_a_time_that_grows_with_it() -> None:
    """2,000 of 2,000 ports were four million comparisons: a third of a minute for ten thousand."""
    has, named = ports(2000), ports(2000)
    Counted.comparisons = 0
    after, gone = decide_unpublish(room(has), named)
    assert Counted.comparisons <= 3 * len(has)
    assert len(gone) == len(has)
    assert after.sandbox.ports == ()
