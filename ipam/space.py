"""An address space: pools that never overlap, and the choice of a subnet for networks that ask for none.

    request_pool("10.1.0.0/24")   exactly this one, or PoolOverlap; routes of the host do not hinder what the user says
    request_pool()                the lowest default subnet clear of pools in use, ``reserved`` and ``avoid``
    request_pool("0.0.0.0/26")    the same, of this size (``::/96`` for IPv6), as Docker does

What the host uses (routes, name servers) comes in as parameters; nothing here reads the system.  Pools in use are kept
as sorted intervals, so an overlap is one bisection however many networks there are.  For each default block
``_full_below`` remembers up to where every address is in use, so the search does not walk over all existing networks.

One lock guards the space and its pools: every operation takes microseconds, and a lock a pool would buy nothing under
Python's own.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import replace

import netaddr

from .defaults import DefaultPool, default_pools
from .errors import (
    AddressInUse,
    AddressOutOfRange,
    AuxiliaryAddressOutside,
    InvalidPool,
    InvalidSubPool,
    NoAvailableAddresses,
    NoMoreSubnets,
    PoolOverlap,
    ReservationFailed,
)
from .pool import Pool
from .prefix import WIDTH, Prefix, parse_block, parse_loose
from .request import PoolRequest


class AddressSpace:
    """Pools of both families.  ``reserved`` blocks are never chosen, but may be asked for by name.

    ``instance`` names the owner of the IPv6 defaults; ``pools`` replaces the default pools altogether.
    """

    def __init__(
        self,
        reserved: Iterable[netaddr.IPNetwork] = (),
        *,
        instance: str = "",
        pools: Sequence[DefaultPool] | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._defaults = tuple(default_pools(instance) if pools is None else pools)
        self._full_below = [default.base.first for default in self._defaults]
        self._reserved = tuple(Prefix(net.version, net.first, net.prefixlen) for net in reserved)
        self._pools: dict[tuple[int, int], Pool] = {}  # (version, first address)
        self._firsts: dict[int, list[int]] = {4: [], 6: []}  # sorted

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools in use, oldest first."""
        with self._lock:
            return tuple(self._pools.values())

    def request_pool(
        self,
        subnet: str | None = None,
        *,
        ip_range: str | None = None,
        version: int = 4,
        avoid: Iterable[str] = (),
    ) -> Pool:
        """Open a pool on this subnet, or on the next default one (see above) that ``avoid`` does not touch.

        ``avoid`` holds the host's routes and name servers, as prefixes or addresses; default routes say nothing.
        InvalidPool, InvalidSubPool, PoolOverlap, NoMoreSubnets.
        """
        wanted = _parse_pool(subnet) if subnet else None
        if wanted and wanted.length and wanted.first == 0:
            version, length = wanted.version, wanted.length
        else:
            length = None
        with self._lock:
            if wanted is None or length is not None:
                if ip_range:
                    raise InvalidSubPool(ip_range, f"{ip_range}: a range needs a subnet that it is part of")
                prefix, sub_range = self._choose(version, length, avoid), None
            else:
                prefix, sub_range = wanted, _parse_range(ip_range, wanted) if ip_range else None
                holder = self._overlapping(prefix)
                if holder is not None:
                    raise PoolOverlap(str(prefix), str(holder.prefix))
            pool = self._pools[prefix.version, prefix.first] = Pool(prefix, sub_range, lock=self._lock)
            insort(self._firsts[prefix.version], prefix.first)
            return pool

    def release_pool(self, pool: Pool) -> None:
        """Give the subnet back with all its leases.  Idempotent."""
        key = pool.prefix.version, pool.prefix.first
        with self._lock:
            if self._pools.get(key) is not pool:
                return
            del self._pools[key]
            firsts = self._firsts[pool.version]
            del firsts[bisect_right(firsts, pool.prefix.first) - 1]
            for index, default in enumerate(self._defaults):
                base = default.base
                if pool.prefix.contains(base) or base.contains(pool.prefix):
                    self._full_below[index] = min(self._full_below[index], max(pool.prefix.first, base.first))

    def open(self, request: PoolRequest, *, avoid: Iterable[str] = ()) -> tuple[Pool, PoolRequest]:
        """A pool with its gateway and auxiliary addresses set aside, and the request with all that was chosen; all of it or
        nothing.

        Without a gateway in the request it is the first usable address that no auxiliary address has, or "" when none is wanted.
        """
        with self._lock:
            pool = self.request_pool(request.subnet, ip_range=request.ip_range, version=request.version, avoid=avoid)
            try:
                if request.shared_wire and not request.gateway and not request.ip_range:
                    pool.spare_first()
                gateway = _set_aside(pool, request.gateway) if request.gateway else ""
                for name, address in request.auxiliary:
                    if address:
                        _set_aside(pool, address, auxiliary=name)
                if not gateway and request.has_gateway:
                    gateway = _set_aside(pool)
                chosen = tuple((name, address or pool.allocate()) for name, address in request.auxiliary)
                return pool, replace(request, subnet=str(pool.prefix), gateway=gateway, auxiliary=chosen)
            except BaseException:
                self.release_pool(pool)
                raise

    def holds(self, prefix: Prefix) -> bool:
        """Whether all of this block belongs to a pool in use."""
        with self._lock:
            pool = self._overlapping(prefix)
            return pool is not None and pool.prefix.contains(prefix)

    def _overlapping(self, prefix: Prefix) -> Pool | None:
        """A pool in use that shares an address with the prefix (the lowest but one at most)."""
        firsts = self._firsts[prefix.version]
        # Pools are disjoint, so of those that start at or below our last address only the highest can reach us.
        index = bisect_right(firsts, prefix.last) - 1
        if index < 0:
            return None
        pool = self._pools[prefix.version, firsts[index]]
        return pool if pool.prefix.last >= prefix.first else None

    def _choose(self, version: int, length: int | None, avoid: Iterable[str]) -> Prefix:
        # A default route ("0.0.0.0/0") goes everywhere and says nothing about who uses what.
        shunned = [*(block for block in map(parse_block, avoid) if block.length), *self._reserved]
        blocked = _disjoint(block for block in shunned if block.version == version)
        starts = [first for first, _ in blocked]
        for index, default in self._in_order(version, length):
            size = length or default.size
            step = 1 << (WIDTH[version] - size)
            candidate = _align(self._full_below[index], step)
            while candidate + step - 1 <= default.base.last:
                prefix = Prefix(version, candidate, size)
                holder = self._overlapping(prefix)
                if holder is not None:
                    end = holder.prefix.last
                    if holder.prefix.first <= self._full_below[index] <= end:
                        self._full_below[index] = end + 1
                else:
                    at = bisect_right(starts, prefix.last) - 1
                    if at < 0 or blocked[at][1] < candidate:
                        return prefix
                    end = blocked[at][1]
                candidate = _align(end + 1, step)
        raise NoMoreSubnets(version)

    def _in_order(self, version: int, length: int | None) -> list[tuple[int, DefaultPool]]:
        """The default blocks to try.  For a wanted length, first those whose own subnets hold it most tightly."""
        fitting = [(i, d) for i, d in enumerate(self._defaults) if d.base.version == version]
        if length is None:
            return fitting
        fitting = [(i, d) for i, d in fitting if d.base.length <= length]
        return sorted(fitting, key=lambda pair: (pair[1].size > length, abs(length - pair[1].size)))


