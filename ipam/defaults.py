"""The subnets given to networks that ask for none.

IPv4: the first three are Docker's own first three, so a first network looks as people expect it (gateway 172.17.0.1).
After them come /24s, since a Linux bridge holds 1,023 ports anyway and Docker's 31 networks are its best-known limit;
192.168/16 is last, because homes and offices live there, and 10/8 is left to them and their VPNs.  Together 3,331.

IPv6: 65,536 /64s of a unique local /48 (RFC 4193) whose 40-bit global id is a hash of the instance's id, as Docker does
with its host id: stable over restarts, different between hosts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import InvalidPool
from .prefix import WIDTH, Prefix, parse_loose


@dataclass(frozen=True, slots=True)
class DefaultPool:
    """A block to cut subnets of one prefix length from (Docker's ``default-address-pools``)."""

    base: Prefix
    size: int

    @classmethod
    def parse(cls, base: str, size: int) -> DefaultPool:
        try:
            prefix, exact = parse_loose(base)
        except ValueError:
            raise InvalidPool(base, f"{base}: invalid CIDR block notation") from None
        if not exact:
            raise InvalidPool(base, f"{base}: it should be {prefix}")
        if not max(prefix.length, 1) <= size <= WIDTH[prefix.version]:
            raise InvalidPool(base, f"{base} can not be cut into /{size}")
        return cls(prefix, size)

    @property
    def count(self) -> int:
        return 1 << (self.size - self.base.length)


IPV4 = tuple(
    DefaultPool.parse(base, size)
    for base, size in (
        ("172.17.0.0/16", 16),
        ("172.18.0.0/16", 16),
        ("172.19.0.0/16", 16),
        ("172.20.0.0/14", 24),
        ("172.24.0.0/14", 24),
        ("172.28.0.0/14", 24),
        ("192.168.0.0/16", 24),
    )
)


def unique_local(instance: str) -> DefaultPool:
    """The /64s of the /48 that belongs to this instance id."""
    global_id = int.from_bytes(hashlib.sha256(instance.encode("utf-8", "surrogateescape")).digest()[-5:], "big")
    return DefaultPool(Prefix(6, 0xFD << 120 | global_id << 80, 48), 64)


def replaced_pools(configured: Iterable[tuple[str, int]], instance: str) -> tuple[DefaultPool, ...]:
    """The defaults with those of a family replaced that *configured*, (base, size) each, has any of.  InvalidPool."""
    own = [DefaultPool.parse(base, size) for base, size in configured]
    families = {pool.base.version for pool in own}
    return (*own, *(pool for pool in default_pools(instance) if pool.base.version not in families))


def default_pools(instance: str) -> tuple[DefaultPool, ...]:
    return (*IPV4, unique_local(instance))
