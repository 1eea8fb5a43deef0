"""What the host uses of the address space: its routes and its name servers.

Subnets that are chosen stay clear of both; one that a user names does not have to, as with Docker, and whoever asked is told of
the route in its way.  Read from the calling thread's namespace: /proc/thread-self/net/{route,ipv6_route} (proc_net(5)), and
/etc/resolv.conf.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from ..ipam.prefix import Prefix
from .model import IpamConfig

RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x40, 0x400
RTM_NEWROUTE, RTM_DELROUTE, RT_TABLE_LOCAL, RTA_DST = 24, 25, 255, 1
RTN_LOCAL, RTN_MULTICAST = 2, 5
"""Between them are broadcast and anycast: the kernel's own, which come with an address."""
_ROUTE = struct.Struct("=IHHII8BI")
"""struct nlmsghdr and struct rtmsg (linux/netlink.h, linux/rtnetlink.h)."""


@dataclass(frozen=True, slots=True)
class HostUse:
    prefix: str
    """CIDR, or an address."""
    interface: str = ""
    """Where the route leads; "" for a name server."""

    def __str__(self) -> str:
        return f"route {self.prefix} through {self.interface}" if self.interface else f"name server {self.prefix}"


class HostUses:
    """The same, read again only when a route came or went that is no network's own.

    Reading costs as much as there are routes, and every network has one; the kernel tells of changes (rtnetlink(7),
    RTMGRP_IPV4_ROUTE and _IPV6_ROUTE).  Of the namespace that it is made in, and to be used there; thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, list[HostUse]] = {}
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE))

    def close(self) -> None:
        self._socket.close()

    def forget(self) -> None:
        """A network went: what was passed over as its own may have been somebody else's."""
        with self._lock:
            self._known = {}

    def look(
        self, version: int, is_own: Callable[[Prefix], bool], own_links: Callable[[], Collection[str]]
    ) -> list[HostUse]:
        """``host_uses``.  *is_own*: is a prefix part of a network's subnet?  *own_links*: the interfaces of networks."""
        with self._lock:
            if self._changed(is_own):
                self._known = {}
            cache = self._known
            known = cache.get(version)
        if known is None:
            # into the cache of before: what came meanwhile was told, or made another
            known = cache[version] = host_uses(version, own_links())
            return known
        return [*(use for use in known if use.interface), *_servers(version)]

    def _changed(self, is_own: Callable[[Prefix], bool]) -> bool:
        """Read what the kernel told since the last time."""
        changed = False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # more than the socket holds: anything may have happened
                continue
            changed = changed or any(not is_own(prefix) for prefix in _told(data))


def _told(data: bytes) -> Iterator[Prefix]:
    """Destinations of the routes that these messages are about; default and link-local ones say nothing."""
    at = 0
    while at + _ROUTE.size <= len(data):
        length, kind, family, bits, table, route_type = _header(data, at)
        end = min(at + max(length, _ROUTE.size), len(data))
        if (
            kind in (RTM_NEWROUTE, RTM_DELROUTE)
            and not RTN_LOCAL <= route_type <= RTN_MULTICAST
            and table != RT_TABLE_LOCAL
            and bits
        ):
            version = 4 if family == socket.AF_INET else 6
            raw = _destination(data[at + _ROUTE.size : end])
            first = int.from_bytes(raw, "big")
            if raw and not (version == 6 and (first >> 118 == 0x3FA or first >> 120 == 0xFF)):
                yield Prefix(version, first, bits)
        at += (max(length, _ROUTE.size) + 3) & ~3


def _header(data: bytes, at: int) -> tuple[int, int, int, int, int, int]:
    length, kind, _, _, _, family, bits, _, _, table, _, _, route_type, _ = _ROUTE.unpack_from(data, at)
    return length, kind, family, bits, table, route_type


def _destination(attributes: bytes) -> bytes:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if kind == RTA_DST:
            return attributes[at + 4 : at + length]
        at += (max(length, 4) + 3) & ~3
    return b""


def host_uses(version: int, but: Collection[str] = ()) -> list[HostUse]:
    """Routes, default ones left out, and name servers of an IP *version*.

    Routes through the interfaces named in *but*, our own bridges, are left out: their pools are in use already, and there may
    be thousands.
    """
    routes = _routes4(but) if version == 4 else _routes6(but)
    return [*routes, *_servers(version)]


def _servers(version: int) -> list[HostUse]:
    return [HostUse(one) for one in _name_servers() if ip_address(one).version == version]


def routes_in_the_way(configs: Iterable[IpamConfig], but: Collection[str] = ()) -> list[str]:
    """A sentence for each of these subnets that a route of the host overlaps."""
    said: list[str] = []
    for config in configs:
        subnet = ip_network(config.subnet)
        for use in host_uses(config.version, but):
            if use.interface and subnet.overlaps(ip_network(use.prefix, strict=False)):
                said.append(
                    f"subnet {subnet} overlaps the host's {use}: what the host reaches there, containers and host may not "
                    "reach any more"
                )
                break
    return said


def _routes4(but: Collection[str]) -> Iterator[HostUse]:
    for line in _lines("/proc/thread-self/net/route")[1:]:
        name, _, rest = line.partition("\t")
        if name in but:
            continue
        fields = rest.split()
        destination, mask = (int.from_bytes(bytes.fromhex(fields[at]), "little") for at in (0, 6))
        if mask:
            yield HostUse(f"{ip_address(destination)}/{mask.bit_count()}", name)


def _routes6(but: Collection[str]) -> Iterator[HostUse]:
    for line in _lines("/proc/thread-self/net/ipv6_route"):
        name = line[line.rfind(" ") + 1 :]
        if name in but:
            continue
        fields = line.split()
        length = int(fields[1], 16)
        if length:
            yield HostUse(f"{ip_address(bytes.fromhex(fields[0]))}/{length}", name)


def _lines(path: str) -> list[str]:
    try:
        # an interface's name is any bytes but blanks, "/" and ":" (net/core/dev.c, dev_valid_name)
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            return file.read().split("\n")[:-1]
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
