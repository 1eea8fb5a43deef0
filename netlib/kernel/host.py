"""The applier's hands: each kind of resource made and unmade through the one module that speaks to that part of the
kernel.

    Netns, Veth          netns.py (the namespace thread) and rtnetlink.py
    Bridge               rtnetlink.py
    Sysctl               sysctl.py
    NetworkFirewall,     the firewall back end, chosen at the first use
    PortForwards         ... and conntrack.py: UDP flows that began before a rule changed would go on past it
    ProxyPorts           the forwarder's client that the controller was given

All of it acts in the network namespace of the thread that made this object.  Idempotent as resources.py demands; links
that are not in our link group are never deleted.  A netlink socket and the namespace thread are here from the start; the
firewall back end is chosen, and its tables made, when something needs them.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..errors import Conflict, InvalidArgument, NotSupported
from ..firewall.choice import select_backend
from ..firewall.intents import FirewallBackend, NetworkRules, PortRule, check_network
from ..instance import Instance
from ..proxying import Proxy, ServedPort
from ..resources import Bridge, DefaultRoute, Netns, NetworkFirewall, PortForwards, ProxyPorts, Sysctl, Veth
from . import sysctl
from .conntrack import ANY, NETLINK_NETFILTER, Conntrack
from .netlink import NetlinkError
from .netns import NetnsThread, open_netns
from .rtnetlink import Rtnetlink
from .rtnl_messages import RouteInfo

LOOPBACK = 1
"""Every network namespace's loopback interface has this index."""
REAP_AFTER = 1.0
"""Seconds that the kernel has for taking a deleted sandbox's links apart by itself."""
_DISABLE_IPV6 = ("net", "ipv6", "conf", "default", "disable_ipv6")


