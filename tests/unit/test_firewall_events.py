"""Whom an event of another program concerns, and how soon a repair may follow the last one.  No kernel."""

from __future__ import annotations

import struct

import pytest

from pynet.netlib.firewall.watch import concern, program
from pynet.netlib.kernel.events import Event
from pynet.netlib.kernel.netlink import text
from pynet.netlib.watching import Pace

NEWTABLE, DELTABLE, NEWCHAIN, DELRULE, DELSETELEM, NEWGEN = 0, 2, 3, 8, 14, 15
INET, IP = 1, 2


def event(kind: int, family: int, *words: str, subsystem: int = 10) -> Event:
    body = struct.pack("!BBH", family, 0, 0) + b"".join(text(number, word) for number, word in enumerate(words, 1))
    return Event(subsystem << 8 | kind, 1, body)


@pytest.mark.parametrize(
    ("found", "whose"),
    [
        (event(DELTABLE, INET, "pynet"), "ours"),
        (event(DELRULE, INET, "pynet", "forward"), "ours"),
        (event(DELSETELEM, INET, "pynet", "bridges"), "ours"),
        (event(DELRULE, INET, "pynet", "pynet_user"), None),
        (event(NEWCHAIN, INET, "pynet", "\0", "pynet_user"), "ours"),
        (event(DELTABLE, IP, "pynet"), "others"),
        (event(NEWCHAIN, IP, "filter"), "others"),
        (event(DELRULE, IP, "filter", "FORWARD"), "others"),
        (event(DELSETELEM, INET, "crowdsec", "blocked"), None),
        (event(NEWGEN, INET, "pynet"), None),
        (event(DELTABLE, INET, "pynet", subsystem=1), None),
        (Event(10 << 8, 1, b""), None),
        (Event(10 << 8 | DELTABLE, 1, b"\1\0\0\0\xff\xff"), "others"),
    ],
)
def test_whom_it_concerns(found: Event, whose: str | None) -> None:
    assert concern(found, "pynet") == whose


def test_who_it_was_is_told_at_the_end_of_a_transaction() -> None:
    assert program([event(DELTABLE, INET, "pynet"), event(NEWGEN, 0, "", "", "nft")]) == "nft"
    assert program([event(DELTABLE, INET, "pynet")]) == ""


def test_the_first_repairs_are_free_and_then_the_wait_doubles() -> None:
    pace, now = Pace(free=3, quiet=10.0, longest=60.0), 100.0
    waits: list[float] = []
    for _ in range(12):
        pace.repaired(now)
        waits.append(pace.wait)
        assert pace.earliest == now + pace.wait
        now = pace.earliest
    assert waits == [0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]


def test_it_is_forgotten_when_it_was_quiet_for_long_enough() -> None:
    pace = Pace(free=2, quiet=10.0)
    for _ in range(6):
        pace.repaired(0.0)
    assert pace.wait == 16.0
    pace.rest(31.0)
    assert pace.wait == 16.0, "not sooner than twice the wait"
    pace.rest(33.0)
    assert (pace.count, pace.wait) == (0, 0.0)
