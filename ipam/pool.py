"""A pool: one subnet and the addresses leased from it.

    subnet     |N|......................................|B|     N, B: reserved by the protocol, never leased
    ip_range           |-----------------|                      where the pool itself chooses
    leases             0 1 2 ...   ^hint                        a bitmap or a set over ip_range (leases.py)
    outside    explicit addresses elsewhere in the subnet       a set

Addresses that nobody asked for by name come from the ip_range alone, next-fit: the search starts after the one handed
out last and wraps.  So a freed address rests for a lap before it serves again, and a neighbour's ARP entry or a
client's cached name does not lead to the wrong container (Docker takes the lowest free one, and has those races).  An
explicit address may be any usable address of the subnet.

Reserved are the network and broadcast address of IPv4 (RFC 1122 3.2.1.3; not in a /31, RFC 3021, nor in a /32) and the
subnet-router anycast address of IPv6 (RFC 4291 2.6.1; not in a /127, RFC 6164, nor in a /128).

A pool that was stored is rebuilt by ``reserve`` of every stored lease; ``resume_after`` the newest of them restores the
rest that freed addresses have.
"""

from __future__ import annotations

import threading

import netaddr

from .errors import AddressInUse, AddressOutOfRange, NoAvailableAddresses
from .leases import leases_for
from .prefix import WIDTH, Prefix, format_address, parse_address


class Pool:
    """Made by an AddressSpace, whose lock it shares.  Every method may be called from any thread."""

    def __init__(self, prefix: Prefix, sub_range: Prefix | None = None, *, lock: threading.RLock | None = None) -> None:
        self.prefix = prefix
        self.range_prefix = sub_range or prefix
        self.version = prefix.version
        self._lock = lock or threading.RLock()
        self._first, self._last = usable(prefix)
        self._base = max(self._first, self.range_prefix.first)
        # A range of reserved addresses only ("10.0.0.0/32" of a /24) is legal and simply empty.
        size = max(0, min(self._last, self.range_prefix.last) - self._base + 1)
        self._leases = leases_for(size, self.version)
        self._outside: set[int] = set()
        self._hint = 0
        self.serial = True
        """False: the lowest free address each time, and none rests."""
        self._spared: int | None = None

    @property
    def subnet(self) -> netaddr.IPNetwork:
        return self.prefix.network()

    @property
    def ip_range(self) -> netaddr.IPNetwork:
        """Where addresses are chosen; the subnet itself if none was given."""
        return self.range_prefix.network()

    @property
    def capacity(self) -> int:
        """Usable addresses of the subnet."""
        return self._last - self._first + 1

    @property
    def used(self) -> int:
        """Addresses that are taken, gateway and auxiliary ones included, wherever in the subnet."""
        return self._leases.used + len(self._outside)

    @property
    def reserved(self) -> int:
        """Addresses that the protocol keeps: network and broadcast address, or the routers' anycast address."""
        return self.prefix.size - self.capacity

    @property
    def free(self) -> int:
        """How many addresses the pool can still choose; with an ip_range that is less than capacity - used."""
        spared = self._spared is not None and self._spared not in self._leases
        return self._leases.size - self._leases.used - spared

    def spare_first(self) -> None:
        """Never choose the subnet's first usable address, which is given to who asks for it by value; not in a subnet of two."""
        if self.capacity > 2 and self._base == self._first and self._leases.size:
            self._spared = 0

    def _next_free(self, start: int) -> int | None:
        number = self._leases.next_free(start)
        return self._leases.next_free(number + 1) if number is not None and number == self._spared else number

    def gateway_candidate(self) -> str:
        """The first usable address of the subnet that is not taken: the customary gateway."""
        with self._lock:
            value = self._first
            while value <= self._last:
                if 0 <= value - self._base < self._leases.size:
                    number = self._leases.next_free(value - self._base)
                    if number is not None:
                        return format_address(self.version, self._base + number)
                    value = self._base + self._leases.size
                elif value in self._outside:
                    value += 1
                else:
                    return format_address(self.version, value)
        raise NoAvailableAddresses(str(self.prefix))

    def allocate(self, address: str | None = None) -> str:
        """Lease the next free address of the ip_range, or exactly this one; the address in canonical form.

        NoAvailableAddresses when the range is used up; for an explicit address the errors of ``reserve``.
        """
        if address is not None:
            return self.reserve(address)
        with self._lock:
            leases = self._leases
            if leases.used >= leases.size:
                raise NoAvailableAddresses(str(self.range_prefix))
            number = self._next_free(self._hint if self.serial else 0)
            if number is None:
                number = self._next_free(0)
            if number is None:
                raise NoAvailableAddresses(str(self.range_prefix))
            leases.take(number)
            self._hint = number + 1
            return format_address(self.version, self._base + number)

    def reserve(self, address: str) -> str:
        """Take exactly this address (gateway, auxiliary, explicit, restored); the address in canonical form.

        InvalidAddress, AddressOutOfRange (not of the subnet), AddressInUse (taken or reserved by the protocol).
        """
        value = self._value(address)
        if value is None:
            raise AddressOutOfRange(address, str(self.prefix))
        shown = format_address(self.version, value)
        with self._lock:
            if not self._first <= value <= self._last:
                raise AddressInUse(shown, str(self.prefix), reserved=True)
            number = value - self._base
            if 0 <= number < self._leases.size:
                taken = self._leases.take(number)
            else:
                taken = value not in self._outside
                self._outside.add(value)
        if not taken:
            raise AddressInUse(shown, str(self.prefix))
        return shown

    def release(self, address: str) -> None:
        """Give an address back.  Idempotent: an address that is not leased, or not ours, is no error; junk is."""
        value = self._value(address)
        if value is None:
            return
        with self._lock:
            number = value - self._base
            if 0 <= number < self._leases.size:
                self._leases.free(number)
            else:
                self._outside.discard(value)

    def resume_after(self, address: str) -> None:
        """Go on choosing after this address, as if it had been handed out last; without effect outside the range, but for the
        address before it: then the first one is next."""
        value = self._value(address)
        if value is not None and -1 <= value - self._base < self._leases.size:
            with self._lock:
                self._hint = value - self._base + 1

    def __contains__(self, address: str) -> bool:
        """Is this address leased?"""
        value = self._value(address)
        if value is None:
            return False
        with self._lock:
            number = value - self._base
            return number in self._leases if 0 <= number < self._leases.size else value in self._outside

    def __repr__(self) -> str:
        return f"<Pool {self.prefix} range {self.range_prefix}: {self.used} used, {self.free} free>"

    def _value(self, address: str) -> int | None:
        """The number of an address of the subnet; None if it is none."""
        version, value = parse_address(address)
        return value if version == self.version and self.prefix.first <= value <= self.prefix.last else None


def usable(prefix: Prefix) -> tuple[int, int]:
    """First and last address that a host may have."""
    if WIDTH[prefix.version] - prefix.length <= 1:
        return prefix.first, prefix.last
    return prefix.first + 1, prefix.last - (1 if prefix.version == 4 else 0)
