"""What the host uses of the address space: its routes and its name servers.

Subnets that are chosen stay clear of both; one that a user names does not have to, as with Docker, and whoever asked is told of
the route in its way.  Read from the calling thread's namespace: /proc/thread-self/net/{route,ipv6_route} (proc_net(5)), and
/etc/resolv.conf.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from .model import IpamConfig


@dataclass(frozen=True, slots=True)
class HostUse:
    prefix: str
    """CIDR, or an address."""
    interface: str = ""
    """Where the route leads; "" for a name server."""

    def __str__(self) -> str:
        return f"route {self.prefix} through {self.interface}" if self.interface else f"name server {self.prefix}"


def host_uses(version: int, but: Collection[str] = ()) -> list[HostUse]:
    """Routes, default ones left out, and name servers of an IP *version*.

    Routes through the interfaces named in *but*, our own bridges, are left out: their pools are in use already, and there may
    be thousands.
    """
    routes = _routes4(but) if version == 4 else _routes6(but)
    return [*routes, *(HostUse(one) for one in _name_servers() if ip_address(one).version == version)]


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
