"""IPAM drivers: who gives networks their subnets and endpoints their addresses.

    open      subnets for a new network          -> pools, with what was left open chosen
    restore   a network that is in the store     its pools and leases are taken again; nothing is stored here
    lease     addresses for a new endpoint       -> addresses, and whatever is needed to give them back
    release, close                               idempotent

A driver's networks are told apart by a key, the network's id.  What a lease needs beyond its addresses (a DHCP server's id and
the time that it is good for, a remote driver's own data) is its ``data``: it stands in the endpoint's record and comes back
with ``restore`` and ``release``.  ``lease`` is called in the network's turn and with no lock held, so it may ask somebody:
endpoints of that network wait meanwhile, and nobody else.

``default`` chooses from pools of this host (space.py); ``null`` gives nothing, for networks without addresses.  Others register a
class, made without arguments, under the entry-point group ``pynet.ipam``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Protocol

from ..netlib.errors import InvalidArgument, NotFound, NotSupported
from .errors import InvalidAddress, NoAvailableAddresses
from .pool import Pool
from .prefix import parse_address
from .request import PoolRequest
from .space import AddressSpace

NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
SERIAL = "com.docker.network.ipam.serial"
"""Option of the default driver: whether addresses are chosen in turn (true), or the lowest free one each time."""


GATEWAY = "com.docker.network.gateway"
"""In a lease's data: the next hop that came with it (Docker's name)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Addresses of one endpoint, as CIDR; "" for a family that it has none of."""

    address: str = ""
    address6: str = ""
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    lapsed: bool = False
    """Whether its time is over, and nobody uses its addresses any more."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Without prefix lengths."""
        return tuple(text.partition("/")[0] for text in (self.address, self.address6) if text)


