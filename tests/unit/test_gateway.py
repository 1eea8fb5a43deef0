"""Which endpoint carries the default route, and what interfaces are called."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pynet.netlib.gateway import Candidate, choose, free_ifname


def candidate(name: str, priority: int = 0, gateway: str = "10.0.0.1", gateway6: str = "") -> Candidate:
    return Candidate(f"ep-{name}", name, priority, gateway, gateway6)


def test_the_rules_in_their_order() -> None:
    assert choose([]) == ("", "")
    assert choose([candidate("b"), candidate("a")]) == ("ep-a", "")
    assert choose([candidate("b", 1), candidate("a")]) == ("ep-b", "")
    assert choose([candidate("a"), candidate("b", gateway6="fd00::1")]) == ("ep-b", "ep-b")
    assert choose([candidate("a", 5, gateway=""), candidate("b")]) == ("ep-b", "")
    assert choose([candidate("a", 5, gateway="", gateway6="fd00::1"), candidate("b")]) == ("ep-b", "ep-a")


@given(
    st.lists(
        st.builds(candidate, st.uuids().map(str), st.integers(-3, 3), st.sampled_from(["", "10.0.0.1"]), st.just("")),
        unique_by=lambda c: c.endpoint,
    ),
    st.randoms(),
)
def test_the_order_of_candidates_does_not_matter(candidates: list[Candidate], shuffler: random.Random) -> None:
    before = choose(candidates)
    shuffler.shuffle(candidates)
    assert choose(candidates) == before


def test_the_lowest_free_name() -> None:
    assert free_ifname([]) == "eth0"
    assert free_ifname(["eth1", "eth0", "eth3"]) == "eth2"
    assert free_ifname(["eth0"], "lan") == "lan0"
