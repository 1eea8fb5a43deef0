"""How much an archive may ask for, and the account of what it took.

Whoever sends an archive decides what is in it, and compression makes much out of little: a megabyte may hold a terabyte of
zeros, or millions of names.  So what an archive costs (disk, inodes, memory, time) is bounded before it is spent, for all
that belongs to one import or load together.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidArchive


@dataclass(frozen=True, slots=True)
class Limits:
    entries: int = 2_000_000
    """Files and directories of all layers, those among them that no entry names."""
    bytes: int = 64 << 30
    """What the layers are when decompressed; and again the archive around them."""
    names: int = 256 << 20
    """Bytes of the paths that must be remembered until a layer is complete."""
    members: int = 100_000
    """Files of an archive of images."""
    documents: int = 64 << 20
    """Bytes of manifests, indexes and configurations, counted each time that one is read."""
    images: int = 1000
    """Images in one archive; and as many names for each of these on the average."""
    layers: int = 125
    """Layers of an image: moby's bound (layer/layer.go, maxLayerDepth)."""


class Budget:
    """What is left of the limits.  Every method takes some of it, or raises InvalidArchive."""

    __slots__ = ("_bytes", "_documents", "_entries", "_names", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._bytes, self._entries = limits.bytes, limits.entries
        self._names, self._documents = limits.names, limits.documents

    def spend_bytes(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise InvalidArchive(f"the archive is larger than {self.limits.bytes} bytes when unpacked")

    def spend_entry(self) -> None:
        self._entries -= 1
        if self._entries < 0:
            raise InvalidArchive(f"the archive has more than {self.limits.entries} entries")

    def spend_name(self, length: int) -> None:
        self._names -= length
        if self._names < 0:
            raise InvalidArchive(f"the archive's names have more than {self.limits.names} bytes")

    def spend_document(self, length: int) -> None:
        self._documents -= length
        if self._documents < 0:
            raise InvalidArchive(
                f"the archive's manifests and configurations have more than {self.limits.documents} bytes"
            )
