"""Who holds which host port: bookkeeping without sockets.

A lease is (protocol, host address, port) with an owner, the sandbox's id.  As with bind(2), the unspecified address of
a family (0.0.0.0, ::) conflicts with every address of its family, and the families do not meet (the sockets are made
with IPV6_V6ONLY).

``claim`` leases one port on several addresses at once, because a port published on 0.0.0.0 and [::] has to be the same
on both.  Three ways to ask, as Docker's portallocator has them: one port; any port of a range; any port of the kernel's
ephemeral range, less its reserved ports.  Choices run on from the last one in that range and wrap, so a port that was
just given back is not handed out again at once.  A caller whose bind(2) finds the chosen port taken by another program
releases it and claims again, with the ports tried so far in ``exclude``.

Costs: a lease or a look-up is a dictionary access or two.  A choice is a search in a bitmap of ports that have no lease
at all, 8 KiB a protocol; only when that finds none are the ports looked at one by one that other addresses hold.

Leases are not stored here.  They are in the sandboxes' records, and ``restore`` puts them back at start.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bitarray import bitarray

from ..errors import Conflict, PortInUse
from .portspec import MAX_PORT

UNSPECIFIED = {"0.0.0.0", "::"}


class AllPortsAllocated(Conflict):
    """No port of the range is free on all the addresses (Docker's wording; Docker answers 500)."""

    status = 500
    hint = "publish a port of your choice, or widen the range (for ephemeral ports: net.ipv4.ip_local_port_range)"

    def __init__(self, first: int, last: int, proto: str) -> None:
        super().__init__("all ports are allocated")
        self.first, self.last, self.proto = first, last, proto


@dataclass(frozen=True, slots=True)
class EphemeralRange:
    """ip_local_port_range less ip_local_reserved_ports; the default is Docker's for hosts that have neither."""

    low: int = 49153
    high: int = 65535
    reserved: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, order=True)
class PortLease:
    proto: str
    host_ip: str
    port: int
    owner: str


