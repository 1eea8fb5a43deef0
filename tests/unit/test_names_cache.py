"""The cache of answers, by a clock that the tests turn: against a slow model, within its bytes, under a flood."""

from __future__ import annotations

import gc
import random
import tracemalloc
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pynet.names.cache import Cache, Entry, Key
from pynet.names.reply import Reply


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(name: bytes | str | int, *, upstreams: int = 1, type: int = 1, dnssec: bool = False) -> Key:
    folded = name if isinstance(name, bytes) else str(name).encode()
    return (upstreams, folded, type, 1, dnssec, False)


def answer(ttl: int | None = 60, size: int = 40) -> Reply:
    return Reply(0, b"\1" * size, (1, 0, 0), array("I", (6, ttl or 0, size)), ttl=ttl)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_answer_is_there_until_its_ttl_is_over(clock: Clock) -> None:
    cache = Cache(clock=clock)
    kept = answer(60)
    cache.put(key("a"), kept)
    clock.now += 59.9
    entry = cache.get(key("a"))
    assert entry is not None and entry.reply is kept
    clock.now += 0.1
    assert cache.get(key("a")) is None


@pytest.mark.parametrize("ttl", [0, None])
def test_what_may_not_be_kept_takes_what_was_there_with_it(clock: Clock, ttl: int | None) -> None:
    cache = Cache(clock=clock)
    cache.put(key("a"), answer(60))
    assert cache.put(key("a"), answer(ttl)) is None
    assert cache.get(key("a")) is None and cache.bytes == 0


def test_whom_it_was_asked_of_and_how_is_part_of_the_question(clock: Clock) -> None:
    cache = Cache(clock=clock)
    cache.put(key("a"), answer())
    for other in (key("a", upstreams=2), key("a", type=28), key("a", dnssec=True), (1, b"a", 1, 1, False, True)):
        assert cache.get(other) is None
    cache.put(key("a", upstreams=2), answer())
    cache.forget(1)
    assert cache.get(key("a")) is None and cache.get(key("a", upstreams=2)) is not None


def test_what_has_ended_is_there_as_long_as_stale_answers_may_be_told(clock: Clock) -> None:
    cache = Cache(clock=clock, stale=100)
    cache.put(key("a"), answer(60))
    clock.now += 159
    entry = cache.get(key("a"))
    assert entry is not None and entry.ends < clock.now
    clock.now += 1
    assert cache.get(key("a")) is None


def test_what_is_asked_often_is_due_in_its_last_tenth(clock: Clock) -> None:
    cache = Cache(clock=clock)
    entry = cache.put(key("a"), answer(100))
    assert entry is not None
    clock.now += 95
    cache.get(key("a"))
    assert not cache.soon(entry), "asked once"
    for _ in range(2):
        cache.get(key("a"))
    assert cache.soon(entry)
    entry.refreshing = True
    assert not cache.soon(entry), "somebody asks already"
    renewed = cache.put(key("a"), answer(100))
    assert renewed is entry and not cache.soon(entry)


def test_a_long_answer_is_not_kept(clock: Clock) -> None:
    cache = Cache(clock=clock, largest=5000)
    assert cache.put(key("a"), answer(60, 4000)) is None
    assert cache.put(key("b"), answer(60, 1000)) is not None


def test_a_flood_of_random_names_does_not_push_out_what_is_asked_always(clock: Clock) -> None:
    """200 names in use, and ten times what the cache holds of names that are asked once, or twice: glibc asks again."""
    cache = Cache(256 << 10, clock=clock)
    hot = [key(f"hot{number}.example.org") for number in range(60)]
    chance, hits, asked = random.Random(5), 0, 0
    for one in hot:
        cache.put(one, answer(86400))
    for number in range(5000):
        random_name = key(f"{number:x}.attack.example.org")
        if cache.get(random_name) is None:
            cache.put(random_name, answer(3600))
        if number % 2:
            cache.get(random_name)
        one = chance.choice(hot)
        asked += 1
        if cache.get(one) is not None:
            hits += 1
        else:
            cache.put(one, answer(86400))
        assert cache.bytes <= cache.capacity
    assert hits / asked > 0.97, f"{hits / asked:.3f}"


