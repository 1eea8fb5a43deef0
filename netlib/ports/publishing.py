"""Publishing ports: from bindings to leases, listening sockets, NAT rules and proxy ports.

    binding ----> port table        a lease, or PortInUse with the holder's name
            ----> bind(2), listen   a socket: another program that has the port is an error now, not a silent loss later
            ----> PortForwards      NAT: traffic from outside, from the host's own addresses, and hairpin
            ----> ProxyPorts        the userland proxy: loopback, and host addresses of the family that the container lacks

The socket is bound for NAT'd ports too: it is what keeps other programs off the port, and it is what the proxy serves.
It stays open here (``sockets``), so a forwarder that dies loses no port; a new one is sent all of them again.

A port with a PROXY protocol header is the proxy's alone: NAT would lead past it.  Without a proxy, loopback goes through
NAT as well, and host addresses of a family that the container lacks are left out.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..driver import Driver
from ..errors import InvalidArgument, PortInUse, PynetError
from ..firewall.intents import PortRule, is_loopback
from ..model import EndpointRecord, NetworkRecord, PublishedPort
from ..registry import Registry
from ..resources import PortForwards, ProxyPort, ProxyPorts, Resource
from .bind import bind
from .leases import UNSPECIFIED, EphemeralRange, PortLease, PortTable
from .portspec import PortBinding

_ANY = {4: "0.0.0.0", 6: "::"}


def socket_id(port: PublishedPort) -> str:
    return f"{port.proto}/{port.host_ip}/{port.host_port}"


class Publisher:
    """Thread-safe: the port table has a lock of its own, and each socket's name has one owner."""

    def __init__(self, sockets: dict[str, socket.socket], *, has_proxy: bool) -> None:
        self._sockets = sockets
        self._has_proxy = has_proxy
        self._table = PortTable()

    # -- leases and sockets ----------------------------------------------------------------------------------

    def restore(self, owner: str, ports: Iterable[PublishedPort]) -> None:
        self._table.restore(PortLease(port.proto, port.host_ip, port.host_port, owner) for port in ports)

    def adopt(self, ports: Iterable[PublishedPort], found: dict[str, socket.socket]) -> list[PublishedPort]:
        """Sockets for restored ports: from *found* (a forwarder that outlived us), else bound anew; the lost ones."""
        lost: list[PublishedPort] = []
        for port in ports:
            id = socket_id(port)
            if id in found:
                self._sockets[id] = found.pop(id)
            elif id not in self._sockets:
                try:
                    self._sockets[id] = _bind(port)
                except (PynetError, OSError):
                    lost.append(port)
        return lost

    def bind(
        self, endpoint: EndpointRecord, network: NetworkRecord, bindings: Sequence[PortBinding]
    ) -> tuple[PublishedPort, ...]:
        """Lease and bind every binding on each of its host addresses; all, or none and an error."""
        done: list[PublishedPort] = []
        try:
            for binding in bindings:
                if binding.proxy_protocol and not self._has_proxy:
                    raise InvalidArgument(
                        "the PROXY protocol needs the userland proxy, and there is none",
                        hint="give the controller one: Controller(..., proxy=ForwarderClient(...))",
                    )
                addresses = self._host_addresses(binding, endpoint, network)
                done += self._bind_one(endpoint.id, binding, addresses)
        except BaseException:
            self.release(endpoint.id, done)
            raise
        return tuple(done)

    def _host_addresses(
        self, binding: PortBinding, endpoint: EndpointRecord, network: NetworkRecord
    ) -> tuple[str, ...]:
        asked = binding.host_ip or network.option("com.docker.network.bridge.host_binding_ipv4", "host_binding")
        has = {4: bool(endpoint.address), 6: bool(endpoint.address6)}
        if asked:
            version = 6 if ":" in asked else 4
            if not self._has_proxy and not has[version]:
                raise InvalidArgument(
                    f"can not publish on {asked}: the container has no IPv{version} address and there is no userland proxy"
                )
            return (asked,)
        versions = [4, 6] if host_has_ipv6() else [4]
        return tuple(_ANY[version] for version in versions if self._has_proxy or has[version])

    def _bind_one(self, owner: str, binding: PortBinding, addresses: tuple[str, ...]) -> list[PublishedPort]:
        tried: set[int] = set()
        while True:
            if binding.ephemeral:
                port = self._table.claim_ephemeral(binding.proto, addresses, owner, ephemeral_range(), exclude=tried)
            else:
                port = self._table.claim(
                    binding.proto,
                    addresses,
                    owner,
                    first=binding.host_port_first,
                    last=binding.host_port_last,
                    exclude=tried,
                )
            ports = [
                PublishedPort(binding.proto, address, port, binding.container_port, binding.proxy_protocol)
                for address in addresses
            ]
            bound: list[PublishedPort] = []
            try:
                for published in ports:
                    self._sockets[socket_id(published)] = _bind(published)
                    bound.append(published)
                return ports
            except BaseException as error:
                self._close(bound)
                self._table.release(binding.proto, addresses, port, owner)
                if not isinstance(error, PortInUse) or binding.host_port_first == binding.host_port_last != 0:
                    raise
                tried.add(port)  # another program has this one; the range or the ephemeral ports have more

    def release(self, owner: str, ports: Iterable[PublishedPort]) -> None:
        """Close the sockets and give the leases back; what is gone already is passed over."""
        ports = tuple(ports)
        self._close(ports)
        for port in ports:
            self._table.release(port.proto, (port.host_ip,), port.host_port, owner)

    def _close(self, ports: Iterable[PublishedPort]) -> None:
        for port in ports:
            sock = self._sockets.pop(socket_id(port), None)
            if sock is not None:
                sock.close()

    # -- plans -----------------------------------------------------------------------------------------------

    def plan(self, registry: Registry, driver_of: Callable[[str], Driver], endpoint: EndpointRecord) -> list[Resource]:
        """What must exist for the ports in the endpoint's record."""
        if not endpoint.ports:
            return []
        network = registry.networks[endpoint.network]
        bridge = driver_of(network.driver).bridge(network)
        rules = tuple(
            PortRule(
                proto=port.proto,
                host_ip="" if port.host_ip in UNSPECIFIED else port.host_ip,
                host_port=port.host_port,
                target_ip=target,
                target_port=port.container_port,
                bridge=bridge,
            )
            for port in endpoint.ports
            if (target := _same_family(endpoint, port.host_ip))
            # what NAT leads past the proxy has no header; a rule for a loopback address only guards it
            and (not port.proxy_protocol or is_loopback(port.host_ip))
        )
        plan: list[Resource] = [PortForwards(endpoint.id, rules)] if rules else []
        if self._has_proxy:
            proxied = tuple(
                ProxyPort(
                    id=socket_id(port),
                    proto=port.proto,
                    target_ip=_same_family(endpoint, port.host_ip) or endpoint.ip or endpoint.ip6,
                    target_port=port.container_port,
                    proxy_protocol=port.proxy_protocol,
                )
                for port in endpoint.ports
            )
            plan.append(ProxyPorts(endpoint.id, proxied))
        return plan


def _same_family(endpoint: EndpointRecord, host_ip: str) -> str:
    return endpoint.ip6 if ":" in host_ip else endpoint.ip


def _bind(port: PublishedPort) -> socket.socket:
    return socket.socket(fileno=bind(port.proto, port.host_ip, port.host_port))


def ephemeral_range() -> EphemeralRange:
    """The kernel's own range for local ports, and the ports the administrator reserved in it (ip-sysctl.rst)."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        reserved = Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text().strip()
    except OSError:
        return EphemeralRange()
    ports: set[int] = set()
    for part in filter(None, reserved.split(",")):
        first, _, last = part.partition("-")
        ports.update(range(int(first), int(last or first) + 1))
    return EphemeralRange(int(low), int(high), frozenset(ports))


@functools.cache
def host_has_ipv6() -> bool:
    """Whether this kernel lets us bind IPv6 sockets at all; probed once (it can not change while the kernel runs)."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::", 0))
    except OSError:
        return False
    return True
