"""rtnetlink's messages of links as values: functions that build requests, functions that read answers.  No I/O.

Layouts: linux/rtnetlink.h, if_link.h; rtnetlink(7).  A MAC is text ("02:42:0a:00:00:02").  Addresses and routes: rtnl_routes.py;
links that stand on others: stacked.py.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from ..errors import InvalidArgument
from ..ifname import check_ifname
from .netlink import (
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    Message,
    attribute,
    attributes,
    nested,
    number,
    signed,
    string,
    text,
)
from .netlink import u8 as _u8
from .netlink import u32 as _u32

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_GETNSID = 90
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_QDISC, IFLA_MASTER = 1, 3, 4, 5, 6, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 16, 18, 20, 27, 28, 29
IFLA_AF_SPEC, IFLA_LINK_NETNSID = 26, 37
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
NETNSA_NSID, NETNSA_FD = 1, 3  # linux/net_namespace.h
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
VETH_INFO_PEER = 1
IFF_UP = 1
OPERSTATE_UNKNOWN, OPERSTATE_UP = 0, 6  # RFC 2863 ifOperStatus, as if.h numbers it
LOOPBACK_INDEX = 1  # the loopback is registered first in every namespace (net/core/dev.c)

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One interface.  ``kind`` is "" for what has none (lo, hardware); ``master`` and ``peer`` are indices or 0."""

    index: int
    name: str
    kind: str
    master: int
    mtu: int
    mac: str
    group: int
    flags: int
    operstate: int
    peer: int
    alias: str
    isolated: bool = False
    """Of a bridge's port: the bridge passes nothing between it and other isolated ones."""
    qdisc: str = ""
    """Kind of its root queue."""
    peer_netns: int | None = None
    """In which namespace its peer is, as ``netns_id`` numbers it; None when it is in this one."""

    @property
    def up(self) -> bool:
        """Administratively up; ``operstate`` says whether it carries traffic."""
        return bool(self.flags & IFF_UP)


def pack_mac(mac: str) -> bytes:
    parts = mac.split(":")
    try:
        raw = bytes(int(part, 16) for part in parts)
    except ValueError:
        raw = b""
    if len(raw) != 6 or any(len(part) != 2 for part in parts):
        raise InvalidArgument(f"invalid MAC address {mac!r}")
    return raw


def new_bridge(name: str, *, mac: str = "", mtu: int = 0, group: int = 0, up: bool = True) -> Message:
    body = (
        _IFINFO.pack(0, 0, 0, IFF_UP if up else 0, IFF_UP)
        + text(IFLA_IFNAME, check_ifname(name))
        + link_options(mac=mac, mtu=mtu, group=group)
        + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))
    )
    return Message(f"add bridge {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO, body)


def new_veth(
    host: str,
    peer: str,
    *,
    netns_fd: int,
    mac: str = "",
    host_mac: str = "",
    mtu: int = 0,
    master: int = 0,
    group: int = 0,
    up: bool = True,
) -> Message:
    """A veth pair whose *peer* is born in the namespace *netns_fd* (-1: this one).

    The host end may be *up* at once, the peer can not be (ENOTCONN).  Each end has one queue, as before Linux 5.15: since then
    the kernel makes one a processor, a directory in sysfs each, which is a third of making a pair with two and serves
    none but XDP programs (a veth transmits without a lock, on the sender's processor).
    """
    queues = _u32(IFLA_NUM_TX_QUEUES, 1) + _u32(IFLA_NUM_RX_QUEUES, 1)
    end = _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, check_ifname(peer)) + link_options(mac=mac, mtu=mtu)
    end += queues
    if netns_fd >= 0:
        end += _u32(IFLA_NET_NS_FD, netns_fd)
    body = (
        _IFINFO.pack(0, 0, 0, IFF_UP if up else 0, IFF_UP)
        + text(IFLA_IFNAME, check_ifname(host))
        + link_options(mac=host_mac, mtu=mtu, group=group, master=master or None)
        + queues
        + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, end)))
    )
    return Message(f"add veth {host}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO, body)


def change_link(
    index: int,
    *,
    up: bool | None = None,
    name: str = "",
    mac: str = "",
    mtu: int = 0,
    master: int | None = None,
    group: int | None = None,
    alias: str | None = None,
    step: str = "",
) -> Message:
    """Change what is given of an existing link; master 0 takes it off its bridge."""
    body = _IFINFO.pack(0, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)
    if name:
        body += text(IFLA_IFNAME, check_ifname(name))
    body += link_options(mac=mac, mtu=mtu, group=group, master=master)
    if alias is not None:
        body += attribute(IFLA_IFALIAS, alias.encode())  # no final zero: an empty one removes the alias
    return Message(step or f"change link {index}", RTM_NEWLINK, 0, body)


def change_port(index: int, name: str = "", *, hairpin: bool | None = None, isolated: bool | None = None) -> Message:
    """Options of a bridge port (``ip link set DEV type bridge_slave ...``), by index, or by name when that is 0."""
    options = b""
    if hairpin is not None:
        options += _u8(IFLA_BRPORT_MODE, hairpin)
    if isolated is not None:
        options += _u8(IFLA_BRPORT_ISOLATED, isolated)
    body = _IFINFO.pack(0, 0, index, 0, 0) + (text(IFLA_IFNAME, check_ifname(name)) if name else b"")
    body += nested(IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), nested(IFLA_INFO_SLAVE_DATA, options))
    return Message(f"set bridge port {name or index}", RTM_NEWLINK, 0, body)