def test_memory_is_what_the_cache_says_it_is(clock: Clock) -> None:
    """A flood of many times its capacity, measured by the interpreter's own count."""
    capacity = 1 << 20
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = Cache(capacity, clock=clock)
        for number in range(8000):
            entry = cache.put(key(f"name{number}.example.org".encode()), answer(3600, 40 + number % 400))
            if entry and number % 3 == 0:
                cache.get(key(f"name{number}.example.org"))
                entry.reply._at(1, None)  # told once: the aged copy is memory, too
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cache.evicted > 1000
    assert taken < capacity * 1.15, f"{taken} bytes of {capacity}"


def test_places_in_the_queues_of_what_is_gone_are_bounded(clock: Clock) -> None:
    cache = Cache(clock=clock)
    for number in range(5000):
        cache.put(key("a"), answer(60))
        cache.put(key("a"), answer(0))
        assert len(cache._small) + len(cache._main) < 200, number


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3000)), max_size=60))
def test_bytes_are_bounded_whatever_is_put(puts: list[tuple[int, int]]) -> None:
    cache = Cache(20_000, clock=Clock())
    for name, size in puts:
        cache.put(key(name), answer(60, size))
        cache.get(key(name))
        assert cache.bytes <= cache.capacity
        assert cache.bytes == sum(entry.size for entry in cache._entries.values())


class AgainstAModel(RuleBasedStateMachine):
    """A dictionary that knows every answer and forgets none that has not ended: what the cache has, it has; and a cache that has
    room has all of it."""

    @initialize(roomy=st.booleans(), stale=st.sampled_from([0.0, 50.0]))
    def begin(self, roomy: bool, stale: float) -> None:
        self.clock, self.roomy, self.stale = Clock(), roomy, stale
        self.cache = Cache(1 << 20 if roomy else 6000, largest=5000, stale=stale, clock=self.clock)
        self.model: dict[Key, tuple[Reply, float]] = {}

    keys = st.builds(
        key, st.integers(0, 8), upstreams=st.integers(1, 2), type=st.sampled_from([1, 28]), dnssec=st.booleans()
    )

    @rule(key=keys, ttl=st.sampled_from([0, 1, 10, 100, None]), size=st.integers(0, 300))
    def put(self, key: Key, ttl: int | None, size: int) -> None:
        kept = answer(ttl, size)
        self.cache.put(key, kept)
        if ttl and kept.size + 600 <= self.cache.largest:
            self.model[key] = (kept, self.clock.now + ttl)
        else:
            self.model.pop(key, None)

    @rule(key=keys)
    def get(self, key: Key) -> None:
        entry: Entry | None = self.cache.get(key)
        known = self.model.get(key)
        if known and self.clock.now >= known[1] + self.stale:
            known = None
        if entry is not None:
            assert known is not None and entry.reply is known[0] and entry.ends == known[1]
        else:
            assert known is None or not self.roomy

    @rule(upstreams=st.integers(1, 2))
    def forget(self, upstreams: int) -> None:
        self.cache.forget(upstreams)
        self.model = {key: value for key, value in self.model.items() if key[0] != upstreams}

    @rule(seconds=st.sampled_from([0.5, 1, 9, 60]))
    def time_goes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def its_books_are_right(self) -> None:
        entries = self.cache._entries.values()
        assert self.cache.bytes == sum(entry.size for entry in entries) <= self.cache.capacity
        assert self.cache._small_bytes == sum(entry.size for entry in entries if not entry.in_main)
        queued = [entry for queue in (self.cache._small, self.cache._main) for entry in queue if entry.key]
        assert len(queued) == len(self.cache)


TestAgainstAModel = AgainstAModel.TestCase
