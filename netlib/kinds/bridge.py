"""Bridges: a network's switch in the host's namespace.

One that is there already is adopted: it gets the addresses that it lacks, keeps its own MAC and MTU, and stays when the network
goes.  What we gave it is taken back then: our addresses bear a mark (IFA_PROTO, since Linux 5.18; an older kernel keeps none,
and the address stays), and what else was changed is as it was found (found.py).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import InvalidArgument, NotSupported
from ..kernel import sysctl
from ..kernel.netlink import NetlinkError
from ..tools import Tools
from . import found
from .kind import register
from .links import LinkKind
from .resource import Key, Resource
from .sight import Sight

ORIGIN = 0x70
"""Our mark on addresses; the kernel's own are 1 to 3 (linux/if_addr.h)."""


@dataclass(frozen=True)
class Bridge(Resource):
    name: str
    mtu: int
    mac: str
    """Fixed, so that it does not change when the first port comes and goes; "" leaves it to the kernel."""
    addresses: tuple[str, ...]
    """CIDRs."""

    @property
    def key(self) -> Key:
        return ("link", self.name)

    @property
    def title(self) -> str:
        return f"bridge {self.name}"

    @property
    def details(self) -> str:
        said = [*self.addresses, self.mac, f"MTU {self.mtu}" if self.mtu else ""]
        return ", ".join(filter(None, said))


class BridgeKind(LinkKind[Bridge]):
    def make(self, tools: Tools, resource: Bridge) -> None:
        made = ours = False
        added: list[str] = []
        try:
            index = tools.rtnl.add_bridge(
                resource.name, mac=resource.mac, mtu=resource.mtu, group=tools.instance.link_group, up=False
            )
            made = True
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise
            link = tools.rtnl.link(resource.name)
            if link is None or link.kind != "bridge":
                raise InvalidArgument(f"existing interface {resource.name} is not a bridge") from None
            index, ours = link.index, link.group == tools.instance.link_group
            if not ours:
                found.remember(tools, link)
        try:
            if any(":" in address for address in resource.addresses):
                _switch_ipv6_on(tools, resource.name)
            tools.rtnl.set_link(index, up=True)
            present = set[str]() if made else {f"{a.address}/{a.prefix}" for a in tools.rtnl.addresses(index)}
            for address in resource.addresses:
                if address not in present:
                    ip, _, prefix = address.partition("/")
                    tools.rtnl.add_address(index, ip, int(prefix), origin=ORIGIN)
                    added.append(address)
            if ours and any(":" in address for address in added) and not any(a.startswith("fe80:") for a in present):
                # who flushed our address took the kernel's too, without which the host asks for no neighbour (RFC 4861 4.3)
                tools.rtnl.add_address(index, _link_local(resource.mac), 64)
        except BaseException:
            if made:
                tools.rtnl.delete_link(index)
            for address in () if made else added:
                ip, _, prefix = address.partition("/")
                tools.rtnl.delete_address(index, ip, int(prefix))
            if not made and (link := tools.rtnl.link(resource.name)) is not None:
                found.leave_as_found(tools, link)
            raise

    def unmake(self, tools: Tools, resource: Bridge) -> None:
        link = tools.rtnl.link(resource.name)
        if link is None:
            found.forget(tools, resource.name)
            return
        if link.group == tools.instance.link_group:
            tools.reaper.put_bridge_away(link.index)
            return
        for address in tools.rtnl.addresses(link.index):
            if address.origin == ORIGIN and f"{address.address}/{address.prefix}" in resource.addresses:
                tools.rtnl.delete_address(link.index, address.address, address.prefix)
        found.leave_as_found(tools, link)

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Bridge]) -> Iterable[tuple[str, Bridge]]:
        for bridge in wanted:
            link = sight.links.get(bridge.name)
            if link is None or not link.up or any((link.index, a) not in sight.addresses for a in bridge.addresses):
                yield bridge.name, bridge


def _link_local(mac: str) -> str:
    """The address that the kernel makes of a MAC (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + identifier)


def _switch_ipv6_on(tools: Tools, name: str) -> None:
    """New interfaces may have IPv6 switched off on this host; this one was asked to have it.  And while its link-local address
    is tentative (RFC 4862) the host asks for no neighbour, and the first forwarded packets wait a second; nobody else on our
    own bridge can have the address."""
    wanted = {("net", "ipv6", "conf", name, parameter): 0 for parameter in ("disable_ipv6", "accept_dad")}
    link = tools.rtnl.link(name)
    if link is not None and link.group != tools.instance.link_group:
        found.remember(tools, link, tuple(wanted))
    try:
        for path, value in wanted.items():
            tools.at_home(sysctl.ensure, path, value)
    except FileNotFoundError:
        raise NotSupported(
            "IPv6 is disabled in this kernel", hint="create the network without IPv6, or boot with ipv6.disable=0"
        ) from None


register(Bridge, BridgeKind())
