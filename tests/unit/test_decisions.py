"""Decisions from records and requests alone: published ports that are withdrawn, MAC addresses."""

from __future__ import annotations

import pytest

from pynet.netlib.decisions import decide_mac, decide_unpublish
from pynet.netlib.errors import InvalidArgument
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


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("00:00:00:00:00:00", "is none"),
        ("00-00-00-00-00-00", "is none"),
        ("01:00:5e:00:00:01", "is a multicast address"),
        ("02:00:00:00:00", "invalid MAC address: 02:00:00:00:00"),
    ],
)
def test_a_mac_address_that_no_interface_can_have_is_refused(asked: str, why: str) -> None:
    """The kernel's own refusal came at the join, without a word about the address."""
    with pytest.raises(InvalidArgument, match=why):
        decide_mac(asked, "")
