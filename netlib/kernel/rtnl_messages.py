"""rtnetlink messages as values: functions that build requests, functions that read answers.  No I/O.

Layouts: linux/rtnetlink.h, if_link.h, if_addr.h, fib_rules.h; rtnetlink(7).  Addresses are text on this side
("10.0.0.2", "fd00::2") and bytes on the wire; a MAC is text ("02:42:0a:00:00:02"); a prefix length is an int.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from ..errors import InvalidArgument
from ..ifname import check_ifname
from .netlink import NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE, Message, attribute, attributes, nested, text
from .netlink import u8 as _u8
from .netlink import u32 as _u32

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_GETRULE, RTM_GETNSID = 34, 90
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_QDISC, IFLA_MASTER = 1, 3, 4, 5, 6, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 16, 18, 20, 27, 28, 29
IFLA_AF_SPEC, IFLA_LINK_NETNSID = 26, 37
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
NETNSA_NSID, NETNSA_FD = 1, 3  # linux/net_namespace.h
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 1, 4, 33
BR_STATE_FORWARDING = 3  # linux/if_bridge.h
VETH_INFO_PEER = 1
IFF_UP = 1
OPERSTATE_UNKNOWN, OPERSTATE_UP = 0, 6  # RFC 2863 ifOperStatus, as if.h numbers it
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTO = 1, 2, 8, 11
IFA_F_NODAD = 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
RT_TABLE_MAIN, RTPROT_KERNEL, RTPROT_STATIC = 254, 2, 4
RTN_UNICAST, RTN_LOCAL, RTNH_F_ONLINK, RTM_F_CLONED = 1, 2, 4, 0x200
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
LOOPBACK_INDEX = 1  # the loopback is registered first in every namespace (net/core/dev.c)

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags


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
    port_state: int = 0
    """Of a bridge's port: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking (linux/if_bridge.h)."""
    qdisc: str = ""
    """Kind of its root queue."""
    peer_netns: int | None = None
    """In which namespace its peer is, as ``netns_id`` numbers it; None when it is in this one."""

    @property
    def up(self) -> bool:
        """Administratively up; ``operstate`` says whether it carries traffic."""
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, slots=True)
class AddressInfo:
    index: int
    address: str
    prefix: int
    scope: int
    flags: int
    origin: int = 0
    """Who added it (IFA_PROTO, rtnetlink(7), since Linux 5.18); 0 is not known."""


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A route, wanted or found.  ``destination`` is "default" or a prefix; ``device`` an index; "" and 0 mean unset.

    ``version`` (4 or 6) matters only for a default route without gateway and source.  A route without a gateway gets
    scope link, as ip-route(8) does it.  ``table``, ``kind`` and ``protocol`` are those of ip-route(8), by number.
    """

    destination: str = "default"
    gateway: str = ""
    device: int = 0
    metric: int = 0
    source: str = ""
    onlink: bool = False
    table: int = RT_TABLE_MAIN
    kind: int = RTN_UNICAST
    protocol: int = RTPROT_STATIC
    version: int = 0

    @property
    def family(self) -> int:
        if self.version:
            return socket.AF_INET6 if self.version == 6 else socket.AF_INET
        known = self.gateway + self.source + (self.destination if self.destination != "default" else "")
        return socket.AF_INET6 if ":" in known else socket.AF_INET


# -- values to bytes and back ---------------------------------------------------------------------------------------


def pack_address(address: str) -> tuple[int, bytes]:
    """(family, bytes) of an address in text."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return family, socket.inet_pton(family, address)
    except OSError:
        raise InvalidArgument(f"invalid address {address!r}") from None


def pack_mac(mac: str) -> bytes:
    parts = mac.split(":")
    try:
        raw = bytes(int(part, 16) for part in parts)
    except ValueError:
        raw = b""
    if len(raw) != 6 or any(len(part) != 2 for part in parts):
        raise InvalidArgument(f"invalid MAC address {mac!r}")
    return raw


