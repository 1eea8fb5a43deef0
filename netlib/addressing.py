"""The controller's use of IPAM: one address space, pools by network, addresses by endpoint record.

Nothing is stored here: at start pools are requested again from the networks' records, and addresses reserved again from
the endpoints'.  Not thread-safe by itself: the controller's lock is held around every call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network

from ..ipam.errors import NoAvailableAddresses
from ..ipam.pool import Pool
from ..ipam.request import PoolRequest, validate_network_config
from ..ipam.space import AddressSpace
from .errors import InvalidArgument
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
        self._space = AddressSpace(instance=instance)
        self._pools: dict[str, list[Pool]] = {}

    def open(
        self, network: NetworkRecord, configs: Sequence[IpamConfig], avoid: Iterable[str] = ()
    ) -> tuple[IpamConfig, ...]:
        """Pools for a new network: those it asks for, and a default one for each enabled family that it names none of."""
        requests = list(
            validate_network_config(
                [
                    {
                        "Subnet": config.subnet,
                        "IPRange": config.ip_range,
                        "Gateway": config.gateway,
                        "AuxiliaryAddresses": config.aux,
                    }
                    for config in configs
                ],
                ipv6=network.ipv6,
            )
        )
        if not network.ipv4:
            requests = [request for request in requests if request.version == 6]
        for version, enabled in ((4, network.ipv4), (6, network.ipv6)):
            if enabled and not any(request.version == version for request in requests):
                requests.append(PoolRequest(version))
        taken: list[IpamConfig] = []
        pools = self._pools[network.id] = []
        try:
            for request in requests:
                pool, gateway = self._space.open(request, avoid=avoid)
                pools.append(pool)
                taken.append(
                    IpamConfig(
                        subnet=str(pool.prefix),
                        ip_range=request.ip_range or "",
                        gateway=gateway,
                        aux=dict(request.auxiliary),
                    )
                )
        except BaseException:
            self.close(network.id)
            raise
        return tuple(taken)

    def restore(self, network: NetworkRecord, endpoints: Iterable[EndpointRecord]) -> None:
        """The pools and leases of a network that is in the store."""
        pools = self._pools[network.id] = []
        for config in network.ipam:
            request = PoolRequest(
                config.version,
                config.subnet,
                config.ip_range or None,
                config.gateway or None,
                tuple(config.aux.items()),
            )
            pools.append(self._space.open(request)[0])
        for endpoint in endpoints:
            for address in (endpoint.ip, endpoint.ip6):
                if address:
                    self._pool_of(network, address).reserve(address)
        for address in filter(None, network.last):
            self._pool_of(network, address).resume_after(address)

    def close(self, network_id: str) -> None:
        """Give a network's pools back; nothing happens when it has none."""
        for pool in self._pools.pop(network_id, ()):
            self._space.release_pool(pool)

    def allocate(self, network: NetworkRecord, ip: str, ip6: str) -> tuple[str, str]:
        """Addresses of a new endpoint as CIDR, one for each family that the network has; both or neither."""
        got: list[tuple[Pool, str]] = []
        texts: list[str] = []
        try:
            for version, wanted in ((4, ip), (6, ip6)):
                pools = [pool for pool in self._pools[network.id] if pool.version == version]
                if wanted:
                    pools = [self._pool_of(network, wanted, version)]
                if not pools:
                    texts.append("")
                    continue
                pool, address = self._allocate_from(network, pools, wanted)
                got.append((pool, address))
                texts.append(f"{address}/{pool.prefix.length}")
        except BaseException:
            for pool, address in got:
                pool.release(address)
            raise
        return texts[0], texts[1]

    def _allocate_from(self, network: NetworkRecord, pools: Sequence[Pool], wanted: str) -> tuple[Pool, str]:
        for pool in pools:
            try:
                return pool, pool.allocate(wanted or None)
            except NoAvailableAddresses:
                if wanted:
                    raise
        raise NoAddressLeft(pools[0].version, network, str(pools[0].prefix))

    def release(self, endpoint: EndpointRecord) -> None:
        for address in (endpoint.ip, endpoint.ip6):
            if address:
                for pool in self._pools.get(endpoint.network, ()):
                    if ip_address(address) in ip_network(str(pool.prefix)):
                        pool.release(address)

    def _pool_of(self, network: NetworkRecord, address: str, version: int = 0) -> Pool:
        try:
            value = ip_address(address)
        except ValueError:
            raise InvalidArgument(f"invalid endpoint settings: invalid IP address: {address}") from None
        if version and value.version != version:
            raise InvalidArgument(f"invalid endpoint settings: invalid IPv{version} address: {address}")
        for pool in self._pools[network.id]:
            if value in ip_network(str(pool.prefix)):
                return pool
        raise InvalidArgument(
            f"invalid endpoint settings: no configured subnet contains IP address {address}",
            hint="the network has " + ", ".join(str(pool.prefix) for pool in self._pools[network.id]),
        )


def host_avoids() -> list[str]:
    """Prefixes and addresses that default pools must stay clear of: the host's routes and name servers.

    Read from the calling thread's namespace: /proc/thread-self/net/{route,ipv6_route} (proc_net(5)), /etc/resolv.conf.
    """
    avoid: list[str] = []
    try:
        with open("/proc/thread-self/net/route", encoding="ascii") as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                destination = int.from_bytes(bytes.fromhex(fields[1]), "little")
                mask = int.from_bytes(bytes.fromhex(fields[7]), "little")
                if mask:
                    avoid.append(f"{ip_address(destination)}/{mask.bit_count()}")
    except FileNotFoundError:
        pass  # a kernel without IPv4 procfs entries
    try:
        with open("/proc/thread-self/net/ipv6_route", encoding="ascii") as lines:
            for line in lines:
                fields = line.split()
                length = int(fields[1], 16)
                if length:
                    avoid.append(f"{ip_address(bytes.fromhex(fields[0]))}/{length}")
    except FileNotFoundError:
        pass  # IPv6 is off
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    try:
                        avoid.append(str(ip_address(words[1].partition("%")[0])))
                    except ValueError:
                        continue  # resolv.conf(5): the resolver passes over it too
    except OSError:
        pass  # no resolver configured
    return avoid