def _nobody(address: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an endpoint asks for."""

    owner: str
    """Id of the endpoint."""
    address: str = ""
    """An address by value; "" leaves the choice."""
    address6: str = ""
    mac: str = ""
    name: str = ""
    """The endpoint's."""
    link: str = ""
    """The host's interface on whose wire the network is; "" where there is none that others are on too."""
    holder: Callable[[str], str] = _nobody
    """Who has an address of that wire, as far as this host knows; "" for nobody."""


class IpamDriver(Protocol):
    name: str

    def open(
        self,
        network: str,
        requests: Sequence[PoolRequest],
        avoid: Callable[[int], Iterable[str]],
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> tuple[PoolRequest, ...]:
        """Subnets for a network, complete with gateways; all of them or an error.  *avoid* tells, for an IP version, what the
        host uses (prefixes and addresses): a subnet that the driver chooses stays clear of it.  *options* are the network's
        for this driver; InvalidArgument for one that it does not know."""
        ...

    def restore(
        self,
        network: str,
        pools: Sequence[PoolRequest],
        leases: Iterable[Lease],
        last: Iterable[str] = (),
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> None:
        """What ``open`` and ``lease`` answered once, *last* the addresses that were chosen last."""
        ...

    def close(self, network: str) -> None:
        """Give the subnets back; nothing happens when there are none."""
        ...

    def lease(self, network: str, wanted: Wanted) -> Lease:
        """Addresses for an endpoint, one of each family that the network has; all or none."""
        ...

    def release(self, network: str, lease: Lease, last: Iterable[str] = ()) -> None:
        """Give addresses back; those that are free already are passed over.  With *last*, choose on after these: what was
        leased only to be shown leaves no trace."""
        ...


class DefaultIpam:
    """One address space for all networks of the controller.  Thread-safe."""

    name = "default"

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._pools: dict[str, tuple[Pool, ...]] = {}
        self._lock = threading.Lock()

    def open(
        self,
        network: str,
        requests: Sequence[PoolRequest],
        avoid: Callable[[int], Iterable[str]],
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> tuple[PoolRequest, ...]:
        serial = _is_serial(options)
        taken: list[PoolRequest] = []
        pools: list[Pool] = []
        try:
            for request in requests:
                used = () if request.subnet and not request.any_of_size else avoid(request.version)
                pool, chosen = self._space.open(request, avoid=used)
                pool.serial = serial
                pools.append(pool)
                taken.append(chosen)
        except BaseException:
            for pool in pools:
                self._space.release_pool(pool)
            raise
        with self._lock:
            self._pools[network] = tuple(pools)
        return tuple(taken)

    def restore(
        self,
        network: str,
        pools: Sequence[PoolRequest],
        leases: Iterable[Lease],
        last: Iterable[str] = (),
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> None:
        opened = self._pools[network] = tuple(self._space.open(pool)[0] for pool in pools)
        for pool in opened:
            pool.serial = _is_serial(options)
        for lease in leases:
            for address in lease.addresses:
                _pool_of(opened, address).reserve(address)
        for address in filter(None, last):
            _pool_of(opened, address).resume_after(address)

    def usage(self, network: str) -> dict[str, tuple[int, int]]:
        """Of each subnet: addresses that nobody can have any more, and those that can still be chosen."""
        return {str(pool.prefix): (pool.used + pool.reserved, pool.free) for pool in self._pools.get(network, ())}

    def close(self, network: str) -> None:
        with self._lock:
            pools = self._pools.pop(network, ())
        for pool in pools:
            self._space.release_pool(pool)

    def lease(self, network: str, wanted: Wanted) -> Lease:
        got: list[tuple[Pool, str]] = []
        texts: list[str] = []
        pools = self._pools[network]
        try:
            for version, address in ((4, wanted.address), (6, wanted.address6)):
                fitting = [pool for pool in pools if pool.version == version]
                if address:
                    fitting = [_pool_of(pools, address, version)]
                if not fitting:
                    texts.append("")
                    continue
                pool, chosen = _allocate(fitting, address)
                got.append((pool, chosen))
                texts.append(f"{chosen}/{pool.prefix.length}")
        except BaseException:
            for pool, address in got:
                pool.release(address)
            raise
        return Lease(texts[0], texts[1])

    def release(self, network: str, lease: Lease, last: Iterable[str] = ()) -> None:
        pools = self._pools.get(network, ())
        for address in lease.addresses:
            version, value = parse_address(address)
            for pool in pools:
                if pool.version == version and pool.prefix.first <= value <= pool.prefix.last:
                    pool.release(address)
        for address in filter(None, last):
            _pool_of(pools, address).resume_after(address)


class NullIpam:
    """For networks without addresses."""

    name = "null"

    def open(
        self,
        network: str,
        requests: Sequence[PoolRequest],
        avoid: Callable[[int], Iterable[str]],
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> tuple[PoolRequest, ...]:
        if any(request.subnet for request in requests):
            raise InvalidArgument("a network without addresses takes no subnets", hint="leave out --subnet")
        for name in options:
            raise InvalidArgument(f"unknown option {name} for the IPAM driver null", hint="it takes none")
        return ()

    def restore(
        self,
        network: str,
        pools: Sequence[PoolRequest],
        leases: Iterable[Lease],
        last: Iterable[str] = (),
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> None:
        pass

    def close(self, network: str) -> None:
        pass

    def lease(self, network: str, wanted: Wanted) -> Lease:
        if wanted.address or wanted.address6:
            raise InvalidArgument(
                "invalid endpoint settings: user-specified IP address is supported on user-defined networks only"
            )
        return Lease()

    def release(self, network: str, lease: Lease, last: Iterable[str] = ()) -> None:
        pass


def load_ipam(name: str) -> IpamDriver:
    """The IPAM driver of another package with this name; NotFound when there is none."""
    for entry in entry_points(group="pynet.ipam", name=name):
        try:
            found: IpamDriver = entry.load()()
        except Exception as error:  # whatever a stranger's module raises
            raise NotSupported(
                f"the IPAM driver {name} ({entry.value}) can not be loaded: {error}",
                hint="repair or remove its package",
            ) from error
        return found
    raise NotFound(
        f"could not find plugin {name} in v1 plugin registry: plugin not found", hint="default and null are here"
    )


def _is_serial(options: Mapping[str, str]) -> bool:
    for name in options:
        if name != SERIAL:
            raise InvalidArgument(f"unknown option {name} for the IPAM driver default", hint=f"it takes {SERIAL}")
    text = options.get(SERIAL, "true").lower()
    if text not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidArgument(f"invalid value {text!r} for option {SERIAL}: not true or false")
    return text in ("1", "t", "true")


def _allocate(pools: Sequence[Pool], wanted: str) -> tuple[Pool, str]:
    for pool in pools:
        try:
            return pool, pool.allocate(wanted or None)
        except NoAvailableAddresses:
            if wanted:
                raise
    raise NoAvailableAddresses(str(pools[0].prefix))


def _pool_of(pools: Sequence[Pool], address: str, version: int = 0) -> Pool:
    try:
        found, value = parse_address(address)
    except InvalidAddress:
        raise InvalidArgument(f"invalid endpoint settings: invalid IP address: {address}") from None
    if version and found != version:
        raise InvalidArgument(f"invalid endpoint settings: invalid IPv{version} address: {address}")
    for pool in pools:
        if pool.version == found and pool.prefix.first <= value <= pool.prefix.last:
            return pool
    raise InvalidArgument(
        f"invalid endpoint settings: no configured subnet contains IP address {address}",
        hint="the network has " + ", ".join(str(pool.prefix) for pool in pools),
    )
