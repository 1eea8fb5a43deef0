"""Macvlan interfaces in sandboxes; what they share with ipvlan, and how they come and go, is in child.py.

bridge    they reach one another on the host, and the wire                    (the default)
private   the wire alone
vepa      one another by a switch that sends back what it got (IEEE 802.1Qbg)
passthru  one interface alone, which takes the parent over, its MAC address included
"""

from __future__ import annotations

from dataclasses import dataclass

from ..kernel import stacked
from ..kernel.netlink import Message
from .child import Child, ChildKind
from .kind import register


@dataclass(frozen=True)
class Macvlan(Child):
    mac: str = ""

    @property
    def kind(self) -> str:
        return "macvlan"

    @property
    def hardware(self) -> str:
        return self.mac

    @property
    def is_free_when_down(self) -> bool:
        return (
            self.mode != "passthru"
        )  # macvlan_stop takes its address off the parent; a port in passthru mode stays taken

    def message(self, parent: int, netns_fd: int, group: int) -> Message:
        return stacked.new_macvlan(
            self.ifname, parent, mode=self.mode, netns_fd=netns_fd, mac=self.mac, mtu=self.mtu, group=group
        )


register(Macvlan, ChildKind[Macvlan]())
