"""The host ports of published ports: who holds which, and the sockets that keep other programs off.

    binding ----> table (leases.py)     a lease, or PortInUse with the holder's name
            ----> bind(2), listen(2)    a socket: another program that has the port is an error now, not a silent loss later

The sockets stay open here, also those of ports that NAT carries: they are what the proxy serves, a forwarder that dies loses
none, and a new one is sent all of them again.  A port's owner is the sandbox that it was published for; which endpoint it leads
to is the plan's business (plans.py), and may change while the socket goes on listening.

Every method may be called from any thread: the table has a lock of its own, and each socket's name has one owner.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InvalidArgument, PortInUse, PynetError
from ..model import PublishedPort
from .bind import bind
from .leases import EphemeralRange, PortLease, PortTable
from .portspec import PortBinding

Socket = socket.socket  # in the class below, "socket" is a method
ANY = {4: "0.0.0.0", 6: "::"}


class HostPorts:
    def __init__(self, *, has_proxy: bool) -> None:
        self._has_proxy = has_proxy
        self._table = PortTable()
        self._sockets: dict[str, Socket] = {}

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    @property
    def ids(self) -> frozenset[str]:
        """The ports whose sockets are held."""
        return frozenset(self._sockets)

    def socket(self, id: str) -> Socket | None:
        """A port's socket; None for one that another program took while nobody held it."""
        return self._sockets.get(id)

    # -- leases ----------------------------------------------------------------------------------------------

    def host_addresses(self, binding: PortBinding, host_ip: str, versions: Iterable[int]) -> tuple[str, ...]:
        """The addresses to bind for a container that has addresses of these IP *versions*; *host_ip* is the network's default.

        Without a proxy a host address can not lead to a container address of the other family.
        """
        asked, has = binding.host_ip or host_ip, set(versions)
        if asked:
            version = 6 if ":" in asked else 4
            if not self._has_proxy and version not in has:
                raise InvalidArgument(
                    f"can not publish on {asked}: the container has no IPv{version} address and there is no userland proxy"
                )
            return (asked,)
        known = [4, 6] if host_has_ipv6() else [4]
        return tuple(ANY[version] for version in known if self._has_proxy or version in has)

    def lease(
        self, owner: str, wanted: Sequence[tuple[PortBinding, tuple[str, ...]]], *, bound: bool = True
    ) -> tuple[PublishedPort, ...]:
        """Lease and bind every binding on each of its host addresses; all, or none and an error.

        Without *bound* (for a plan that is shown) no socket is made, and other programs' ports are not seen.
        """
        done: list[PublishedPort] = []
        try:
            for binding, addresses in wanted:
                if binding.proxy_protocol and not self._has_proxy:
                    raise InvalidArgument(
                        "the PROXY protocol needs the userland proxy, and there is none",
                        hint="give the controller one: Controller(..., proxy=ForwarderClient(...))",
                    )
                done += self._lease_one(owner, binding, addresses, bound=bound)
        except BaseException:
            self.give_back(owner, done)
            raise
        return tuple(done)

    def _lease_one(
        self, owner: str, binding: PortBinding, addresses: tuple[str, ...], *, bound: bool
    ) -> list[PublishedPort]:
        tried: set[int] = set()
        while True:
            port = self._claim(owner, binding, addresses, tried)
            ports = [
                PublishedPort(binding.proto, address, port, binding.container_port, binding.proxy_protocol)
                for address in addresses
            ]
            try:
                for published in ports if bound else ():
                    self._sockets[published.id] = _bind(published)
                return ports
            except BaseException as error:
                self.give_back(owner, ports)
                if not isinstance(error, PortInUse) or binding.host_port_first == binding.host_port_last != 0:
                    raise
                tried.add(port)  # another program has this one; the range or the ephemeral ports have more

    def _claim(self, owner: str, binding: PortBinding, addresses: tuple[str, ...], tried: set[int]) -> int:
        if binding.ephemeral:
            return self._table.claim_ephemeral(binding.proto, addresses, owner, ephemeral_range(), exclude=tried)
        return self._table.claim(
            binding.proto,
            addresses,
            owner,
            first=binding.host_port_first,
            last=binding.host_port_last,
            exclude=tried,
        )

    def give_back(self, owner: str, ports: Iterable[PublishedPort]) -> None:
        """Close the sockets and give the leases back; what is gone already is passed over."""
        for port in ports:
            sock = self._sockets.pop(port.id, None)
            if sock is not None:
                sock.close()
            self._table.release(port.proto, (port.host_ip,), port.host_port, owner)

    # -- after a start ---------------------------------------------------------------------------------------

    def restore(self, owner: str, ports: Iterable[PublishedPort]) -> None:
        """The leases of stored ports; ``recover`` has their sockets."""
        self._table.restore(PortLease(p.proto, p.host_ip, p.host_port, owner) for p in ports if p.host_port)

    def recover(self, ports: Iterable[PublishedPort], found: dict[str, Socket]) -> list[PublishedPort]:
        """Sockets for restored ports: from *found* (a forwarder that outlived us), else bound anew; the lost ones."""
        lost: list[PublishedPort] = []
        for port in ports:
            if port.id in self._sockets or not port.host_port:
                continue
            try:
                self._sockets[port.id] = found.pop(port.id) if port.id in found else _bind(port)
            except (PynetError, OSError):
                lost.append(port)
        return lost


def _bind(port: PublishedPort) -> Socket:
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
