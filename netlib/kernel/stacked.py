"""Messages that make links which stand on another: macvlan, ipvlan, vlan.  No I/O.

    macvlan   a MAC address of its own on the parent's wire          linux/if_link.h, IFLA_MACVLAN_*
    ipvlan    the parent's MAC address, told apart by IP address     IFLA_IPVLAN_*
    vlan      the frames of one 802.1Q tag                           IFLA_VLAN_*

The parent is named by its index in the namespace of the socket; the new link may be born in another one.  A kernel without the
module answers EOPNOTSUPP whatever else the message says, one that has it wants a parent (EINVAL): that is how ``probe`` finds
out without making anything.
"""

from __future__ import annotations

import struct

from ..ifname import check_ifname
from .netlink import NLM_F_CREATE, NLM_F_EXCL, Message, attribute, nested, text
from .netlink import u32 as _u32
from .rtnl_links import (
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_NET_NS_FD,
    RTM_NEWLINK,
    link_options,
)

IFLA_MACVLAN_MODE = 1
IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS = 1, 2
IFLA_VLAN_ID = 1
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
_HEADER = struct.pack("=BxHiII", 0, 0, 0, 0, 0)  # an ifinfomsg that says nothing


def new_macvlan(
    name: str, parent: int, *, mode: str, netns_fd: int = -1, mac: str = "", mtu: int = 0, group: int = 0
) -> Message:
    """*mode* is one of MACVLAN_MODES.  MTU 0 is the parent's."""
    data = _u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    return _new("macvlan", name, parent, data, netns_fd=netns_fd, options=link_options(mac=mac, mtu=mtu), group=group)


def new_ipvlan(
    name: str, parent: int, *, mode: str, flag: str = "bridge", netns_fd: int = -1, mtu: int = 0, group: int = 0
) -> Message:
    """*mode* is one of IPVLAN_MODES, *flag* one of IPVLAN_FLAGS.  Its MAC address is the parent's."""
    data = _u16(IFLA_IPVLAN_MODE, IPVLAN_MODES[mode])
    data += _u16(IFLA_IPVLAN_FLAGS, IPVLAN_FLAGS[flag])
    return _new("ipvlan", name, parent, data, netns_fd=netns_fd, options=link_options(mtu=mtu), group=group)


def new_vlan(name: str, parent: int, *, vid: int, group: int = 0) -> Message:
    """The sub-interface of *parent* for the tag *vid* (1 to 4094, IEEE 802.1Q 9.6)."""
    data = _u16(IFLA_VLAN_ID, vid)
    return _new("vlan", name, parent, data, group=group)


def probe(kind: str) -> Message:
    """A request that makes nothing: EOPNOTSUPP says that the kernel has no such links, EINVAL that it has."""
    body = _HEADER + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind))
    return Message(f"look for {kind}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def _new(
    kind: str, name: str, parent: int, data: bytes, *, netns_fd: int = -1, options: bytes = b"", group: int = 0
) -> Message:
    body = _HEADER + text(IFLA_IFNAME, check_ifname(name)) + _u32(IFLA_LINK, parent) + options
    if group:
        body += _u32(IFLA_GROUP, group)
    if netns_fd >= 0:
        body += _u32(IFLA_NET_NS_FD, netns_fd)
    body += nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, data))
    return Message(f"add {kind} {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def _u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))
