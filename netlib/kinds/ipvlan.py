"""Ipvlan interfaces in sandboxes; what they share with macvlan, and how they come and go, is in child.py.

    l2     the parent's wire, with the parent's MAC address                       (the default)
    l3     the host routes between them and the wire; no broadcast, no neighbours
    l3s    the same, through the host's netfilter

The flag says who of one parent reaches whom: bridge (all), private (none of the others), vepa (by an outer switch).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..kernel import stacked
from ..kernel.netlink import Message
from .child import Child, ChildKind
from .kind import register


@dataclass(frozen=True)
class Ipvlan(Child):
    flag: str = "bridge"

    @property
    def kind(self) -> str:
        return "ipvlan"

    def message(self, parent: int, netns_fd: int, group: int) -> Message:
        return stacked.new_ipvlan(
            self.ifname, parent, mode=self.mode, flag=self.flag, netns_fd=netns_fd, mtu=self.mtu, group=group
        )


register(Ipvlan, ChildKind[Ipvlan]())
