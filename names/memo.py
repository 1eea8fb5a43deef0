"""Replies by the question's bytes: the same question again costs a look-up.

    key     the query past its id, over UDP
    value   the reply past its id; or one for each order of its records, which take turns; or one that is right for a moment

A message is asked and answered by the same bytes as long as nothing has changed (Zones.stamp); who keeps a memo clears it then.
What came from outside has TTLs, and is right until the next second.  Only what is answered from views, names and the cache is
kept: names that nobody has, or that were never asked before, can not fill it.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

TURNS = 16
"""More orders than these are made anew each time: they are as many replies."""


class Turns:
    """Replies that take turns."""

    __slots__ = ("_next", "replies")

    def __init__(self, replies: Sequence[bytes], after: int) -> None:
        self.replies = replies
        self._next = after

    def next(self) -> bytes:
        reply = self.replies[self._next % len(self.replies)]
        self._next += 1
        return reply


class Passing:
    """A reply that is right until a moment of ``time.monotonic``."""

    __slots__ = ("_until", "reply")

    def __init__(self, reply: bytes, until: float) -> None:
        self.reply, self._until = reply, until

    def next(self) -> bytes | None:
        return self.reply if monotonic() < self._until else None


class Memo(dict[bytes, "bytes | Turns | Passing"]):
    """Bounded in number and bytes; the oldest goes first.  Looked up by ``get``, filled by ``keep`` alone."""

    __slots__ = ("_bytes", "_most", "_most_bytes")

    def __init__(self, most: int, most_bytes: int) -> None:
        super().__init__()
        self._most, self._most_bytes = most, most_bytes
        self._bytes = 0

    def keep(self, key: bytes, value: bytes | Turns | Passing) -> None:
        size = _size(key, value)
        if size > self._most_bytes or not self._most:
            return
        self.drop(key)
        while len(self) >= self._most or self._bytes + size > self._most_bytes:
            self.drop(next(iter(self)))
        self[key] = value
        self._bytes += size

    def drop(self, key: bytes) -> None:
        value = self.pop(key, None)
        if value is not None:
            self._bytes -= _size(key, value)

    def clear(self) -> None:
        super().clear()
        self._bytes = 0


def _size(key: bytes, value: bytes | Turns | Passing) -> int:
    """Near to what an entry takes of memory: three objects of CPython have some 50 bytes before their first."""
    if isinstance(value, bytes):
        return len(key) + len(value) + 150
    if isinstance(value, Passing):
        return len(key) + len(value.reply) + 250
    return len(key) + sum(len(reply) + 50 for reply in value.replies) + 250
