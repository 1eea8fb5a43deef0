"""Router advertisements (RFC 4861 6.3.4), and what becomes of them on a host that forwards.

With accept_ra=1 an interface listens to them only while it does not forward.  When net.ipv6.conf.all.forwarding becomes 1,
the kernel forgets the default routes that they gave, at once (net/ipv6/addrconf.c, addrconf_fixup_forwarding); the
addresses that they gave live on until their time is over, and nothing renews them.  With accept_ra=2 it listens all the
same (Documentation/networking/ip-sysctl.rst).  Who has a fixed address and a fixed route loses nothing.
"""

from __future__ import annotations

from . import sysctl
from .rtnetlink import Rtnetlink

FORWARDING = ("net", "ipv6", "conf", "all", "forwarding")
_RTPROT_RA = 9  # linux/rtnetlink.h
_IFA_F_PERMANENT = 0x80  # linux/if_addr.h: without it an address has a lifetime, as those from advertisements have
_SCOPE_GLOBAL = 0


def depending(rtnl: Rtnetlink) -> list[str]:
    """Interfaces that have their IPv6 way out from router advertisements, or had until the host began to forward, and
    listen to them only while it does not.  *rtnl* and the calling thread are in one namespace."""
    told = {route.device for route in rtnl.routes(6) if route.protocol == _RTPROT_RA}
    told |= {
        address.index
        for address in rtnl.addresses()
        if ":" in address.address and address.scope == _SCOPE_GLOBAL and not address.flags & _IFA_F_PERMANENT
    }
    return [link.name for link in rtnl.links() if link.index in told and link.up and _accepts(link.name) == "1"]


def _accepts(name: str) -> str:
    try:
        return sysctl.read(("net", "ipv6", "conf", name, "accept_ra"))
    except FileNotFoundError:  # it went, or has no IPv6
        return ""
