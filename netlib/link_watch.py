"""Self-healing of links: a bridge or a container's host end that somebody deleted, set down or took from its bridge, and a
bridge's address that went.

    rtnetlink's events  -->  of a name or address that a record asks for?  -->  is it missing in fact?  -->  repair

What we remove ourselves is asked for by no record any more when its event comes (change.py: the store goes first), so only what
should be there is looked at; what is under way is waited for by ``repair``, which takes every turn.  It mends what follows, too:
with an interface its addresses, routes and rules.  What happens inside a sandbox makes no event here: that is found by ``check``.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence

from .core import Core
from .instance import veth_name
from .kernel.events import Event, EventSocket
from .kernel.netlink import attributes
from .kernel.rtnl_links import IFF_UP, IFLA_IFNAME, RTM_DELLINK, RTM_NEWLINK
from .kernel.rtnl_routes import IFA_ADDRESS, IFA_LOCAL, RTM_DELADDR
from .watching import Watch

RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR = 1, 5, 9  # linux/rtnetlink.h
_IFINFOMSG, _IFADDRMSG = 16, 8  # their sizes


class LinkWatch(Watch):
    subject = "networks' interfaces"

    def __init__(self, core: Core, events: socket.socket, repair: Callable[[], Sequence[object]]) -> None:
        """*events* is a new netlink socket of protocol route in the host's namespace."""
        self._core = core
        self._repair = repair
        super().__init__(EventSocket(events, RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR))

    def concerns(self, events: Sequence[Event] | None) -> set[str]:
        """Names of links, and addresses."""
        if events is None:
            return self._links() | self._addresses()
        taken = {name for event in events if (name := _taken(event))}
        # most events are of what was made: the records are not asked for those
        return taken & (self._links() | self._addresses()) if taken else taken

    def mend(self, concerns: set[str]) -> bool:
        rtnl = self._core.tools.rtnl
        ends, links = self._ends(), concerns & self._links()  # of now: what was removed meanwhile is missed by nobody
        found = {name: rtnl.link(name) for name in links}
        missing = any(link is None or not link.up or (name in ends and not link.master) for name, link in found.items())
        if not missing and (addresses := concerns & self._addresses()):
            missing = not addresses <= {info.address for info in rtnl.addresses()}
        return missing and bool(self._repair())

    def _links(self) -> set[str]:
        with self._core.lock:
            return self._ends() | {key[1] for key in self._core.claims() if key[0] == "link"}

    def _ends(self) -> set[str]:
        """Host ends of containers' interfaces; for a driver that makes none no event of the name comes."""
        with self._core.lock:
            return {veth_name(e.id) for e in self._core.registry.endpoints.values() if e.sandbox}

    def _addresses(self) -> set[str]:
        with self._core.lock:
            networks = list(self._core.registry.networks.values())
        return {config.gateway for network in networks for config in network.ipam if config.gateway}


def _taken(event: Event) -> str:
    """The name of a link that went or was set down, or the address that went; "" for anything else."""
    if event.type == RTM_DELLINK or (event.type == RTM_NEWLINK and not _is_up(event.body)):
        return attributes(event.body, _IFINFOMSG).get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    if event.type == RTM_DELADDR:
        found = attributes(event.body, _IFADDRMSG)
        packed = found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))
        if len(packed) in (4, 16):
            return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
    return ""


def _is_up(body: bytes) -> bool:
    return len(body) >= _IFINFOMSG and bool(int.from_bytes(body[8:12], sys.byteorder) & IFF_UP)
