"""rtnetlink: links, addresses and routes of one network namespace.

    Rtnetlink()                      the calling thread's namespace
    Rtnetlink(netns.socket(fd, ...)) another one: the socket was made inside, and may be used from here

The two steps of an endpoint, one datagram each:

    in the host's namespace     add_veth: host end up and on its bridge, peer born in the sandbox's namespace;
                                the echoed message tells the peer's index, so nothing is looked up
    in the sandbox's namespace  configure: lo up, name, addresses, link up, routes

The kernel's linkwatch brings a veth into operation a moment *after* the call returns; a first ARP sent before that is
lost and costs a second.  wait_up waits for it, at some 0.03 ms.  A bridge without ports is out of operation until the next
one is in, and a moment longer: until then it drops what the host sends through it, and wait_forwarding waits for that.

Deleting a link makes the kernel wait for a grace period of RCU, some 20 ms, whether it deletes one link or a hundred in
one request; and it can be asked for all of a *group* in one request.  So delete_links moves its links to a group
that nobody else has and deletes that, in one datagram: were it two, a process that is killed between them would leave links
without our mark, which no later one could tell from a stranger's.

Messages are made by hand (rtnl_links.py, rtnl_routes.py) and not by pyroute2, which needs five to seven times as long and 0.1 s
to be imported (bench/bench_rtnetlink.py).  Everything is idempotent only where it says so; every error is a NetlinkError that
names its step.  All methods are thread-safe.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import secrets
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from ..ifname import check_ifname
from . import rtnl_links, rtnl_routes, stacked, traffic
from .netlink import Answer, Message, NetlinkError, NetlinkSocket
from .rtnl_links import LinkInfo
from .rtnl_routes import AddressInfo, RouteInfo
from .traffic import Bucket, LinkCounters, QueueInfo

__all__ = ["AddressInfo", "LinkInfo", "NetlinkError", "RouteInfo", "Rtnetlink"]

_GONE = (errno.ENODEV,)
_NO_IPV6 = (errno.EAFNOSUPPORT,)
_NO_BUCKET = (errno.ENODEV, errno.ENOENT, errno.EINVAL)
"""What taking a queue away may say where there is none of ours (net/sched/sch_api.c, tc_get_qdisc)."""
_SIOCGIFINDEX, _SIOCETHTOOL = 0x8933, 0x8946  # linux/sockios.h; a netlink socket answers them as any other does
_ETHTOOL_GLINK = 10  # linux/ethtool.h
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES)
"""What asking for a route may say where there is none, or one that forbids (net/ipv4/fib_semantics.c, fib_props)."""
DELETED_AT_ONCE = 200
"""Links that one datagram deletes: should all be gone, the answers to them fit the receive buffer (net.core.rmem_default)."""


class Rtnetlink:
    """A NETLINK_ROUTE socket.  Owns *sock* if one is given; close it, or it keeps its namespace alive."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._netlink = NetlinkSocket(socket.NETLINK_ROUTE, sock)

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- links --------------------------------------------------------------------------------------------------

    def add_bridge(self, name: str, *, mac: str = "", mtu: int = 0, group: int = 0, up: bool = True) -> int:
        """Make a bridge, return its index.  With *mac* it keeps that address whatever ports come and go."""
        return self._new(rtnl_links.new_bridge(name, mac=mac, mtu=mtu, group=group, up=up), name).index

    def add_veth(
        self,
        host: str,
        peer: str,
        *,
        netns_fd: int,
        mac: str = "",
        mtu: int = 0,
        master: int = 0,
        group: int = 0,
        host_mac: str = "",
        hairpin: bool = False,
        isolated: bool = False,
        up: bool = True,
    ) -> tuple[int, int]:
        """Make a veth pair, its *peer* in the namespace *netns_fd* (-1: here); return (index, peer's index).

        *mac* is the peer's.  *master* is a bridge's index, *hairpin* and *isolated* its port's options.  If a step
        fails, nothing is left.

        A bridge's port has no use for an address of its own, and each would make every later join dearer: IPv6 walks all of
        the host's routes when a link that is up is changed (net/ipv6/addrconf.c, addrconf_notify).  So it gets none, and is
        up when all else is done.
        """
        first = rtnl_links.new_veth(
            host,
            peer,
            netns_fd=netns_fd,
            mac=mac,
            host_mac=host_mac,
            mtu=mtu,
            master=master,
            group=group,
            up=up and not master,
        )
        rest: list[Message] = []
        if hairpin or isolated:
            rest.append(rtnl_links.change_port(0, host, hairpin=hairpin, isolated=isolated))
        if master:
            rest.append(rtnl_links.no_link_local(host))
            if up:
                rest.append(rtnl_links.change_link(0, name=host, up=True, step=f"set link {host} up"))
        try:
            found = self._new(first, host, *rest)
        except NetlinkError as error:
            if error.step != first.step:  # the pair is ours and half made
                self.delete_link(host)
            raise
        return found.index, found.peer

    def send(self, message: Message) -> None:
        """One request that answers nothing but success, as those of stacked.py."""
        self._netlink.transact([message])

    def has_kind(self, kind: str) -> bool:
        """Whether this kernel has links of a kind ("macvlan"); a module that is installed is loaded for the question."""
        try:
            self.send(stacked.probe(kind))
        except NetlinkError as error:
            return error.errno != errno.EOPNOTSUPP
        raise AssertionError("a link was made of nothing")

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        name: str = "",
        master: int | None = None,
        group: int | None = None,
        mac: str = "",
        mtu: int = 0,
        alias: str | None = None,
        hairpin: bool | None = None,
        isolated: bool | None = None,
    ) -> None:
        """Change what is given; *master* 0 takes the link off its bridge, an empty *alias* removes it."""
        batch: list[Message] = []
        if (up, master, group, alias) != (None, None, None, None) or name or mac or mtu:
            batch.append(
                rtnl_links.change_link(
                    index, up=up, name=name, master=master, group=group, mac=mac, mtu=mtu, alias=alias
                )
            )
        if (hairpin, isolated) != (None, None):
            batch.append(rtnl_links.change_port(index, hairpin=hairpin, isolated=isolated))
        self._netlink.transact(batch)

    def delete_link(self, link: int | str) -> None:
        """Delete by index or name; one that is gone already is fine."""
        message = rtnl_links.del_link(name=check_ifname(link)) if isinstance(link, str) else rtnl_links.del_link(link)
        self._netlink.transact([message], ignore=_GONE)

    def delete_links(self, indices: Iterable[int]) -> None:
        """Delete many at the price of one; those that are gone already are fine."""
        wanted = list(indices)
        if len(wanted) < 2:
            for index in wanted:
                self.delete_link(index)
            return
        for start in range(0, len(wanted), DELETED_AT_ONCE):
            group = 0x40000000 | secrets.randbits(30)
            batch = [rtnl_links.change_link(index, group=group) for index in wanted[start : start + DELETED_AT_ONCE]]
            batch.append(rtnl_links.del_link(group=group))
            self._netlink.transact(batch, ignore=_GONE, at_once=len(batch))

    def delete_group(self, group: int) -> None:
        """Delete every link of a group, many at the price of one; none is fine (netlib/reaper.py)."""
        self._netlink.transact([rtnl_links.del_link(group=group)], ignore=_GONE)

    def link(self, link: int | str) -> LinkInfo | None:
        """One link by index or name, None if there is none."""
        message = rtnl_links.get_link(name=check_ifname(link)) if isinstance(link, str) else rtnl_links.get_link(link)
        answers = self._netlink.transact([message], ignore=_GONE)
        return rtnl_links.read_link(answers[0].body) if answers else None

    def index(self, name: str) -> int:
        """The index of the link with this name, 0 if there is none: a fortieth of what ``link`` takes (netdevice(7))."""
        request = struct.pack("16s24x", check_ifname(name).encode())
        try:
            answer = fcntl.ioctl(self._netlink.sock, _SIOCGIFINDEX, request)
        except OSError as error:
            if error.errno in _GONE:
                return 0
            raise NetlinkError(error.errno or errno.EIO, f"look up link {name}") from error
        return int(struct.unpack_from("=i", answer, 16)[0])

    def links(self, *, group: int | None = None) -> list[LinkInfo]:
        found = [rtnl_links.read_link(answer.body) for answer in self._netlink.dump(rtnl_links.get_link())]
        return [link for link in found if group is None or link.group == group]

    def netns_id(self, fd: int) -> int | None:
        """By which number this namespace knows the one that *fd* is of; negative or None: by none (ip-netns(8), list-id)."""
        (answer,) = self._netlink.transact([rtnl_links.get_netns_id(fd)])
        return rtnl_links.read_netns_id(answer.body)

    def operstate(self, index: int) -> int:
        """The RFC 2863 state as if.h numbers it: 2 down, 3 lower layer down, 6 up, 0 unknown."""
        answers = self._netlink.transact([rtnl_links.get_link(index)])
        return rtnl_links.read_operstate(answers[0].body)

    def wait_up(self, index: int, timeout: float = 5.0, *, unknown: bool = False) -> None:
        """Return when the link is in operation; NetlinkError(ETIMEDOUT) if it is not within *timeout* seconds.  With *unknown*
        also when it does not say: a macvlan that was made while its parent's state was changing never does, and works.

        Polled: a subscription would deliver every link's events to this socket, and a query is 0.02 ms.
        """
        deadline = time.monotonic() + timeout
        pause = 0.00005
        enough = (rtnl_links.OPERSTATE_UP, *((rtnl_links.OPERSTATE_UNKNOWN,) if unknown else ()))
        while self.operstate(index) not in enough:
            if time.monotonic() >= deadline:
                raise NetlinkError(errno.ETIMEDOUT, f"wait for link {index} to come up")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.005)

    def wait_forwarding(self, port: int, bridge: str, timeout: float = 5.0) -> None:
        """wait_up for a bridge's *port*, and have the *bridge* in operation if that brought its carrier back: on return frames
        pass between the two.

        Not waited for is what may last: a spanning tree that listens and learns for 30 s, a bridge or a port of it that
        somebody set down.  The carrier is back when the port is up, and to ask for it by ethtool makes the kernel do at once
        what it had put off (net/ethtool/ioctl.c, ethtool_op_get_link): 0.003 ms.
        """
        self.wait_up(port, timeout)
        asked = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GLINK, 0), 8)
        request = struct.pack("16sP", check_ifname(bridge).encode(), ctypes.addressof(asked)).ljust(40, b"\0")
        try:
            fcntl.ioctl(self._netlink.sock, _SIOCETHTOOL, request)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise NetlinkError(error.errno or errno.EIO, f"look up link {bridge}") from error

    # -- what an endpoint needs inside its namespace --------------------------------------------------------------

    def configure(
        self,
        index: int,
        *,
        addresses: Sequence[tuple[str, int]] = (),
        routes: Sequence[RouteInfo] = (),
        name: str = "",
        mac: str = "",
        mtu: int = 0,
        lo_up: bool = True,
        up: bool = True,
    ) -> None:
        """Everything for one link in one datagram, in the order that the kernel needs.

        Routes whose ``device`` is 0 and that have no gateway go through *index*.  On an error the steps before and
        some behind it are done: delete the link, or the namespace.
        """
        batch: list[Message] = []
        if lo_up:
            batch.append(rtnl_links.change_link(rtnl_links.LOOPBACK_INDEX, up=True, step="set lo up"))
        if name or mac or mtu:
            batch.append(rtnl_links.change_link(index, name=name, mac=mac, mtu=mtu))
        batch += [rtnl_routes.new_address(index, address, prefix) for address, prefix in addresses]
        if up:
            batch.append(rtnl_links.change_link(index, up=True, step=f"set link {name or index} up"))
        batch += [rtnl_routes.new_route(_through(route, index)) for route in routes]
        self._netlink.transact(batch)

    # -- addresses ----------------------------------------------------------------------------------------------

    def add_address(self, index: int, address: str, prefix: int, *, origin: int = 0) -> None:
        """EEXIST if the link has it already.  *origin* marks who added it, where the kernel keeps that (since 5.18)."""
        self._netlink.transact([rtnl_routes.new_address(index, address, prefix, origin=origin)])

    def delete_address(self, index: int, address: str, prefix: int) -> None:
        """One that is gone already, or whose link is, is fine."""
        message = rtnl_routes.del_address(index, address, prefix)
        self._netlink.transact([message], ignore=(errno.EADDRNOTAVAIL, errno.ENODEV))

    def addresses(self, index: int | None = None) -> list[AddressInfo]:
        found = [rtnl_routes.read_address(answer.body) for answer in self._netlink.dump(rtnl_routes.get_addresses())]
        return [address for address in found if index is None or address.index == index]

    # -- routes -------------------------------------------------------------------------------------------------

    def add_route(self, route: RouteInfo, *, replace: bool = False) -> None:
        """EEXIST if there is one with that destination and metric, unless *replace*."""
        self._netlink.transact([rtnl_routes.new_route(route, replace=replace)])

    def delete_route(self, route: RouteInfo) -> None:
        """One that is gone already, or whose link is, is fine."""
        self._netlink.transact([rtnl_routes.del_route(route)], ignore=(errno.ESRCH, errno.ENODEV))

    def routes(self, version: int = 4, *, table: int | None = rtnl_routes.RT_TABLE_MAIN) -> list[RouteInfo]:
        """The routes of IP *version* in *table* (None: in all tables)."""
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        found = [rtnl_routes.read_route(answer.body) for answer in self._netlink.dump(rtnl_routes.get_routes(family))]
        return [route for route in found if route is not None and table in (None, route.table)]

    def local(self, addresses: Iterable[str]) -> set[str]:
        """Those of *addresses* that the host takes for its own, as a packet filter's "fib daddr type local" does."""
        batch = [rtnl_routes.get_route(address) for address in addresses]
        answers = self._netlink.transact(batch, ignore=_NO_WAY)
        ways = (rtnl_routes.read_way(answer.body) for answer in answers)
        return {address for address, kind in ways if kind == rtnl_routes.RTN_LOCAL}

    def rules(self, version: int = 4) -> list[str]:
        """The routing rules, as texts that are equal for equal rules."""
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        return [rtnl_routes.read_rule(answer.body) for answer in self._netlink.dump(rtnl_routes.get_rules(family))]

    # -- traffic ------------------------------------------------------------------------------------------------

    def set_bucket(self, index: int, bucket: Bucket) -> None:
        """Limit what leaves by the link; in the place of the limit that it has, without a moment between.  ENOENT from a
        kernel without tbf."""
        self._netlink.transact([traffic.set_bucket(index, bucket)])

    def delete_bucket(self, index: int) -> None:
        """Take our limit away; another queue than ours stays, and a link that is gone is fine."""
        self._netlink.transact([traffic.del_bucket(index)], ignore=_NO_BUCKET)

    def queues(self) -> dict[int, QueueInfo]:
        """The root queues of all links, by index."""
        found = [traffic.read_queue(answer.body) for answer in self._netlink.dump(traffic.get_queues())]
        return {queue.index: queue for queue in found if queue is not None}

    def statistics(self, index: int) -> LinkCounters | None:
        """What one link counted; None when it is gone."""
        answers = self._netlink.transact([traffic.get_statistics(index)], ignore=_GONE)
        return traffic.read_statistics(answers[0].body)[1] if answers else None

    def all_statistics(self) -> dict[int, LinkCounters]:
        """What every link counted, by index."""
        answers = self._netlink.dump(traffic.get_statistics())
        return dict(traffic.read_statistics(answer.body) for answer in answers)

    # -- inner --------------------------------------------------------------------------------------------------

    def _new(self, message: Message, name: str, *rest: Message) -> LinkInfo:
        """Make a link; know it from the echo, which kernels before 6.2 do not send for links."""
        answers = self._netlink.transact([message, *rest], ignore=_NO_IPV6)
        found = _echoed(answers, name) or self.link(name)
        if found is None:
            raise NetlinkError(errno.ENODEV, message.step, "the new link was gone at once")
        return found


def _echoed(answers: Sequence[Answer], name: str) -> LinkInfo | None:
    for answer in answers:
        if answer.type == rtnl_links.RTM_NEWLINK:
            link = rtnl_links.read_link(answer.body)
            if link.name == name:
                return link
    return None


def _through(route: RouteInfo, index: int) -> RouteInfo:
    if route.device or (route.gateway and not route.onlink):
        return route
    return RouteInfo(
        destination=route.destination,
        gateway=route.gateway,
        device=index,
        metric=route.metric,
        source=route.source,
        onlink=route.onlink,
        table=route.table,
        kind=route.kind,
        protocol=route.protocol,
        version=route.version,
    )
