"""Answers of upstreams by what was asked, for as long as they say, within a bound in bytes.  Pure: the clock comes from outside.

    key    (upstreams, name, type, class, DO, CD)       of whom it was asked is part of it: other servers may say other things
    put    -> small --- asked again before it was its turn to go ---> main --- asked again: once more round
                `-- else: gone, remembered for a while in ``ghost``  (who comes back from there goes to main at once)

What is asked once must not push out what is asked always: a flood of random names goes through the small queue, a tenth of
the bytes, and no further.  This is S3-FIFO (Yang et al., FIFO queues are all you need for cache eviction, SOSP 2023): a hit
costs a look-up and two numbers, nothing is moved.  What has ended is not searched for; it goes when its turn comes, or when
it is asked for again.

Answers end with their smallest TTL, absences by their SOA (RFC 2308): reply.py decides on that.  Kept for *stale* seconds more
they may be said when nobody knows better (RFC 8767).
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from .reply import Reply

Key = tuple[int, bytes, int, int, bool, bool]
"""(upstreams, folded name, type, class, DO, CD)"""

CAPACITY: Final = 8 << 20
LARGEST: Final = 16 << 10
"""Bytes of one entry: longer answers are told and not kept."""
HOT: Final = 3
"""Times that an answer must have been asked for to be asked for again before it ends."""
_GHOSTS: Final = 2048
"""One for so many bytes of capacity; each takes some 120, which are not counted."""
_LIVES: Final = 3
_SMALL: Final = 10
"""A tenth."""
_SWEEP: Final = 64
_OVERHEAD: Final = 400
"""An entry's objects: the key and its numbers, the slots, its places in the dictionary and a queue."""


def clock() -> float:
    """Seconds, those that the machine slept too: an answer ages meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Entry:
    __slots__ = ("asked", "ends", "in_main", "key", "lives", "refreshing", "reply", "retry", "size", "stored")

    def __init__(self, key: Key, reply: Reply, stored: float, ends: float) -> None:
        self.key: Key | None = key
        """None: no longer in the cache."""
        self.lives = 0
        self.in_main = False
        self.renew(reply, stored, ends)

    def renew(self, reply: Reply, stored: float, ends: float) -> None:
        self.reply, self.stored, self.ends = reply, stored, ends
        self.asked = 0
        """Times since it was stored."""
        self.refreshing = False
        """Whether it is being asked for again."""
        self.retry = 0.0
        """Ended, and nobody knew better: not asked again before then (RFC 8767 5, failure recheck timer)."""
        self.size = entry_size(self.key, reply) if self.key else 0


def entry_size(key: Key, reply: Reply) -> int:
    return reply.size + len(key[1]) + _OVERHEAD


class Cache:
    """Not thread-safe."""

    def __init__(
        self,
        capacity: int = CAPACITY,
        *,
        largest: int = LARGEST,
        stale: float = 0.0,
        clock: Callable[[], float] = clock,
    ) -> None:
        """*capacity* in bytes; *stale*: seconds for which what has ended may still be had."""
        self.capacity, self.largest, self.stale, self.clock = capacity, min(largest, capacity // _SMALL), stale, clock
        self.bytes = 0
        """Taken now: a good estimate of the memory, tests measure it."""
        self.evicted = 0
        """Gone before they ended, for want of room."""
        self._entries: dict[Key, Entry] = {}
        self._small: deque[Entry] = deque()
        self._main: deque[Entry] = deque()
        self._small_bytes = 0
        self._ghost: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        """What is known; it may have ended (``ends``), no longer than *stale* ago.  Counts as asked for."""
        entry = self._entries.get(key)
        if entry is None or self._ended(entry):
            return None
        entry.asked += 1
        if entry.lives < _LIVES:
            entry.lives += 1
        return entry

    def peek(self, key: Key) -> Entry | None:
        """The same, and nobody has asked for it."""
        entry = self._entries.get(key)
        return None if entry is None or self._ended(entry) else entry

    def put(self, key: Key, reply: Reply, ttl: float | None = None) -> Entry | None:
        """Keep *reply* for its TTL, or *ttl*; None when it is not kept.  In the place of what was there, which goes in any
        case: it is no longer so."""
        keep = reply.ttl if ttl is None else ttl
        entry = self._entries.get(key)
        now = self.clock()
        if not keep or entry_size(key, reply) > self.largest:
            if entry is not None:
                self._drop(entry)
            return None
        if entry is None:
            entry = Entry(key, reply, now, now + keep)
            self._make_room(entry.size)
            ghost = hash(key)
            entry.in_main = ghost in self._ghost
            if entry.in_main:
                del self._ghost[ghost]
            self._entries[key] = entry
            self._count(entry, entry.size)
            (self._main if entry.in_main else self._small).append(entry)
            return entry
        self._count(entry, -entry.size)
        entry.renew(reply, now, now + keep)
        self._count(entry, entry.size)
        self._make_room(0)  # it may have grown, and be the one that goes
        return entry if entry.key else None

    def soon(self, entry: Entry) -> bool:
        """Whether an answer that is asked for often is about to end, and nobody asks for it anew yet: its last tenth, or
        second."""
        if entry.asked < HOT or entry.refreshing:
            return False
        return entry.ends - self.clock() <= max((entry.ends - entry.stored) / 10, 1.0)

    def forget(self, upstreams: int) -> None:
        """Everything that these upstreams said: they are not asked any more, or the network is another one."""
        for entry in [entry for entry in self._entries.values() if entry.key and entry.key[0] == upstreams]:
            self._drop(entry)

    def _count(self, entry: Entry, size: int) -> None:
        self.bytes += size
        if not entry.in_main:
            self._small_bytes += size

    def _drop(self, entry: Entry) -> None:
        """Take it out but for its place in a queue, which goes in its turn, or when there are more such than entries."""
        self._take_out(entry)
        if len(self._small) + len(self._main) > 2 * len(self._entries) + _SWEEP:
            self._small = deque(entry for entry in self._small if entry.key)
            self._main = deque(entry for entry in self._main if entry.key)

    def _take_out(self, entry: Entry) -> None:
        if entry.key is not None:
            del self._entries[entry.key]
            self._count(entry, -entry.size)
            entry.key, entry.reply = None, _NOTHING

    def _make_room(self, size: int) -> None:
        while self.bytes + size > self.capacity and self._entries:
            if self._small and (self._small_bytes * _SMALL > self.capacity or not self._main):
                self._pass_small()
            else:
                self._pass_main()

    def _pass_small(self) -> None:
        entry = self._small.popleft()
        if entry.key is None:
            return
        if entry.lives > 1 and not self._ended(entry):
            self._small_bytes -= entry.size
            entry.in_main = True
            self._main.append(entry)
            return
        self._ghost[hash(entry.key)] = None
        if len(self._ghost) * _GHOSTS > self.capacity:
            self._ghost.popitem(last=False)
        self._evict(entry)

    def _pass_main(self) -> None:
        entry = self._main.popleft()
        if entry.key is None:
            return
        if entry.lives and not self._ended(entry):
            entry.lives -= 1
            self._main.append(entry)
            return
        self._evict(entry)

    def _ended(self, entry: Entry) -> bool:
        """A failure is never worth telling later."""
        return self.clock() >= entry.ends + (self.stale if entry.reply.answers else 0.0)

    def _evict(self, entry: Entry) -> None:
        self.evicted += not self._ended(entry)
        self._take_out(entry)


_NOTHING: Final = Reply(0)
