"""The host's way to containers that stand on a parent interface.

    host namespace                                   sandbox namespace
    ph<network>  <the host's address>/32 ==parent==  eth0 10.0.0.5/24
    10.0.0.5 dev ph<network> src <the host's address>

Macvlan hands nothing from a parent to what stands on it, so a host can not talk to its own containers.  Its siblings can: here
the host has an interface of its own beside theirs, with one address of the network, and a route to each container through it.
The rest of the subnet stays where the host's own routes lead.

Both interfaces of the host hear the wire's neighbours ask for its addresses.  With arp_filter this one answers only whom
the host reaches through it (ip-sysctl.rst): its containers, and nobody else on the LAN.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import Conflict
from ..kernel import stacked, sysctl
from ..kernel.netlink import NetlinkError
from ..kernel.rtnl_links import OPERSTATE_UP, LinkInfo
from ..kernel.rtnl_routes import RTPROT_KERNEL, RouteInfo
from ..tools import Tools
from .child import split
from .kind import Kind, register
from .links import LinkKind
from .parent import find_parent
from .resource import Key, Resource
from .sight import Sight


@dataclass(frozen=True)
class HostLink(Resource):
    name: str
    parent: str
    mac: str
    """Fixed, so that it is the same to its neighbours when it is made again."""
    mtu: int
    addresses: tuple[str, ...]
    """The host's, without prefix lengths."""

    @property
    def key(self) -> Key:
        return ("link", self.name)

    @property
    def title(self) -> str:
        return f"the host's interface {self.name}"

    @property
    def details(self) -> str:
        return ", ".join([*self.addresses, f"macvlan on {self.parent}"])


class HostLinkKind(LinkKind[HostLink]):
    def make(self, tools: Tools, resource: HostLink) -> None:
        parent = find_parent(tools, resource.parent, mtu=resource.mtu)
        made = self.own(tools, resource.name) is None
        if made:
            message = stacked.new_macvlan(
                resource.name,
                parent.index,
                mode="bridge",
                mac=resource.mac,
                mtu=resource.mtu,
                group=tools.instance.link_group,
            )
            tools.rtnl.send(message)
        try:
            index = tools.rtnl.index(resource.name)
            tools.at_home(_settle, resource)
            present = {a.address for a in tools.rtnl.addresses(index)}
            addresses = [(a, 128 if ":" in a else 32) for a in resource.addresses if a not in present]
            tools.rtnl.configure(index, addresses=addresses, lo_up=False)
            if parent.operstate == OPERSTATE_UP:
                tools.rtnl.wait_up(index, unknown=True)
        except BaseException:
            if made:
                tools.rtnl.delete_link(resource.name)
            raise

    def unmake(self, tools: Tools, resource: HostLink) -> None:
        if (link := self.own(tools, resource.name)) is not None:
            tools.reaper.put_away(link.index)

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[HostLink]) -> Iterable[tuple[str, HostLink]]:
        for one in wanted:
            link = sight.links.get(one.name)
            if (
                link is None
                or not link.up
                or any((link.index, _whole(a)) not in sight.addresses for a in one.addresses)
            ):
                yield one.name, one


def _settle(resource: HostLink) -> None:
    """Before it is up: whom it answers, and that nobody on the LAN gives this host addresses and routes by it."""
    sysctl.ensure(("net", "ipv4", "conf", resource.name, "arp_filter"), 1)
    wants6 = any(":" in address for address in resource.addresses)
    for parameter, value in (("disable_ipv6", int(not wants6)), ("accept_ra", 0)):
        try:
            sysctl.ensure(("net", "ipv6", "conf", resource.name, parameter), value)
        except FileNotFoundError:
            if wants6:
                raise
            return  # a kernel without IPv6


@dataclass(frozen=True)
class HostRoute(Resource):
    """The host's route to one address of a container."""

    link: str
    address: str
    """Without a prefix length."""
    source: str
    """The host's address that its packets come from."""

    @property
    def key(self) -> Key:
        return ("host-route", self.link, self.address)

    @property
    def goes_with(self) -> tuple[Key, ...]:
        return (("link", self.link),)

    @property
    def title(self) -> str:
        return f"the host's route to {self.address}"

    @property
    def details(self) -> str:
        return f"{self.link}, from {self.source}"


class HostRouteKind(Kind[HostRoute]):
    noun = "route"

    def make(self, tools: Tools, resource: HostRoute) -> None:
        index = tools.rtnl.index(resource.link)
        if not index:
            raise NetlinkError(errno.ENODEV, f"find interface {resource.link}")
        try:
            tools.rtnl.add_route(_route(resource, index))
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise
            there = [r for r in _routes(tools) if r.destination == _whole(resource.address)]
            if not any(r.device == index for r in there):
                raise Conflict(
                    f"the host has another route to {resource.address}",
                    hint=f"`ip route show {resource.address}` shows it; choose another address for the container",
                ) from error
            tools.rtnl.add_route(_route(resource, index), replace=True)  # it may have had another source

    def unmake(self, tools: Tools, resource: HostRoute) -> None:
        index = tools.rtnl.index(resource.link)
        if index:  # without its interface there is no route either
            tools.rtnl.delete_route(_route(resource, index))

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[HostRoute]) -> Iterable[tuple[str, HostRoute]]:
        there = {(r.device, r.destination, r.source) for r in _routes(tools)} if wanted else set()
        for one in wanted:
            link = sight.links.get(one.link)
            if link is None or (link.index, _whole(one.address), one.source) not in there:
                yield one.address, one

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        return sorted(route.destination for route in self._astray(tools, sight))

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        for route in self._astray(tools, sight):
            if route.destination in names:
                tools.rtnl.delete_route(route)

    def _astray(self, tools: Tools, sight: Sight) -> Iterable[RouteInfo]:
        links = {link.index: link for link in sight.links.values() if _is_host_link(tools, sight, link)}
        for route in _routes(tools) if links else ():
            link, (address, _) = links.get(route.device), split(route.destination)
            if link is not None and ("host-route", link.name, address) not in sight.keys:
                yield route


def _is_host_link(tools: Tools, sight: Sight, link: LinkInfo) -> bool:
    return link.group == tools.instance.link_group and link.kind == "macvlan" and ("link", link.name) in sight.keys


def _routes(tools: Tools) -> list[RouteInfo]:
    """Those to single addresses that somebody made; the kernel has one for each IPv6 address of its own."""
    found = [route for version in (4, 6) for route in tools.rtnl.routes(version)]
    return [r for r in found if r.protocol != RTPROT_KERNEL and r.destination.endswith(("/32", "/128"))]


def _route(resource: HostRoute, index: int) -> RouteInfo:
    return RouteInfo(destination=_whole(resource.address), device=index, source=resource.source)


def _whole(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


register(HostLink, HostLinkKind())
register(HostRoute, HostRouteKind())