class PortTable:
    """The leases of one host.  Every method may be called from any thread."""

    def __init__(self, leases: Iterable[PortLease] = ()) -> None:
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, int, int], dict[str, str]] = {}  # (proto, version, port) -> address -> owner
        self._owned: dict[str, set[tuple[str, str, int]]] = {}
        self._vacant: dict[str, bitarray] = {}  # by protocol: 1 for every port without any lease
        self._cursors: dict[tuple[str, int, int], int] = {}  # (proto, low, high) -> chosen last
        self.restore(leases)

    def claim(
        self,
        proto: str,
        addresses: Sequence[str],
        owner: str,
        *,
        first: int,
        last: int | None = None,
        exclude: Collection[int] = (),
    ) -> int:
        """Lease one port of first..last on every address, all or none; the port.

        A single port (``last`` None or the same) that is held raises PortInUse with the holder.  In a range, ports in
        ``exclude`` are passed over, and AllPortsAllocated says that none is left.  Addresses are canonical texts,
        "0.0.0.0" and "::" included, that do not cover each other.  An owner's own lease is a conflict like any other.
        """
        last = first if last is None else last
        if not 1 <= first <= last <= MAX_PORT:
            raise ValueError(f"no port range: {first}-{last}")
        _check_apart(addresses)
        with self._lock:
            if first == last:
                for address in addresses:
                    holder = self._holder(proto, address, first)
                    if holder is not None:
                        raise PortInUse(address, first, proto, holder=holder)
                port = first
            else:
                port = self._choose(proto, addresses, first, last, exclude)
                self._cursors[proto, first, last] = port
            for address in addresses:
                self._add(proto, address, port, owner)
            return port

    def claim_ephemeral(
        self,
        proto: str,
        addresses: Sequence[str],
        owner: str,
        ephemeral: EphemeralRange,
        *,
        exclude: Collection[int] = (),
    ) -> int:
        """Lease the next ephemeral port on every address."""
        low, high = max(1, ephemeral.low), min(ephemeral.high, MAX_PORT)
        passed_over = ephemeral.reserved.union(exclude) if exclude else ephemeral.reserved
        if low == high and low in passed_over:
            raise AllPortsAllocated(low, high, proto)
        return self.claim(proto, addresses, owner, first=low, last=high, exclude=passed_over)

    def release(self, proto: str, addresses: Iterable[str], port: int, owner: str) -> None:
        """Give a port back on these addresses.  Idempotent; a lease of another owner stays."""
        with self._lock:
            for address in addresses:
                self._remove(proto, address, port, owner)

    def holder(self, proto: str, address: str, port: int) -> str | None:
        """The owner of a lease that a claim of this address and port would run into."""
        with self._lock:
            return self._holder(proto, address, port)

    def restore(self, leases: Iterable[PortLease]) -> None:
        """Put stored leases back; what is there already stays.  PortInUse when two owners hold the same."""
        with self._lock:
            for lease in leases:
                if (lease.proto, lease.host_ip, lease.port) in self._owned.get(lease.owner, ()):
                    continue
                holder = self._holder(lease.proto, lease.host_ip, lease.port)
                if holder is not None:
                    raise PortInUse(lease.host_ip, lease.port, lease.proto, holder=holder)
                self._add(lease.proto, lease.host_ip, lease.port, lease.owner)

    def __iter__(self) -> Iterator[PortLease]:
        with self._lock:
            return iter([PortLease(*lease, owner=owner) for owner, leases in self._owned.items() for lease in leases])

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._owned.values()))

    # -- with the lock held -------------------------------------------------------------------------------------------

    def _holder(self, proto: str, address: str, port: int) -> str | None:
        held = self._leases.get((proto, _version(address), port))
        if not held:
            return None
        if address in UNSPECIFIED:
            return next(iter(held.values()))
        return held.get(address, held.get("::" if ":" in address else "0.0.0.0"))

    def _choose(
        self,
        proto: str,
        addresses: Sequence[str],
        first: int,
        last: int,
        exclude: Collection[int],
    ) -> int:
        start = self._cursors.get((proto, first, last), last) + 1
        vacant = self._vacant_ports(proto)
        for low, high in ((start, last), (first, start - 1)):
            port: int = vacant.find(1, low, high + 1) if low <= high else -1
            while port >= 0 and port in exclude:
                port = vacant.find(1, port + 1, high + 1)
            if port >= 0:
                return port
        # Every port has a lease somewhere; one that only other addresses hold is still good.
        for port in (*range(start, last + 1), *range(first, start)):
            if port in exclude:
                continue
            if all(self._holder(proto, address, port) is None for address in addresses):
                return port
        raise AllPortsAllocated(first, last, proto)

    def _vacant_ports(self, proto: str) -> bitarray:
        vacant = self._vacant.get(proto)
        if vacant is None:
            vacant = self._vacant[proto] = bitarray(MAX_PORT + 1)
            vacant.setall(1)
        return vacant

    def _add(self, proto: str, address: str, port: int, owner: str) -> None:
        self._leases.setdefault((proto, _version(address), port), {})[address] = owner
        self._owned.setdefault(owner, set()).add((proto, address, port))
        self._vacant_ports(proto)[port] = 0

    def _remove(self, proto: str, address: str, port: int, owner: str) -> None:
        version = _version(address)
        held = self._leases.get((proto, version, port))
        if not held or held.get(address) != owner:
            return
        del held[address]
        if not held:
            del self._leases[proto, version, port]
            if (proto, 10 - version, port) not in self._leases:  # nor in the other family
                self._vacant_ports(proto)[port] = 1
        owned = self._owned[owner]
        owned.discard((proto, address, port))
        if not owned:
            del self._owned[owner]


def _check_apart(addresses: Sequence[str]) -> None:
    """One claim can not hold an address twice, as bind(2) could not."""
    versions = [_version(address) for address in addresses]
    for address in addresses:
        if addresses.count(address) > 1 or (address in UNSPECIFIED and versions.count(_version(address)) > 1):
            raise ValueError(f"addresses overlap: {', '.join(addresses)}")


def _version(address: str) -> int:
    return 6 if ":" in address else 4
