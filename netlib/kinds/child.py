"""What macvlan and ipvlan have in common: a link that stands on a host's interface and is born in a sandbox.

    host namespace            sandbox namespace
    eth0 ==================== eth0        no other end on the host; the wire is the parent's
      '====================== eth0        (another sandbox)

There is no host end to find one by: a link of ours bears the instance's link group *inside* the sandbox.  When its sandbox goes
it is not left to the namespace's end, which comes later: until then it would hold its addresses, or in passthru mode its
parent, against the endpoint's next start.  Where it is enough that it is down, that is all that is done: to delete it makes the
kernel wait for 20 ms.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ..errors import Conflict
from ..kernel import sysctl
from ..kernel.netlink import Message, NetlinkError
from ..kernel.rtnl_links import OPERSTATE_UP, LinkInfo
from ..reaper import put_away
from ..tools import Inside, Tools
from .kind import Kind
from .namespace import Netns
from .parent import ParentUnusable, find_parent, missing_module
from .resource import Key, Resource
from .sight import Sight


@dataclass(frozen=True)
class Child(Resource):
    parent: str
    """Name of the host's interface."""
    ifname: str
    netns: str
    mtu: int
    """0 is the parent's."""
    mode: str
    addresses: tuple[str, ...]
    """CIDRs."""
    withdrawn: tuple[str, ...] = field(default=(), kw_only=True)
    """CIDRs that it must not have: leases that are over.  What else there is may be the container's own doing."""

    @property
    def kind(self) -> str:
        """The kernel's word, and the module's name."""
        raise NotImplementedError

    def message(self, parent: int, netns_fd: int, group: int) -> Message:
        """The request that makes it."""
        raise NotImplementedError

    @property
    def hardware(self) -> str:
        """The MAC address that it is to have; "" is the parent's."""
        return ""

    @property
    def is_free_when_down(self) -> bool:
        """Whether another one can have its addresses and its place while it is there and down."""
        return False

    @property
    def key(self) -> Key:
        return ("interface", self.netns, self.ifname)

    @property
    def goes_with(self) -> tuple[Key, ...]:
        return (("netns", self.netns),)

    @property
    def title(self) -> str:
        return f"interface {self.ifname} in {self.netns}"

    @property
    def details(self) -> str:
        said = [*self.addresses, self.hardware, f"MTU {self.mtu}" if self.mtu else ""]
        return ", ".join([*filter(None, said), f"{self.kind} {self.mode} on {self.parent}"])


C = TypeVar("C", bound=Child)