def _unpack_address(data: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(data) == 16 else socket.AF_INET, data) if data else ""


def _number(data: bytes | None) -> int:
    return int.from_bytes(data, "little" if struct.pack("=H", 1)[0] else "big") if data else 0


def _signed(data: bytes | None) -> int | None:
    return struct.unpack("=i", data)[0] if data else None


def _text(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode(errors="replace")


# -- links ----------------------------------------------------------------------------------------------------------


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
    port = attributes(info.get(IFLA_INFO_SLAVE_DATA, b""))
    return LinkInfo(
        index=index,
        name=_text(found.get(IFLA_IFNAME)),
        kind=_text(info.get(IFLA_INFO_KIND)),
        master=_number(found.get(IFLA_MASTER)),
        mtu=_number(found.get(IFLA_MTU)),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        group=_number(found.get(IFLA_GROUP)),
        flags=flags,
        operstate=_number(found.get(IFLA_OPERSTATE)),
        peer=_number(found.get(IFLA_LINK)),
        alias=_text(found.get(IFLA_IFALIAS)),
        isolated=any(port.get(IFLA_BRPORT_ISOLATED, b"")),
        port_state=_number(port.get(IFLA_BRPORT_STATE)),
        qdisc=_text(found.get(IFLA_QDISC)),
        peer_netns=_signed(found.get(IFLA_LINK_NETNSID)),
    )


def read_operstate(body: bytes) -> int:
    return _number(attributes(body, _IFINFO.size).get(IFLA_OPERSTATE))


def get_netns_id(fd: int) -> Message:
    """By which number the asked namespace knows the one that *fd* is of."""
    return Message("look up a namespace's number", RTM_GETNSID, 0, bytes(4) + _u32(NETNSA_FD, fd))


def read_netns_id(body: bytes) -> int | None:
    return _signed(attributes(body, 4).get(NETNSA_NSID))


# -- addresses ------------------------------------------------------------------------------------------------------


def new_address(index: int, address: str, prefix: int, *, origin: int = 0) -> Message:
    """IPv6 without duplicate address detection: IPAM gave the address away once, and DAD would hold it for a second."""
    family, raw = pack_address(address)
    _check_prefix(family, address, prefix)
    body = _IFADDR.pack(family, prefix, IFA_F_NODAD if family == socket.AF_INET6 else 0, 0, index)
    body += attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    if origin:
        body += attribute(IFA_PROTO, bytes([origin]))
    return Message(f"add address {address}/{prefix}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def del_address(index: int, address: str, prefix: int) -> Message:
    family, raw = pack_address(address)
    _check_prefix(family, address, prefix)
    body = _IFADDR.pack(family, prefix, 0, 0, index) + attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    return Message(f"delete address {address}/{prefix}", RTM_DELADDR, 0, body)


def get_addresses(family: int = 0) -> Message:
    return Message("list addresses", RTM_GETADDR, 0, _IFADDR.pack(family, 0, 0, 0, 0))


def _check_prefix(family: int, address: str, prefix: int) -> None:
    if not 0 <= prefix <= (128 if family == socket.AF_INET6 else 32):
        raise InvalidArgument(f"invalid prefix length {prefix} for {address}")


def read_address(body: bytes) -> AddressInfo:
    _family, prefix, flags, scope, index = _IFADDR.unpack_from(body)
    found = attributes(body, _IFADDR.size)
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
    origin = found.get(IFA_PROTO, b"\0")[0]
    return AddressInfo(index, _unpack_address(raw), prefix, scope, _number(found.get(IFA_FLAGS)) or flags, origin)


# -- routes ---------------------------------------------------------------------------------------------------------


def new_route(route: RouteInfo, *, replace: bool = False) -> Message:
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Message(f"add route {_shown(route)}", RTM_NEWROUTE, flags, _route_body(route))


def del_route(route: RouteInfo) -> Message:
    return Message(f"delete route {_shown(route)}", RTM_DELROUTE, 0, _route_body(route, deleting=True))


def get_routes(family: int) -> Message:
    return Message("list routes", RTM_GETROUTE, 0, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def get_route(address: str) -> Message:
    """Which way packets to *address* would go: one route, or an error."""
    family, raw = pack_address(address)
    body = _RTMSG.pack(family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, raw)
    return Message(f"look up the route to {address}", RTM_GETROUTE, 0, body)


def get_rules(family: int) -> Message:
    return Message("list rules", RTM_GETRULE, 0, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def _shown(route: RouteInfo) -> str:
    return route.destination + (f" via {route.gateway}" if route.gateway else "")


def _route_body(route: RouteInfo, *, deleting: bool = False) -> bytes:
    family = route.family
    options, length = b"", 0
    if route.destination != "default":
        address, slash, prefix = route.destination.partition("/")
        found, raw = pack_address(address)
        if found != family:
            raise InvalidArgument(f"route {_shown(route)} mixes IPv4 and IPv6")
        if slash and not prefix.isdecimal():
            raise InvalidArgument(f"invalid route destination {route.destination!r}")
        length = int(prefix) if slash else len(raw) * 8
        _check_prefix(family, address, length)
        options += attribute(RTA_DST, raw)
    for kind, value in ((RTA_GATEWAY, route.gateway), (RTA_PREFSRC, route.source)):
        if value:
            found, raw = pack_address(value)
            if found != family:
                raise InvalidArgument(f"route {_shown(route)} mixes IPv4 and IPv6")
            options += attribute(kind, raw)
    if route.device:
        options += _u32(RTA_OIF, route.device)
    if route.metric:
        options += _u32(RTA_PRIORITY, route.metric)
    if route.table > 255:
        options += _u32(RTA_TABLE, route.table)
    if deleting:
        scope, protocol = RT_SCOPE_NOWHERE, 0  # "any", as ip route del asks
    else:
        scope, protocol = RT_SCOPE_UNIVERSE if route.gateway else RT_SCOPE_LINK, route.protocol
    table = route.table if route.table <= 255 else 0
    flags = RTNH_F_ONLINK if route.onlink else 0
    return _RTMSG.pack(family, length, 0, 0, table, protocol, scope, route.kind, flags) + options


def read_route(body: bytes) -> RouteInfo | None:
    """None for a cached exception, which is no route of anybody's making."""
    family, length, _src, _tos, table, protocol, _scope, kind, flags = _RTMSG.unpack_from(body)
    if flags & RTM_F_CLONED:
        return None
    found = attributes(body, _RTMSG.size)
    destination = found.get(RTA_DST, b"")
    return RouteInfo(
        destination=f"{_unpack_address(destination)}/{length}" if destination else "default",
        gateway=_unpack_address(found.get(RTA_GATEWAY, b"")),
        device=_number(found.get(RTA_OIF)),
        metric=_number(found.get(RTA_PRIORITY)),
        source=_unpack_address(found.get(RTA_PREFSRC, b"")),
        onlink=bool(flags & RTNH_F_ONLINK),
        table=_number(found.get(RTA_TABLE)) or table,
        kind=kind,
        protocol=protocol,
        version=6 if family == socket.AF_INET6 else 4,
    )


def read_way(body: bytes) -> tuple[str, int]:
    """The address that was asked for with get_route, and the kind of its route (RTN_LOCAL: the host's own)."""
    kind = _RTMSG.unpack_from(body)[7]
    return _unpack_address(attributes(body, _RTMSG.size).get(RTA_DST, b"")), kind


def read_rule(body: bytes) -> str:
    """A routing rule as text that is equal for equal rules."""
    family, dst, src, tos, table, _r1, _r2, action, flags = _RTMSG.unpack_from(body)
    rest = " ".join(f"{kind}={data.hex()}" for kind, data in sorted(attributes(body, _RTMSG.size).items()))
    return f"family={family} dst={dst} src={src} tos={tos} table={table} action={action} flags={flags} {rest}"