class HostActions:
    def __init__(self, instance: Instance, *, firewall: str = "auto", proxy: Proxy | None = None) -> None:
        self._instance = instance
        self._proxy = proxy
        self._firewall_name = firewall
        self._lock = threading.Lock()
        self._backend: FirewallBackend | None = None
        self._backend_ready = False
        self.sockets: dict[str, socket.socket] = {}
        """Listening sockets of published ports by "proto/address/port"; kept here too, so a lost forwarder loses none."""
        self.rtnl = Rtnetlink()
        self.netns = NetnsThread()
        self._home = open_netns("/proc/thread-self/ns/net")
        self.conntrack = Conntrack(
            lambda: self.netns.socket(self._home, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        )
        self._reaping = threading.Condition()  # over the three below
        self._dying: list[int] = []
        self._closing = False
        self._reaper: threading.Thread | None = None
        self._deleting = threading.Lock()

    def close(self) -> None:
        with self._reaping:
            self._closing = True
            self._reaping.notify_all()
        if self._reaper is not None:
            self._reaper.join()
        if self._backend is not None:
            self._backend.close()
        self.conntrack.close()
        self.netns.close()
        os.close(self._home)
        self.rtnl.close()
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()

    @property
    def firewall(self) -> FirewallBackend:
        """The back end, with its tables made."""
        with self._lock:
            backend = self._choose_firewall()
            if not self._backend_ready:
                backend.ensure()
                self._backend_ready = True
            return backend

    def _choose_firewall(self) -> FirewallBackend:
        if self._backend is None:
            self._backend = select_backend(self._firewall_name, instance=self._instance.suffix)
        return self._backend

    @property
    def has_firewall(self) -> bool:
        """Whether the back end was needed already; asking for ``firewall`` makes its tables."""
        return self._backend_ready

    def firewall_state(self, *, needed: bool) -> tuple[list[NetworkRules], list[PortRule]]:
        """What the kernel's tables hold for us.  Makes none; a host without a firewall has nothing, unless it is *needed*."""
        try:
            with self._lock:
                backend = self._choose_firewall()
        except NotSupported:
            if needed:
                raise
            return [], []
        return backend.state()

    def diagnose(self) -> list[str]:
        """What on this host stands in the way of the rules that are there, a sentence each; nothing without a firewall."""
        try:
            with self._lock:
                backend = self._choose_firewall()
        except NotSupported:
            return []
        return backend.diagnose()

    @property
    def proxy(self) -> Proxy | None:
        return self._proxy

    # -- sysctls and namespaces ------------------------------------------------------------------------------

    def set_sysctl(self, resource: Sysctl) -> None:
        def act() -> None:
            try:
                sysctl.ensure(resource.path, resource.value)
            except FileNotFoundError:
                if resource.optional:
                    return
                if "ipv6" not in resource.path:
                    raise
                raise NotSupported(
                    "IPv6 is disabled in this kernel",
                    hint="create the network without IPv6, or boot with ipv6.disable=0",
                ) from None
            except PermissionError as error:
                raise NotSupported(
                    f"can not set {'.'.join(resource.path)}: {error.strerror}",
                    hint="run pynet as root, or in `pynet playground`",
                ) from error

        if resource.netns:
            self._inside(resource.netns, act)
        else:
            self.netns.call(self._home, act)

    def make_netns(self, resource: Netns) -> None:
        os.makedirs(os.path.dirname(resource.path), mode=0o711, exist_ok=True)
        os.close(self.netns.create(resource.path, prepare=_prepare_namespace))

    def drop_netns(self, resource: Netns) -> None:
        self.netns.delete(resource.path)

    def _inside(self, path: str, act: Callable[[], None]) -> None:
        fd = self.netns.open(path)
        try:
            self.netns.call(fd, act)
        finally:
            os.close(fd)

    # -- links -----------------------------------------------------------------------------------------------

    def make_bridge(self, resource: Bridge) -> None:
        made = False
        try:
            index = self.rtnl.add_bridge(
                resource.name, mac=resource.mac, mtu=resource.mtu, group=self._instance.link_group, up=False
            )
            made = True
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise
            link = self.rtnl.link(resource.name)
            if link is None or link.kind != "bridge":
                raise InvalidArgument(f"existing interface {resource.name} is not a bridge") from None
            index = link.index
        try:
            if any(":" in address for address in resource.addresses):
                # new interfaces may have IPv6 switched off on this host; this one was asked to have it
                self.set_sysctl(Sysctl(("net", "ipv6", "conf", resource.name, "disable_ipv6"), "0"))
                # while its link-local address is tentative (RFC 4862) the host asks for no neighbour, and the first
                # forwarded packets wait a second; nobody else on our own bridge can have the address
                self.set_sysctl(Sysctl(("net", "ipv6", "conf", resource.name, "accept_dad"), "0"))
            self.rtnl.set_link(index, up=True)
            present = {f"{a.address}/{a.prefix}" for a in self.rtnl.addresses(index)} if not made else set[str]()
            for address in resource.addresses:
                if address not in present:
                    ip, _, prefix = address.partition("/")
                    self.rtnl.add_address(index, ip, int(prefix))
        except BaseException:
            if made:
                self.rtnl.delete_link(index)
            raise

    def drop_bridge(self, resource: Bridge) -> None:
        self._drop_own(resource.name)

    def _drop_own(self, name: str) -> None:
        link = self.rtnl.link(name)
        if link is not None and link.group == self._instance.link_group:
            self.rtnl.delete_link(link.index)

    def make_veth(self, resource: Veth) -> None:
        fd = self.netns.open(resource.netns)
        try:
            try:
                host, peer = self._add_veth(resource, fd)
            except NetlinkError as error:
                if error.errno != errno.EEXIST:
                    raise
                self._drop_own(resource.host)  # of this endpoint's last sandbox, which the kernel is still taking apart
                host, peer = self._add_veth(resource, fd)
            try:
                with Rtnetlink(self.netns.socket(fd, socket.AF_NETLINK, socket.SOCK_RAW)) as inside:
                    inside.configure(
                        peer,
                        addresses=[
                            (ip, int(prefix)) for ip, _, prefix in (a.partition("/") for a in resource.addresses)
                        ],
                        routes=[RouteInfo(gateway=gateway) for gateway in resource.gateways],
                        lo_up=False,
                    )
                self.rtnl.wait_up(host)
            except BaseException:
                self.rtnl.delete_link(host)
                raise
        except NetlinkError as error:
            if error.errno == errno.EXFULL:  # net/bridge: BR_MAX_PORTS
                raise Conflict(
                    f"bridge {resource.bridge} has all of its 1023 ports in use", hint="use a second network"
                ) from error
            raise
        finally:
            os.close(fd)

    def _add_veth(self, resource: Veth, fd: int) -> tuple[int, int]:
        return self.rtnl.add_veth(
            resource.host,
            resource.ifname,
            netns_fd=fd,
            mac=resource.mac,
            mtu=resource.mtu,
            master=self._index(resource.bridge),
            group=self._instance.link_group,
            hairpin=resource.hairpin,
            isolated=resource.isolated and not self._bridged_packets_are_filtered(),
        )

    def _bridged_packets_are_filtered(self) -> bool:
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

        return self.netns.call(self._home, read)

    def drop_veth(self, resource: Veth) -> None:
        self._drop_own(resource.host)

    def _index(self, name: str) -> int:
        link = self.rtnl.link(name)
        if link is None:
            raise NetlinkError(errno.ENODEV, f"find bridge {name}")
        return link.index

    def set_default_route(self, resource: DefaultRoute) -> None:
        with self._in_sandbox(resource.netns) as inside:
            link = inside.link(resource.ifname)
            if link is None:
                raise NetlinkError(errno.ENODEV, f"find interface {resource.ifname}")
            inside.add_route(RouteInfo(gateway=resource.gateway, device=link.index), replace=True)

    def drop_default_route(self, resource: DefaultRoute) -> None:
        with self._in_sandbox(resource.netns) as inside:
            inside.delete_route(RouteInfo(gateway=resource.gateway))

    def default_gateways(self, path: str) -> set[str]:
        """The next hops of a sandbox's default routes."""
        with self._in_sandbox(path) as inside:
            return {r.gateway for version in (4, 6) for r in inside.routes(version) if r.destination == "default"}

    def _in_sandbox(self, path: str) -> Rtnetlink:
        fd = self.netns.open(path)
        try:
            return Rtnetlink(self.netns.socket(fd, socket.AF_NETLINK, socket.SOCK_RAW))
        finally:
            os.close(fd)

    def link_indices(self, names: Iterable[str]) -> list[int]:
        """Of those that there are."""
        return [link.index for link in map(self.rtnl.link, names) if link is not None]

    def reap_links(self, indices: list[int]) -> None:
        """See to it that host ends whose namespaces are going away go too: soon, in the background, many at once.

        The kernel deletes them itself when it takes a namespace apart, usually within milliseconds, but not while
        anything (a process, an orphaned connection) still holds the namespace.  Deleting at once would only make the
        next change wait for the kernel's one lock over all links (rtnl) twice.
        """
        if indices:
            with self._reaping:
                self._dying += indices
                if self._reaper is None:
                    self._reaper = threading.Thread(target=self._run_reaper, name="pynet-reaper", daemon=True)
                    self._reaper.start()
                self._reaping.notify_all()

    def settle(self) -> None:
        """Return when no host end of a deleted sandbox is left."""
        self._delete_dying()

    def _run_reaper(self) -> None:
        while True:
            with self._reaping:
                self._reaping.wait_for(lambda: self._dying or self._closing)
                if not self._closing:
                    self._reaping.wait_for(lambda: self._closing, timeout=REAP_AFTER)
            try:
                self._delete_dying()
            except OSError:
                pass  # nobody is there to be told; ``repair`` removes what stays
            if self._closing:
                return

    def _delete_dying(self) -> None:
        with self._deleting:
            with self._reaping:
                indices, self._dying = self._dying, []
            group = self._instance.link_group
            links = [self.rtnl.link(index) for index in indices]
            self.rtnl.delete_links([link.index for link in links if link is not None and link.group == group])

    # -- firewall and proxy ----------------------------------------------------------------------------------

    def add_network_rules(self, resource: NetworkFirewall) -> None:
        rules = self.complete_rules(resource.rules)
        self._allow_loopback(rules)
        self.firewall.add_network(rules)

    def replace_rules(self, networks: Iterable[NetworkRules], ports: Iterable[PortRule]) -> None:
        """Make exactly these be there, in one transaction; *networks* are complete."""
        networks = list(networks)
        for rules in networks:
            self._allow_loopback(rules)
        self.firewall.replace(networks, ports)

    def _allow_loopback(self, rules: NetworkRules) -> None:
        if rules.loopback:
            self.set_sysctl(Sysctl(("net", "ipv4", "conf", rules.bridge, "route_localnet"), "1"))

    def complete_rules(self, rules: NetworkRules) -> NetworkRules:
        """With what depends on the host, not on the network: without a proxy, loopback is NAT's business as well."""
        return check_network(replace(rules, loopback=self._proxy is None and not rules.internal))

    def remove_network_rules(self, resource: NetworkFirewall) -> None:
        self.firewall.remove_network(resource.rules.bridge)

    def add_port_rules(self, resource: PortForwards) -> None:
        self.firewall.add_ports(list(resource.rules))
        self._forget_flows(resource)

    def remove_port_rules(self, resource: PortForwards) -> None:
        self.firewall.remove_ports(list(resource.rules))
        self._forget_flows(resource)

    def _forget_flows(self, resource: PortForwards) -> None:
        published = {(r.host_ip or ANY[r.version], r.host_port) for r in resource.rules if r.proto == "udp"}
        self.conntrack.flush_ports(socket.IPPROTO_UDP, published, local=self.rtnl.local)

    def add_proxy_ports(self, resource: ProxyPorts) -> None:
        if self._proxy is not None and resource.ports:
            self._proxy.listen(self._served(resource))

    def _served(self, resource: ProxyPorts) -> list[ServedPort]:
        return [
            ServedPort(
                port.id,
                port.proto,
                port.target_ip,
                port.target_port,
                self.sockets[port.id],
                proxy_protocol=port.proxy_protocol,
            )
            for port in resource.ports
            if port.id in self.sockets  # one that another program took while nobody held it can not be served
        ]

    def remove_proxy_ports(self, resource: ProxyPorts) -> None:
        if self._proxy is not None and resource.ports:
            self._proxy.withdraw([port.id for port in resource.ports])


def _prepare_namespace() -> None:
    try:
        sysctl.write(_DISABLE_IPV6, 1)
    except FileNotFoundError:
        pass  # a kernel without IPv6 has nothing to switch off
    with Rtnetlink() as rtnl:
        rtnl.set_link(LOOPBACK, up=True)
