"""The edge between text and numbers: everything behind it computes with plain ints.

netaddr reads and checks the text, in the strict notation of inet_pton(3): no "10/8", no octal, no netmask after the
slash.  A ``Prefix`` is what is left: address family, first address, length.  Reading is cached, since the caller hands
in the host's routes with every request for a default pool, and most of them are the routes of our own networks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import netaddr

from .errors import InvalidAddress

WIDTH = {4: 32, 6: 128}


class Prefix(NamedTuple):
    """A block of addresses: 172.17.0.0/16 is ``Prefix(4, 0xAC110000, 16)``."""

    version: int
    first: int
    length: int

    @property
    def size(self) -> int:
        return 1 << (WIDTH[self.version] - self.length)

    @property
    def last(self) -> int:
        return self.first + self.size - 1

    def contains(self, other: Prefix) -> bool:
        """Is every address of the other block one of ours?"""
        return self.version == other.version and self.first <= other.first and other.last <= self.last

    def network(self) -> netaddr.IPNetwork:
        return netaddr.IPNetwork((self.first, self.length), version=4 if self.version == 4 else 6)

    def __str__(self) -> str:
        return f"{format_address(self.version, self.first)}/{self.length}"


def format_address(version: int, value: int) -> str:
    """The canonical text of an address (RFC 5952 for IPv6)."""
    if version == 4:  # on the path of every allocation, and four times as fast by hand
        return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"
    return str(netaddr.IPAddress(value, 6))


@lru_cache(maxsize=4096)
def parse_address(text: str) -> tuple[int, int]:
    """Family and number of an address; InvalidAddress for anything that inet_pton would not read."""
    try:
        # INET_PTON makes netaddr refuse "10.1", "010.0.0.1" and the like; IPv6 is always read strictly.
        address = netaddr.IPAddress(text, flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError):
        raise InvalidAddress(text) from None
    return address.version, int(address)


@lru_cache(maxsize=4096)
def parse_loose(text: str) -> tuple[Prefix, bool]:
    """A prefix, its host bits cut off, and whether there were none; ValueError for what is no prefix."""
    shown, slash, bits = text.partition("/")
    try:
        version, value = parse_address(shown)
    except InvalidAddress:
        raise ValueError(text) from None
    width = WIDTH[version]
    # Digits only and no leading zero, as Go's netip.ParsePrefix: "/+8", "/08" and "/255.0.0.0" are refused.
    if not slash or not bits.isascii() or not bits.isdigit() or len(bits) > 3 or (bits[0] == "0" and bits != "0"):
        raise ValueError(text)
    length = int(bits)
    if length > width:
        raise ValueError(text)
    first = value >> (width - length) << (width - length)
    return Prefix(version, first, length), first == value


def parse_block(text: str) -> Prefix:
    """A route or a name server of the host: a prefix or a single address, host bits and IPv6 zone cut off."""
    if "/" in text:
        try:
            return parse_loose(text)[0]
        except ValueError:
            raise InvalidAddress(text) from None
    version, value = parse_address(text.partition("%")[0])
    return Prefix(version, value, WIDTH[version])