class ChildKind(Kind[C]):
    noun = "link"

    def make(self, tools: Tools, resource: C) -> None:
        parent = find_parent(tools, resource.parent, mtu=resource.mtu)
        with tools.inside(resource.netns) as inside:
            link = _own(tools, inside, resource.ifname)
            if link is not None and not _stands(link, resource, parent):
                inside.rtnl.delete_link(link.index)
                link = None
            if link is None:
                self._add(tools, inside, resource, parent)
            try:
                self._configure(inside, resource, parent)
            except BaseException:
                if link is None:
                    inside.rtnl.delete_link(resource.ifname)
                raise

    def _add(self, tools: Tools, inside: Inside, resource: C, parent: LinkInfo) -> None:
        try:
            tools.rtnl.send(resource.message(parent.index, inside.fd, tools.instance.link_group))
        except NetlinkError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise missing_module(resource.kind) from error
            if error.errno in (
                errno.EBUSY,
                errno.EINVAL,
            ):  # macvlan_port_create, macvlan_common_newlink, ipvlan_link_new
                raise ParentUnusable(
                    parent.name,
                    f"can not carry a {resource.kind} interface in {resource.mode} mode",
                    "it is no Ethernet interface, or in use in another mode (passthru, ipvlan, a bridge); choose another",
                ) from error
            raise

    def _configure(self, inside: Inside, resource: C, parent: LinkInfo) -> None:
        inside.call(_announced, resource)
        index = inside.rtnl.index(resource.ifname)
        present = {f"{a.address}/{a.prefix}" for a in inside.rtnl.addresses(index)}
        for address in present.intersection(resource.withdrawn):
            inside.rtnl.delete_address(index, *split(address))
        wanted = [split(address) for address in resource.addresses if address not in present]
        try:
            # in passthru mode the kernel has given it the parent's address, and gives the parent its own back at the end
            inside.rtnl.configure(index, addresses=wanted, mac=resource.hardware, lo_up=False)
        except NetlinkError as error:
            if error.errno in (
                errno.EBUSY,
                errno.EADDRINUSE,
            ):  # macvlan_open: another one on the parent has the address
                raise Conflict(
                    f"MAC address {resource.hardware} is in use on parent interface {parent.name}",
                    hint="choose another --mac-address",
                ) from error
            raise
        if parent.operstate == OPERSTATE_UP:  # a cable may be unplugged: that is nobody's failure
            inside.rtnl.wait_up(index, unknown=True)

    def alter(self, tools: Tools, old: C, new: C) -> None:
        """Addresses come and go in place: the interface's other connections live on."""
        if replace(old, addresses=new.addresses, withdrawn=new.withdrawn) != new:
            super().alter(tools, old, new)
            return
        gone = tuple(address for address in old.addresses if address not in new.addresses)
        self.make(tools, replace(new, withdrawn=(*new.withdrawn, *gone)))

    def unmake(self, tools: Tools, resource: C) -> None:
        try:
            with tools.inside(resource.netns) as inside:
                if (link := _own(tools, inside, resource.ifname)) is not None:
                    inside.rtnl.delete_link(link.index)
        except FileNotFoundError:
            pass  # the sandbox is gone, and took it along

    def forsake(self, tools: Tools, resource: C) -> None:
        if not resource.is_free_when_down:
            self.unmake(tools, resource)
            return
        try:
            with tools.inside(resource.netns) as inside:
                if (link := _own(tools, inside, resource.ifname)) is not None:
                    put_away(inside.rtnl, link.index)
        except FileNotFoundError:
            pass

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[C]) -> Iterable[tuple[str, C]]:
        for one in wanted:
            if not _whole(sight, one):
                yield f"{one.ifname} in {one.netns}", one

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        return sorted(_name(path, link) for path, link in self._astray(tools, sight))

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        for path, link in self._astray(tools, sight):
            if _name(path, link) in names:
                with tools.inside(path) as inside:
                    inside.rtnl.delete_link(link.index)

    def _astray(self, tools: Tools, sight: Sight) -> Iterable[tuple[str, LinkInfo]]:
        """Links of ours in sandboxes that should be; those in others go with them."""
        for sandbox in sight.wanted(Netns):
            interior = sight.inside(sandbox.path)
            for link in interior.links.values() if interior is not None else ():
                if link.group == tools.instance.link_group and ("interface", sandbox.path, link.name) not in sight.keys:
                    yield sandbox.path, link


def _announced(resource: Child) -> None:
    """Have the kernel tell the wire whose its addresses are when the link comes up (ip-sysctl.rst: arp_notify, ndisc_notify):
    neighbours that knew another MAC address for one would ask that for as long as they remember."""
    sysctl.write(("net", "ipv4", "conf", resource.ifname, "arp_notify"), 1)
    if any(":" in address for address in resource.addresses):
        for parameter, value in (("disable_ipv6", 0), ("ndisc_notify", 1)):
            sysctl.write(("net", "ipv6", "conf", resource.ifname, parameter), value)


def _own(tools: Tools, inside: Inside, name: str) -> LinkInfo | None:
    link = inside.rtnl.link(name)
    return link if link is not None and link.group == tools.instance.link_group else None


def _stands(link: LinkInfo, resource: Child, parent: LinkInfo) -> bool:
    """Whether it is what the resource says, but for addresses: it may stay, and its connections live on."""
    # what is stacked on a macvlan stands on that one's parent (macvlan_common_newlink)
    lower = parent.peer if parent.kind == "macvlan" else parent.index
    hardware = resource.hardware or parent.mac
    return (link.kind, link.peer, link.mac) == (resource.kind, lower, hardware) and (
        not resource.mtu or link.mtu == resource.mtu
    )


def _whole(sight: Sight, resource: Child) -> bool:
    parent, interior = sight.links.get(resource.parent), sight.inside(resource.netns)
    link = interior.links.get(resource.ifname) if interior is not None else None
    if parent is None or interior is None or link is None or not link.up or not _stands(link, resource, parent):
        return False
    there = {address for index, address in interior.addresses if index == link.index}
    return there.issuperset(resource.addresses) and there.isdisjoint(resource.withdrawn)


def _name(path: str, link: LinkInfo) -> str:
    return f"{link.name} in {path}"


def split(address: str) -> tuple[str, int]:
    """A CIDR's address and prefix length."""
    ip, _, prefix = address.partition("/")
    return ip, int(prefix)
