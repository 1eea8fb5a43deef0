"""How well servers answer, and who is asked first: by a clock that the tests turn."""

from __future__ import annotations

import pytest

from pynet.names.health import LATE_IN_A_ROW, LEAST_PATIENCE, LONGEST_REST, MOST_PATIENCE, UNKNOWN, Health, ranked


class Server:
    now = 1000.0

    def __init__(self) -> None:
        self.health = Health(lambda: Server.now)


@pytest.fixture
def servers() -> list[Server]:
    return [Server() for _ in range(3)]


def test_the_fastest_is_first_and_the_unheard_between_fast_and_slow(servers: list[Server]) -> None:
    slow, unheard, fast = servers
    assert ranked(servers) == servers, "nothing is known: as they were named"
    slow.health.answered(0.3)
    fast.health.answered(0.01)
    assert ranked(servers) == [fast, unheard, slow]


def test_patience_follows_what_a_server_usually_takes() -> None:
    health = Server().health
    assert health.patience == UNKNOWN
    for _ in range(50):
        health.answered(0.001)
    assert health.patience == LEAST_PATIENCE
    for _ in range(50):
        health.answered(0.1)
    assert 0.1 < health.patience < 0.15
    for _ in range(50):
        health.answered(3.0)
    assert health.patience == MOST_PATIENCE


def test_who_fails_rests_longer_each_time_and_is_probed_once_a_rest(servers: list[Server]) -> None:
    first = servers[0]
    rests = list[float]()
    for _ in range(8):
        first.health.failed()
        first.health.failed()  # of the same moment: one rest
        assert ranked(servers)[-1] is first and not first.health.probe()
        rests.append(first.health.rests_until - Server.now)
        Server.now = first.health.rests_until
        assert ranked(servers)[-1] is first, "until it has answered"
        assert first.health.probe() and not first.health.probe()
    assert rests[:5] == [1, 2, 4, 8, 16] and rests[-1] == LONGEST_REST
    first.health.answered(0.001)
    assert ranked(servers)[0] is first and not first.health.probe()
    first.health.failed()
    assert first.health.rests_until - Server.now == 1


def test_who_is_late_comes_later_and_rests_after_some_in_a_row(servers: list[Server]) -> None:
    first, second, _ = servers
    for one in servers:
        one.health.answered(0.05)
    first.health.late(0.2)
    assert ranked(servers)[0] is second and not first.health.resting
    for _ in range(LATE_IN_A_ROW - 1):
        first.health.late(0.2)
    assert first.health.resting


def test_who_was_slow_once_is_tried_again_when_that_has_faded(servers: list[Server]) -> None:
    slow, fast, _ = servers
    slow.health.answered(1.0)
    fast.health.answered(0.01)
    asked = 0
    while ranked([slow, fast])[0] is fast:
        slow.health.fade()
        asked += 1
        assert asked < 500
    assert asked > 100
