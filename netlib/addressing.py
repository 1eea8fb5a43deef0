"""The library's use of IPAM: which driver serves a network, and between records and what the drivers speak of.

Nothing is stored here: at start each driver gets its networks' pools and their endpoints' leases back from the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from ..ipam.defaults import DefaultPool
from ..ipam.dhcp.client import Wire
from ..ipam.dhcp.driver import DhcpIpam, OpenWire
from ..ipam.driver import DefaultIpam, IpamDriver, Lease, NullIpam, Wanted, load_ipam
from ..ipam.errors import NoAvailableAddresses
from ..ipam.prefix import Prefix
from ..ipam.request import PoolRequest, check_request
from ..ipam.space import AddressSpace
from .applier import step
from .driver import Reserved
from .errors import Unavailable
from .model import EndpointRecord, IpamConfig, NetworkRecord


class NoAddressLeft(NoAvailableAddresses):
    """Docker's text names the network."""

    status = 500

    def __init__(self, version: int, network: NetworkRecord, subnet: str) -> None:
        super().__init__(subnet)
        self.message = (
            f"no available IPv{version} addresses on this network's address pools: {network.name} ({network.id})"
        )
        self.args = (self.message,)


def _no_wire(link: str, mac: str) -> Wire:
    raise Unavailable(f"nobody can be asked on {link} from here")


class Addressing:
    def __init__(self, pools: Sequence[DefaultPool], open_wire: OpenWire = _no_wire) -> None:
        """*pools* are where subnets for networks that name none come from; by *open_wire* DHCP servers are asked."""
        self.pools = tuple(pools)
        self._space = AddressSpace(pools=self.pools)
        known: tuple[IpamDriver, ...] = (DefaultIpam(self._space), NullIpam(), DhcpIpam(open_wire))
        self._drivers: dict[str, IpamDriver] = {driver.name: driver for driver in known}

    def is_own(self, prefix: Prefix) -> bool:
        """Whether a prefix is part of the subnet of a network."""
        return self._space.holds(prefix)

    def driver(self, name: str) -> IpamDriver:
        """The IPAM driver with this name; NotFound or NotSupported when it is not to be had."""
        if name not in self._drivers:
            self._drivers[name] = load_ipam(name)
        return self._drivers[name]

    def needs_wire(self, network: NetworkRecord) -> bool:
        """Whether the network's addresses come from somebody on its own wire, who wants to know whom they are for."""
        return bool(getattr(self.driver(network.ipam_driver), "needs_wire", False))

    def check(self, network: NetworkRecord, configs: Sequence[IpamConfig]) -> None:
        """Whether these subnets could be asked for at all: InvalidNetworkConfig, NotFound (the IPAM driver)."""
        self.driver(network.ipam_driver or "default")
        check_request(configs, ipv6=network.ipv6)

    def open(
        self,
        network: NetworkRecord,
        configs: Sequence[IpamConfig],
        avoid: Callable[[int], Iterable[str]],
        reserved: Reserved,
    ) -> tuple[IpamConfig, ...]:
        """Subnets for a new network: those it asks for, and one for each enabled family that it names none of; its driver has
        some addresses of each *reserved*."""
        requests = [
            request for request in check_request(configs, ipv6=network.ipv6) if network.ipv4 or request.version == 6
        ]
        if network.ipam_driver != "null":
            for version, enabled in ((4, network.ipv4), (6, network.ipv6)):
                if enabled and not any(request.version == version for request in requests):
                    requests.append(PoolRequest(version))
        requests = [_with(reserved, request) for request in requests]
        opened = self.driver(network.ipam_driver).open(network.id, requests, avoid, network.ipam_options)
        return tuple(
            IpamConfig(pool.subnet or "", pool.ip_range or "", pool.gateway or "", dict(pool.auxiliary))
            for pool in opened
        )

    def restore(self, network: NetworkRecord, endpoints: Iterable[EndpointRecord], reserved: Reserved) -> None:
        """The pools and leases of a network that is in the store; one that only holds a configuration has none."""
        if network.config_only:
            return
        pools = [
            PoolRequest(
                config.version,
                config.subnet,
                config.ip_range or None,
                config.gateway or None,
                tuple(config.aux.items()),
                has_gateway=False,  # it would stand there
                shared_wire=reserved.shared_wire,
            )
            for config in network.ipam
        ]
        self.driver(network.ipam_driver).restore(
            network.id, pools, map(_lease, endpoints), network.last, network.ipam_options
        )

    def usage(self, network: NetworkRecord) -> dict[str, tuple[int, int]]:
        """Of each subnet: how many addresses are in use or reserved, and how many can still be chosen."""
        driver = self.driver(network.ipam_driver)
        return driver.usage(network.id) if isinstance(driver, DefaultIpam) else {}

    def close(self, network: NetworkRecord) -> None:
        self.driver(network.ipam_driver).close(network.id)

    def lease(self, network: NetworkRecord, wanted: Wanted) -> Lease:
        try:
            with step("lease", f"an address for {wanted.name}"):
                return self.driver(network.ipam_driver).lease(network.id, wanted)
        except NoAvailableAddresses as error:
            if type(error) is not NoAvailableAddresses or wanted.address or wanted.address6:
                raise
            raise NoAddressLeft(6 if ":" in error.subnet else 4, network, error.subnet) from error

    def release(self, network: NetworkRecord, endpoint: EndpointRecord, *, shown: bool = False) -> None:
        """Give an endpoint's addresses back; those that were only *shown* are as if never leased."""
        last = _chosen_before(network, endpoint) if shown else ()
        self.driver(network.ipam_driver).release(network.id, _lease(endpoint), last)


def _chosen_before(network: NetworkRecord, endpoint: EndpointRecord) -> tuple[str, ...]:
    """What each family had chosen last when this endpoint's addresses were chosen: that of a new network chose none, and goes on
    after the one before the endpoint's."""
    found: list[str] = []
    for own, last in zip((endpoint.ip, endpoint.ip6), network.last or ("", "")):
        found.append(last or (str(ip_address(own) - 1) if own and own not in endpoint.static else ""))
    return tuple(found)


def _with(reserved: Reserved, request: PoolRequest) -> PoolRequest:
    named = {name for name, _ in request.auxiliary}
    chosen = tuple((name, "") for name in reserved.auxiliary if name not in named)
    return replace(
        request,
        has_gateway=reserved.gateway,
        auxiliary=(*request.auxiliary, *chosen),
        shared_wire=reserved.shared_wire,
    )


def _lease(endpoint: EndpointRecord) -> Lease:
    return Lease(endpoint.address, endpoint.address6, endpoint.lease)