def no_link_local(name: str) -> Message:
    """Have a link without IPv6 addresses of the kernel's making (``ip link set DEV addrgenmode none``); EAFNOSUPPORT from a
    kernel without IPv6."""
    mode = _u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, check_ifname(name))
    body += nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    return Message(f"keep link {name} without link-local address", RTM_NEWLINK, 0, body)


def del_link(index: int = 0, *, name: str = "", group: int = 0) -> Message:
    """Delete one link by index or name, or with *group* all of that group in one go."""
    body = _IFINFO.pack(0, 0, index, 0, 0)
    if name:
        body += text(IFLA_IFNAME, check_ifname(name))
    if group:
        body += _u32(IFLA_GROUP, group)
    return Message(f"delete link {name or index or f'group {group}'}", RTM_DELLINK, 0, body)


def get_link(index: int = 0, *, name: str = "") -> Message:
    """One link, or (neither given) all of them in a dump; RTEXT_FILTER_SKIP_STATS keeps the answer small."""
    body = _IFINFO.pack(0, 0, index, 0, 0) + (text(IFLA_IFNAME, check_ifname(name)) if name else b"")
    return Message(f"look up link {name or index or '(all)'}", RTM_GETLINK, 0, body + _u32(IFLA_EXT_MASK, 8))


def link_options(*, mac: str = "", mtu: int = 0, group: int | None = None, master: int | None = None) -> bytes:
    options = b""
    if mac:
        options += attribute(IFLA_ADDRESS, pack_mac(mac))
    if mtu:
        options += _u32(IFLA_MTU, mtu)
    if master is not None:
        options += _u32(IFLA_MASTER, master)
    if group is not None:
        options += _u32(IFLA_GROUP, group)
    return options


def read_link(body: bytes) -> LinkInfo:
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    found = attributes(body, _IFINFO.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    return LinkInfo(
        index=index,
        name=string(found.get(IFLA_IFNAME)),
        kind=string(info.get(IFLA_INFO_KIND)),
        master=number(found.get(IFLA_MASTER)),
        mtu=number(found.get(IFLA_MTU)),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        group=number(found.get(IFLA_GROUP)),
        flags=flags,
        operstate=number(found.get(IFLA_OPERSTATE)),
        peer=number(found.get(IFLA_LINK)),
        alias=string(found.get(IFLA_IFALIAS)),
        isolated=any(attributes(info.get(IFLA_INFO_SLAVE_DATA, b"")).get(IFLA_BRPORT_ISOLATED, b"")),
        qdisc=string(found.get(IFLA_QDISC)),
        peer_netns=signed(found.get(IFLA_LINK_NETNSID)),
    )


def read_operstate(body: bytes) -> int:
    return number(attributes(body, _IFINFO.size).get(IFLA_OPERSTATE))


def get_netns_id(fd: int) -> Message:
    """By which number the asked namespace knows the one that *fd* is of."""
    return Message("look up a namespace's number", RTM_GETNSID, 0, bytes(4) + _u32(NETNSA_FD, fd))


def read_netns_id(body: bytes) -> int | None:
    return signed(attributes(body, 4).get(NETNSA_NSID))
