"""Veth pairs: one end a port of a bridge, the other born in a sandbox with its addresses.

    host namespace                    sandbox namespace
    pb<network> ---- pv<endpoint> ==== eth0

The peer is configured before anything can talk to it, and the pair and its bridge are in operation (RFC 2863) when ``make``
returns: the first packet is not lost.  IPv6 is off in a sandbox (namespace.py) and switched on for the interfaces that have an
IPv6 address alone.

Repair goes on with what is there: a pair whose ends are both where they belong is put back on its bridge and given what it
lacks, and its connections live on.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import Conflict
from ..kernel import sysctl
from ..kernel.netlink import NetlinkError
from ..kernel.rtnl_links import OPERSTATE_UP, LinkInfo
from ..reaper import put_away
from ..tools import Inside, Tools
from .kind import register
from .links import LinkKind
from .resource import Key, Resource
from .sight import Sight


@dataclass(frozen=True)
class Veth(Resource):
    host: str
    ifname: str
    netns: str
    mac: str
    mtu: int
    bridge: str
    addresses: tuple[str, ...]
    """CIDRs."""
    hairpin: bool = False
    isolated: bool = False
    """Nothing passes from port to port (icc=false): by the bridge's own isolation where the firewall does not see it."""

    @property
    def key(self) -> Key:
        return ("link", self.host)

    @property
    def holds(self) -> tuple[Key, ...]:
        return (self.key, ("interface", self.netns, self.ifname))

    @property
    def goes_with(self) -> tuple[Key, ...]:
        return (("netns", self.netns),)

    @property
    def title(self) -> str:
        return f"interface {self.ifname} in {self.netns}"

    @property
    def details(self) -> str:
        return ", ".join([*self.addresses, self.mac, f"MTU {self.mtu}", f"{self.host} on {self.bridge}"])


class VethKind(LinkKind[Veth]):
    def make(self, tools: Tools, resource: Veth) -> None:
        with tools.inside(resource.netns) as inside:
            try:
                try:
                    host, peer = self._add(tools, inside, resource)
                except NetlinkError as error:
                    if error.errno != errno.EEXIST or (link := self.own(tools, resource.host)) is None:
                        raise
                    if _mend(tools, inside, resource, link):
                        return
                    tools.reaper.put_away(
                        link.index
                    )  # of this endpoint's last sandbox, which the kernel is taking apart
                    host, peer = self._add(tools, inside, resource)
                try:
                    _switch_ipv6_on(inside, resource)
                    inside.rtnl.configure(peer, addresses=[_split(a) for a in resource.addresses], lo_up=False)
                    tools.rtnl.wait_forwarding(host, resource.bridge)
                except BaseException:
                    tools.rtnl.delete_link(host)
                    raise
            except NetlinkError as error:
                if error.errno == errno.EXFULL:  # net/bridge: BR_MAX_PORTS
                    raise Conflict(
                        f"bridge {resource.bridge} has all of its 1023 ports in use", hint="use a second network"
                    ) from error
                raise

    def _add(self, tools: Tools, inside: Inside, resource: Veth) -> tuple[int, int]:
        bridge = tools.rtnl.index(resource.bridge)
        if not bridge:
            raise NetlinkError(errno.ENODEV, f"find bridge {resource.bridge}")
        return tools.rtnl.add_veth(
            resource.host,
            resource.ifname,
            netns_fd=inside.fd,
            mac=resource.mac,
            mtu=resource.mtu,
            master=bridge,
            group=tools.instance.link_group,
            hairpin=resource.hairpin,
            isolated=resource.isolated and not _bridged_packets_are_filtered(tools),
        )

    def unmake(self, tools: Tools, resource: Veth) -> None:
        link = self.own(tools, resource.host)
        if link is None:
            return
        tools.reaper.put_away(link.index)
        try:
            with tools.inside(resource.netns) as inside:
                peer = inside.rtnl.link(link.peer)
                if peer is not None and peer.peer == link.index:
                    put_away(inside.rtnl, peer.index)
        except FileNotFoundError:
            pass  # the sandbox is gone, or will be; the peer goes with its other end in any case

    def forsake(self, tools: Tools, resource: Veth) -> None:
        """The kernel deletes the pair with the namespace, but not while anything (a process, an orphaned connection) still
        holds that."""
        link = self.own(tools, resource.host)
        if link is not None:
            tools.reaper.put_away(link.index)

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Veth]) -> Iterable[tuple[str, Veth]]:
        apart = any(veth.isolated for veth in wanted) and not _bridged_packets_are_filtered(tools)
        for veth in wanted:
            if not _whole(sight, veth) or (apart and veth.isolated and not sight.links[veth.host].isolated):
                yield veth.host, veth


def _whole(sight: Sight, veth: Veth) -> bool:
    link, bridge = sight.links.get(veth.host), sight.links.get(veth.bridge)
    if link is None or bridge is None or link.master != bridge.index or link.operstate != OPERSTATE_UP:
        return False
    interior = sight.inside(veth.netns)
    peer = interior.links.get(veth.ifname) if interior is not None else None
    if interior is None or peer is None or peer.peer != link.index or not peer.up:
        return False
    return all((peer.index, address) in interior.addresses for address in veth.addresses)


def _mend(tools: Tools, inside: Inside, resource: Veth, link: LinkInfo) -> bool:
    """Give a pair that is where it belongs what it lacks; False when it is not."""
    peer, bridge = inside.rtnl.link(resource.ifname), tools.rtnl.link(resource.bridge)
    if peer is None or bridge is None or (peer.index, peer.peer) != (link.peer, link.index) or peer.mac != resource.mac:
        return False
    _switch_ipv6_on(inside, resource)
    present = {f"{a.address}/{a.prefix}" for a in inside.rtnl.addresses(peer.index)}
    inside.rtnl.configure(
        peer.index, addresses=[_split(a) for a in resource.addresses if a not in present], lo_up=False
    )
    isolated = resource.isolated and not _bridged_packets_are_filtered(tools)
    tools.rtnl.set_link(link.index, up=True, master=bridge.index)
    tools.rtnl.set_link(link.index, hairpin=resource.hairpin, isolated=isolated)
    tools.rtnl.wait_forwarding(link.index, resource.bridge)
    return True


def _switch_ipv6_on(inside: Inside, resource: Veth) -> None:
    if any(":" in address for address in resource.addresses):
        inside.call(sysctl.write, ("net", "ipv6", "conf", resource.ifname, "disable_ipv6"), 0)


def _bridged_packets_are_filtered(tools: Tools) -> bool:
    """Whether br_netfilter shows the firewall what passes from port to port.

    Then its rules keep containers apart, and isolated ports would also stop published ports of the same bridge:
    the bridge hands a packet whose address it translated from port to port.  Without it, such packets are routed.
    """

    def read() -> bool:
        try:
            if sysctl.read(("net", "bridge", "bridge-nf-call-iptables")) != "1":
                return False
        except FileNotFoundError:
            return False  # br_netfilter is not loaded
        try:
            return sysctl.read(("net", "bridge", "bridge-nf-call-ip6tables")) == "1"
        except FileNotFoundError:
            return True  # a kernel without IPv6

    return tools.at_home(read)


def _split(address: str) -> tuple[str, int]:
    ip, _, prefix = address.partition("/")
    return ip, int(prefix)


register(Veth, VethKind())
