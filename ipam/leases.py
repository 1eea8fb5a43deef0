"""Which numbers of 0..size-1 are taken: two representations, one for dense ranges and one for vast ones.

``Bitmap`` keeps one bit a number in chunks of 65,536 that come into being when first written and go when empty, so an
untouched /8 costs nothing and a full one 2 MiB.  Full chunks are known by name: finding a free number skips those and
looks into at most two others (8 KiB each, a word at a time), whatever the number of leases.

``Sparse`` keeps a set.  An IPv6 /64 has 2**64 numbers and leases in unforeseeable places (a chunk each would be 8 KiB
a lease).  Finding a free number steps over the taken ones from the start; the pool's next-fit start passes each lease
once a lap, and a lap is more than 2**24 allocations long.

netaddr's own IPSet was measured at 15 allocations a second with 2,000 holes in a /16; these do over a million.
"""

from __future__ import annotations

from bitarray import bitarray

CHUNK_BITS = 16
CHUNK = 1 << CHUNK_BITS

# Above this a set takes less memory for any number of leases that a host can hold.
DENSE_LIMIT = 1 << 24


class Bitmap:
    """Taken numbers of a dense range.  A number outside 0..size-1 is the caller's bug, here and in ``Sparse``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._chunks: dict[int, bitarray] = {}
        self._taken_in: dict[int, int] = {}  # keys as _chunks
        self._full: set[int] = set()

    def __contains__(self, number: int) -> bool:
        chunk = self._chunks.get(number >> CHUNK_BITS)
        return chunk is not None and bool(chunk[number & (CHUNK - 1)])

    def take(self, number: int) -> bool:
        """Mark as taken; False if it was."""
        index, bit = number >> CHUNK_BITS, number & (CHUNK - 1)
        chunk = self._chunks.get(index)
        if chunk is None:
            chunk = self._chunks[index] = bitarray(min(CHUNK, self.size - (index << CHUNK_BITS)))
            self._taken_in[index] = 0
        elif chunk[bit]:
            return False
        chunk[bit] = 1
        self.used += 1
        self._taken_in[index] += 1
        if self._taken_in[index] == len(chunk):
            self._full.add(index)
        return True

    def free(self, number: int) -> bool:
        """Mark as free; False if it was."""
        index, bit = number >> CHUNK_BITS, number & (CHUNK - 1)
        chunk = self._chunks.get(index)
        if chunk is None or not chunk[bit]:
            return False
        chunk[bit] = 0
        self.used -= 1
        self._taken_in[index] -= 1
        self._full.discard(index)
        if not self._taken_in[index]:
            del self._chunks[index], self._taken_in[index]
        return True

    def next_free(self, start: int) -> int | None:
        """The lowest free number that is not below ``start``; None if there is none."""
        index, bit = start >> CHUNK_BITS, start & (CHUNK - 1)
        while index << CHUNK_BITS < self.size:
            if index not in self._full:
                chunk = self._chunks.get(index)
                found = bit if chunk is None else chunk.find(0, bit)
                if found >= 0:
                    number = (index << CHUNK_BITS) + found
                    return number if number < self.size else None
            index, bit = index + 1, 0
        return None


class Sparse:
    """Taken numbers of a range too vast for a bitmap."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken: set[int] = set()

    @property
    def used(self) -> int:
        return len(self._taken)

    def __contains__(self, number: int) -> bool:
        return number in self._taken

    def take(self, number: int) -> bool:
        if number in self._taken:
            return False
        self._taken.add(number)
        return True

    def free(self, number: int) -> bool:
        if number not in self._taken:
            return False
        self._taken.remove(number)
        return True

    def next_free(self, start: int) -> int | None:
        while start in self._taken:
            start += 1
        return start if start < self.size else None


def leases_for(size: int, version: int) -> Bitmap | Sparse:
    """The representation for a range of this size: IPv4 is always dense enough, IPv6 only in small ranges."""
    return Bitmap(size) if version == 4 or size <= DENSE_LIMIT else Sparse(size)
