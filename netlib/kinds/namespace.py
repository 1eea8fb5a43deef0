"""Network namespaces: a sandbox, pinned under a path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..kernel import sysctl
from ..kernel.netns import delete_netns, is_netns
from ..kernel.rtnetlink import Rtnetlink
from ..tools import Tools
from .kind import Kind, register
from .resource import Key, Resource
from .sight import Sight

LOOPBACK = 1
"""Every network namespace's loopback interface has this index."""


@dataclass(frozen=True)
class Netns(Resource):
    """Its loopback is up, IPv6 is off on interfaces to come (their kinds turn it on), and none takes router advertisements:
    what a container is told about addresses and routes, it is told by us."""

    path: str

    @property
    def key(self) -> Key:
        return ("netns", self.path)

    @property
    def title(self) -> str:
        return f"network namespace {self.path}"


class NetnsKind(Kind[Netns]):
    noun = "netns"

    def make(self, tools: Tools, resource: Netns) -> None:
        os.makedirs(os.path.dirname(resource.path), mode=0o711, exist_ok=True)
        if os.path.exists(resource.path) and not is_netns(resource.path):
            delete_netns(resource.path)  # a file where the pin was: its mount table has gone
        tools.leave(resource.path)
        rtnl: list[Rtnetlink] = []
        try:
            fd = tools.netns.create(resource.path, prepare=lambda: rtnl.append(_prepare()))
        except BaseException:
            for one in rtnl:
                one.close()
            raise
        tools.made(resource.path, fd, rtnl[0])

    def unmake(self, tools: Tools, resource: Netns) -> None:
        tools.leave(resource.path)
        tools.netns.delete(resource.path)

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Netns]) -> Iterable[tuple[str, Netns]]:
        for one in wanted:
            if not sight.pins.get(one.path):
                yield one.path, one

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        return sorted(path for path in sight.pins if ("netns", path) not in sight.keys)

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        for name in names:
            if sight.pins.get(name):
                _empty(tools, sight, name)
            tools.leave(name)
            delete_netns(name)


def _empty(tools: Tools, sight: Sight, path: str) -> None:
    """Delete what stands on a parent interface: the namespace may live on for a while, and that would hold its MAC address."""
    interior = sight.inside(path)
    children = [link for link in interior.links.values() if link.kind in ("macvlan", "ipvlan")] if interior else []
    if children:
        with tools.inside(path) as inside:
            for link in children:
                if link.group == tools.instance.link_group:
                    inside.rtnl.delete_link(link.index)


def _prepare() -> Rtnetlink:
    for parameter, value in (("disable_ipv6", 1), ("accept_ra", 0)):
        try:
            sysctl.write(("net", "ipv6", "conf", "default", parameter), value)
        except FileNotFoundError:
            break  # a kernel without IPv6 has nothing to switch off
    rtnl = Rtnetlink()
    try:
        rtnl.set_link(LOOPBACK, up=True)
    except BaseException:
        rtnl.close()
        raise
    return rtnl


register(Netns, NetnsKind())
