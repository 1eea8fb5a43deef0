"""The IPAM driver "dhcp": a server on the network's own wire gives the addresses.

    lease     asks for the endpoint's MAC address           the network's turn waits, and nobody else
    renew     when it is due (``due``), by netlib/renewal.py
    release   tells the server

Nothing is kept here: what a lease needs is its ``data`` (the server, until when, the wire, the MAC address), in the endpoint's
record.  So a lease outlives the process that asked for it.  The exchange is client.py; its wire comes from outside.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

from ...netlib.errors import Conflict, InvalidArgument, Unavailable
from ..driver import GATEWAY, NO_OPTIONS, Lease, Wanted
from ..request import PoolRequest
from . import message
from .client import TIMEOUT, Client, Grant, Wire

MOST_TIMEOUT = 120
RENEWAL_TIMEOUT = 3.0
"""Seconds that a renewal waits: there is time for more of them, and whoever ends the program waits for it."""
RETRY = 60.0
"""Seconds until a server that did not answer is asked again (RFC 2131 4.4.5), or sooner where the lease is shorter."""

OpenWire = Callable[[str, str], Wire]
"""A wire by the name of its interface, that also hears what is sent to a MAC address."""


class OutsideSubnet(Conflict):
    hint = "give the network the subnet that the server serves, or none"

    def __init__(self, address: str, subnets: Iterable[str]) -> None:
        super().__init__(f"the DHCP server gave {address}, which is not in {', '.join(subnets)}")


class DhcpIpam:
    name = "dhcp"
    needs_wire = True

    def __init__(self, open_wire: OpenWire, *, now: Callable[[], float] = time.time) -> None:
        self._open_wire = open_wire
        self._now = now
        self._timeouts: dict[str, float] = {}
        self._subnets: dict[str, tuple[str, ...]] = {}

    def open(
        self,
        network: str,
        requests: Sequence[PoolRequest],
        avoid: Callable[[int], Iterable[str]],
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> tuple[PoolRequest, ...]:
        timeout = _timeout(options)
        if any(request.version == 6 for request in requests):
            raise InvalidArgument("the IPAM driver dhcp gives IPv4 addresses alone", hint="leave out --ipv6")
        if not requests:
            raise InvalidArgument("the IPAM driver dhcp gives IPv4 addresses", hint="leave out --ipv4=false")
        for request in requests:
            if request.ip_range or request.any_of_size:
                raise InvalidArgument(
                    "with the IPAM driver dhcp the server chooses the addresses", hint="leave --ip-range out"
                )
            if any(not address for _, address in request.auxiliary):
                raise InvalidArgument(
                    "host_access needs an address of the host's that no DHCP server gives away",
                    hint="give --subnet and --aux-address host=ADDRESS",
                )
        given = tuple(request for request in requests if request.subnet)
        self._keep(network, given, timeout)
        return given

    def restore(
        self,
        network: str,
        pools: Sequence[PoolRequest],
        leases: Iterable[Lease],
        last: Iterable[str] = (),
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> None:
        self._keep(network, pools, _timeout(options))

    def _keep(self, network: str, pools: Iterable[PoolRequest], timeout: float) -> None:
        self._subnets[network] = tuple(pool.subnet for pool in pools if pool.subnet)
        self._timeouts[network] = timeout

    def close(self, network: str) -> None:
        self._subnets.pop(network, None)
        self._timeouts.pop(network, None)

    def lease(self, network: str, wanted: Wanted) -> Lease:
        if wanted.address6:
            raise InvalidArgument(
                f"invalid endpoint settings: no configured subnet contains IP address {wanted.address6}"
            )
        client = self._client(network, wanted.link, wanted.mac, wanted.name)
        asked = self._now()
        with self._open_wire(wanted.link, wanted.mac) as wire:
            grant = client.acquire(wire, wanted.address, wanted.holder)
            subnets = self._subnets[network]
            if subnets and not any(_contains(subnet, grant.address) for subnet in subnets):
                client.release(wire, grant)
                raise OutsideSubnet(grant.address, subnets)
        return _lease(grant, wanted.link, wanted.name, asked)

    def release(self, network: str, lease: Lease, last: Iterable[str] = ()) -> None:
        if not lease.data or not lease.address:
            return
        try:
            with self._open_wire(lease.data["link"], lease.data["mac"]) as wire:
                self._client(network, lease.data["link"], lease.data["mac"]).release(wire, _granted(lease))
        except OSError:
            pass  # the wire is down or gone: the server takes the address back when its time is over

    # -- what lasts only so long (netlib/renewal.py) -----------------------------------------------------------

    def due(self, lease: Lease) -> float | None:
        """When it is to be renewed (Unix time); None for one that lasts."""
        text = lease.data.get("due", "")
        return float(text) if text else None

    def ends(self, lease: Lease) -> float | None:
        """When its time is over (Unix time); None for one that lasts."""
        text = lease.data.get("expires", "")
        return float(text) if text else None

    def renew(self, network: str, lease: Lease) -> Lease:
        """The same for longer.  A server that is not there is told by the lease: it is due again later.  One that has lapsed
        is asked for anew.

        Refused (the server took the address back, or gives another), Unavailable (the time is over and nobody answered).
        """
        asked, data, grant = self._now(), lease.data, _granted(lease)
        client = self._client(network, data["link"], data["mac"], data.get("name", ""), most=RENEWAL_TIMEOUT)
        ends = float(data["expires"])
        try:
            with self._open_wire(data["link"], data["mac"]) as wire:
                if asked < ends and not lease.lapsed:
                    grant = client.renew(wire, grant, rebind=asked >= float(data["rebind"]))
                else:
                    grant = client.acquire(wire, grant.address)
        except (Unavailable, OSError):
            if asked >= ends or lease.lapsed:
                raise
            # RFC 2131 4.4.5: half of what is left until the next deadline, and at least a minute where there is one
            deadline = float(data["rebind"]) if asked < float(data["rebind"]) else ends
            return replace(lease, data={**data, "due": repr(asked + min(max((deadline - asked) / 2, 1), RETRY))})
        return _lease(grant, data["link"], data.get("name", ""), asked)

    def _client(self, network: str, link: str, mac: str, name: str = "", *, most: float = MOST_TIMEOUT) -> Client:
        return Client(link, mac, _hostname(name), min(self._timeouts.get(network, TIMEOUT), most))


def _lease(grant: Grant, link: str, name: str, asked: float) -> Lease:
    data = {"link": link, "mac": grant.mac, "name": name, "server": grant.server, "server_mac": grant.server_mac}
    if grant.router:
        data[GATEWAY] = grant.router
    if grant.time != message.FOREVER:
        data |= {
            "due": repr(asked + grant.renew_after),
            "rebind": repr(asked + grant.rebind_after),
            "expires": repr(asked + grant.time),
        }
    return Lease(f"{grant.address}/{grant.prefix}", "", data)


def _granted(lease: Lease) -> Grant:
    address, _, prefix = lease.address.partition("/")
    data = lease.data
    return Grant(data["mac"], address, int(prefix), data.get(GATEWAY, ""), data["server"], data["server_mac"], 0, 0, 0)


def _hostname(name: str) -> str:
    """A container's name as a host name (RFC 952, RFC 1123): what DNS servers that listen to the DHCP server make of it."""
    return re.sub(r"[^A-Za-z0-9-]", "-", name).strip("-")[:63]


def _contains(subnet: str, address: str) -> bool:
    return ip_address(address) in ip_network(subnet)


def _timeout(options: Mapping[str, str]) -> float:
    for name in options:
        if name != "timeout":
            raise InvalidArgument(f"unknown option {name} for the IPAM driver dhcp", hint="it takes timeout")
    text = options.get("timeout", f"{TIMEOUT:g}")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_TIMEOUT:
        raise InvalidArgument(f"invalid value {text!r} for option timeout: not between 1 and {MOST_TIMEOUT} seconds")
    return float(text)