def _set_aside(pool: Pool, address: str | None = None, *, auxiliary: str = "") -> str:
    """Reserve an auxiliary address or the gateway (no address: the customary one)."""
    try:
        return pool.reserve(address or pool.gateway_candidate())
    except (AddressInUse, AddressOutOfRange, NoAvailableAddresses) as error:
        shown = address or str(pool.prefix)
        if not auxiliary:
            raise ReservationFailed("gateway", shown, error) from None
        if isinstance(error, AddressOutOfRange):
            raise AuxiliaryAddressOutside(auxiliary, shown, str(pool.prefix)) from None
        raise ReservationFailed("secondary ip address", f"{auxiliary}:{shown}", error) from None


def _parse_pool(text: str) -> Prefix:
    try:
        prefix, exact = parse_loose(text)
    except ValueError:
        raise InvalidPool(text, f"{text}: invalid CIDR block notation") from None
    if not exact:
        raise InvalidPool(text, f"{text}: it should be {prefix}")
    if prefix.length == 0:
        raise InvalidPool(text, f"{text}: the whole address space is no subnet")
    return prefix


def _parse_range(text: str, subnet: Prefix) -> Prefix:
    try:
        prefix, exact = parse_loose(text)
    except ValueError:
        raise InvalidSubPool(text, f"{text}: invalid CIDR block notation") from None
    if prefix.version != subnet.version:
        raise InvalidSubPool(text, "pool and subpool are of incompatible address families")
    if not exact:
        raise InvalidSubPool(text, f"{text}: it should be {prefix}")
    if not subnet.contains(prefix):
        raise InvalidSubPool(text, f"{text} is no part of {subnet}")
    return prefix


def _align(value: int, step: int) -> int:
    return -(-value // step) * step


def _disjoint(prefixes: Iterable[Prefix]) -> list[tuple[int, int]]:
    """Sorted intervals (first, last) of what the prefixes cover together."""
    merged: list[tuple[int, int]] = []
    for prefix in sorted(prefixes, key=lambda p: (p.first, p.length)):
        # Two prefixes are nested or apart; the shorter one of a nest sorts first.
        if not merged or prefix.first > merged[-1][1]:
            merged.append((prefix.first, prefix.last))
    return merged
