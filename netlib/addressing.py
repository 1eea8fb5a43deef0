"""The library's use of IPAM: which driver serves a network, and between records and what the drivers speak of.

Nothing is stored here: at start each driver gets its networks' pools and their endpoints' leases back from the records.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import ip_address

from ..ipam.driver import DefaultIpam, IpamDriver, Lease, NullIpam, Wanted, load_ipam
from ..ipam.errors import NoAvailableAddresses
from ..ipam.request import PoolRequest, check_request
from ..ipam.space import AddressSpace
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


class Addressing:
    def __init__(self, instance: str) -> None:
        self._drivers: dict[str, IpamDriver] = {
            driver.name: driver for driver in (DefaultIpam(AddressSpace(instance=instance)), NullIpam())
        }

    def driver(self, name: str) -> IpamDriver:
        """The IPAM driver with this name; NotFound or NotSupported when it is not to be had."""
        if name not in self._drivers:
            self._drivers[name] = load_ipam(name)
        return self._drivers[name]

    def check(self, network: NetworkRecord, configs: Sequence[IpamConfig]) -> None:
        """Whether these subnets could be asked for at all: InvalidNetworkConfig, NotFound (the IPAM driver)."""
        self.driver(network.ipam_driver or "default")
        check_request(configs, ipv6=network.ipv6)

    def open(
        self, network: NetworkRecord, configs: Sequence[IpamConfig], avoid: Callable[[int], Iterable[str]]
    ) -> tuple[IpamConfig, ...]:
        """Subnets for a new network: those it asks for, and one for each enabled family that it names none of."""
        requests = [
            request for request in check_request(configs, ipv6=network.ipv6) if network.ipv4 or request.version == 6
        ]
        if network.ipam_driver != "null":
            for version, enabled in ((4, network.ipv4), (6, network.ipv6)):
                if enabled and not any(request.version == version for request in requests):
                    requests.append(PoolRequest(version))
        opened = self.driver(network.ipam_driver).open(network.id, requests, avoid, network.ipam_options)
        return tuple(
            IpamConfig(pool.subnet or "", pool.ip_range or "", pool.gateway or "", dict(pool.auxiliary))
            for pool in opened
        )

    def restore(self, network: NetworkRecord, endpoints: Iterable[EndpointRecord]) -> None:
        """The pools and leases of a network that is in the store."""
        pools = [
            PoolRequest(
                config.version,
                config.subnet,
                config.ip_range or None,
                config.gateway or None,
                tuple(config.aux.items()),
            )
            for config in network.ipam
        ]
        self.driver(network.ipam_driver).restore(
            network.id, pools, map(_lease, endpoints), network.last, network.ipam_options
        )

    def close(self, network: NetworkRecord) -> None:
        self.driver(network.ipam_driver).close(network.id)

    def lease(self, network: NetworkRecord, wanted: Wanted) -> Lease:
        try:
            return self.driver(network.ipam_driver).lease(network.id, wanted)
        except NoAvailableAddresses as error:
            if type(error) is not NoAvailableAddresses or wanted.address or wanted.address6:
                raise
            raise NoAddressLeft(6 if ":" in error.subnet else 4, network, error.subnet) from error

    def release(self, network: NetworkRecord, endpoint: EndpointRecord, *, shown: bool = False) -> None:
        """Give an endpoint's addresses back; those that were only *shown* are as if never leased."""
        last = network.last if shown else ()
        self.driver(network.ipam_driver).release(network.id, _lease(endpoint), last)


def _lease(endpoint: EndpointRecord) -> Lease:
    return Lease(endpoint.address, endpoint.address6, endpoint.lease)


def host_avoids(version: int, but: Collection[str] = ()) -> list[str]:
    """Prefixes and addresses of an IP *version* that default pools must stay clear of: the host's routes and name servers.

    Routes through the interfaces named in *but*, our own bridges, are left out: their pools are in use already, and there may
    be thousands.  Read from the calling thread's namespace: /proc/thread-self/net/{route,ipv6_route} (proc_net(5)),
    /etc/resolv.conf.
    """
    routes = _routes4(but) if version == 4 else _routes6(but)
    return [*routes, *(address for address in _name_servers() if ip_address(address).version == version)]


def _routes4(but: Collection[str]) -> list[str]:
    found: list[str] = []
    for line in _lines("/proc/thread-self/net/route")[1:]:
        name, _, rest = line.partition("\t")
        if name in but:
            continue
        fields = rest.split()
        destination, mask = (int.from_bytes(bytes.fromhex(fields[at]), "little") for at in (0, 6))
        if mask:
            found.append(f"{ip_address(destination)}/{mask.bit_count()}")
    return found


def _routes6(but: Collection[str]) -> list[str]:
    found: list[str] = []
    for line in _lines("/proc/thread-self/net/ipv6_route"):
        if line[line.rfind(" ") + 1 :] in but:
            continue
        fields = line.split()
        length = int(fields[1], 16)
        if length:
            found.append(f"{ip_address(bytes.fromhex(fields[0]))}/{length}")
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []  # a kernel without this family


def _name_servers() -> list[str]:
    found: list[str] = []
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    try:
                        found.append(str(ip_address(words[1].partition("%")[0])))
                    except ValueError:
                        continue  # resolv.conf(5): the resolver passes over it too
    except OSError:
        pass  # no resolver configured
    return found
