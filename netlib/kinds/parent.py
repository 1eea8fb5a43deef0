"""The host's interface that a network's endpoints stand on (macvlan, ipvlan): looked at, never touched.

    eth0       somebody else's: it must be there, up, and no port of a bridge or bond       Parent
    eth0.10    made when it is missing, for the tag 10 of eth0 (IEEE 802.1Q)                Vlan, then Parent

A VLAN interface that we made is in our link group, and goes with the last network that has it; one that was there stays as it
was found.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import Conflict, InvalidArgument, NotFound, NotSupported
from ..kernel import stacked
from ..kernel.netlink import NetlinkError
from ..kernel.rtnl_links import LinkInfo
from ..tools import Tools
from .kind import Kind, register
from .links import LinkKind
from .resource import Key, Resource
from .sight import Sight


class ParentNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"parent interface {name} not found",
            hint="`ip link` lists the host's interfaces; for a VLAN write for example eth0.10, with an id of 1 to 4094",
        )
        self.name = name


class ParentUnusable(Conflict):
    """It is there, and can not carry what is wanted."""

    def __init__(self, name: str, why: str, hint: str) -> None:
        super().__init__(f"parent interface {name} {why}", hint=hint)
        self.name = name


def missing_module(kind: str) -> NotSupported:
    return NotSupported(
        f"this kernel has no {kind} (module {kind})",
        hint=f"load it with `modprobe {kind}`, or install a kernel that has it",
    )


def find_parent(tools: Tools, name: str, *, mtu: int = 0) -> LinkInfo:
    """The host's interface *name*, if links can stand on it; *mtu* is what they want (0: the same as it has)."""
    link = tools.rtnl.link(name)
    if link is None:
        raise ParentNotFound(name)
    if not link.up:
        raise ParentUnusable(name, "is down", f"`ip link set {name} up` brings it up")
    master = tools.rtnl.link(link.master) if link.master else None
    if master is not None and _takes_frames(master):
        raise ParentUnusable(name, f"belongs to {master.name}", f"use {master.name} itself as the parent")
    if mtu > link.mtu:
        raise InvalidArgument(
            f"MTU {mtu} is more than the {link.mtu} of parent interface {name}", hint="leave the option mtu out"
        )
    return link


def _takes_frames(master: LinkInfo) -> bool:
    """Whether what belongs to it can hand its frames to nobody else; a VRF only has routes of its own."""
    return master.kind != "vrf"


@dataclass(frozen=True)
class Parent(Resource):
    name: str
    kind: str
    """Of the links that will stand on it: macvlan or ipvlan."""
    mtu: int = 0
    sole: bool = False
    """Whether one network alone can stand on it."""

    @property
    def key(self) -> Key:
        return ("parent", self.name)

    @property
    def exclusive(self) -> bool:
        return self.sole

    @property
    def shared(self) -> bool:
        return not self.sole

    @property
    def title(self) -> str:
        return f"parent interface {self.name}"

    @property
    def details(self) -> str:
        return self.kind + (", for this network alone" if self.sole else "")


class ParentKind(Kind[Parent]):
    noun = "parent"

    def make(self, tools: Tools, resource: Parent) -> None:
        if not tools.rtnl.has_kind(resource.kind):
            raise missing_module(resource.kind)
        find_parent(tools, resource.name, mtu=resource.mtu)

    def unmake(self, tools: Tools, resource: Parent) -> None:
        """It is not ours."""

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Parent]) -> Iterable[tuple[str, Parent]]:
        taking = {link.index for link in sight.links.values() if _takes_frames(link)}
        for parent in wanted:
            link = sight.links.get(parent.name)
            if link is None or not link.up or link.master in taking:
                yield parent.name, parent


@dataclass(frozen=True)
class Vlan(Resource):
    name: str
    parent: str
    vid: int

    @property
    def key(self) -> Key:
        return ("link", self.name)

    @property
    def exclusive(self) -> bool:
        return False

    @property
    def shared(self) -> bool:
        return True

    @property
    def title(self) -> str:
        return f"VLAN interface {self.name}"

    @property
    def details(self) -> str:
        return f"tag {self.vid} of {self.parent}"


class VlanKind(LinkKind[Vlan]):
    def make(self, tools: Tools, resource: Vlan) -> None:
        if tools.rtnl.index(resource.name):
            if (link := self.own(tools, resource.name)) is not None:
                tools.rtnl.set_link(link.index, up=True)
            return
        parent = tools.rtnl.link(resource.parent)
        if parent is None:
            raise ParentNotFound(resource.parent)
        if not parent.up:
            raise ParentUnusable(parent.name, "is down", f"`ip link set {parent.name} up` brings it up")
        group = tools.instance.link_group
        try:
            tools.rtnl.send(stacked.new_vlan(resource.name, parent.index, vid=resource.vid, group=group))
        except NetlinkError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise NotSupported(
                    "this kernel has no vlan (module 8021q)",
                    hint=f"load it with `modprobe 8021q`, or make {resource.name} yourself and use it as the parent",
                ) from error
            if error.errno == errno.EEXIST:
                raise ParentUnusable(
                    parent.name, f"has an interface for tag {resource.vid} already", "use that one as the parent"
                ) from error
            raise
        try:
            tools.rtnl.set_link(tools.rtnl.index(resource.name), up=True)
        except BaseException:
            tools.rtnl.delete_link(resource.name)
            raise

    def unmake(self, tools: Tools, resource: Vlan) -> None:
        if (link := self.own(tools, resource.name)) is not None:
            tools.reaper.put_away(link.index)

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Vlan]) -> Iterable[tuple[str, Vlan]]:
        for vlan in wanted:
            link = sight.links.get(vlan.name)
            if link is None or (link.group == tools.instance.link_group and not link.up):
                yield vlan.name, vlan


register(Parent, ParentKind())
register(Vlan, VlanKind())
