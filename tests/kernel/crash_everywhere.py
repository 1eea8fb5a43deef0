"""Kills a controller at every point of a life, and looks at what the next one makes of it.

    crash_everywhere.py DIRECTORY nftables|iptables every|steps STRIDE [macvlan]

Run by test_controller_crashes.py in a namespace of its own.  This process stays without threads and forks twice a point:
a child that lives until the point and vanishes there (os._exit: nothing is undone, as with kill -9), and one that starts a
controller on the same root, repairs, and proves that store and kernel agree.  With "every" a point is before each single
change that the kernel is asked for; with "steps" before each step of a plan.  STRIDE leaves points out.  The life is that of
bridge networks, or of macvlan networks on the wire of a LAN.
"""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pynet.drivers import bridge, macvlan
from pynet.netlib import reconcile
from pynet.netlib.applier import Applier
from pynet.netlib.controller import Controller
from pynet.netlib.firewall.iptables import backend as iptables
from pynet.netlib.firewall.nftables import backend as nftables
from pynet.netlib.instance import host_link_name, own_parent_name
from pynet.netlib.kernel import netns, sysctl
from pynet.netlib.kernel.libnftables import Nft
from pynet.netlib.kernel.netlink import NetlinkSocket
from pynet.netlib.kernel.rtnl_routes import RTPROT_KERNEL
from pynet.netlib.model import EndpointRecord, IpamConfig
from pynet.netlib.ports.portspec import parse_publish

DIED, LIVED = 9, 0
PARENT = "eth0"
LOADED = iptables, nftables, reconcile, bridge, macvlan
"""What the children would otherwise import again and again."""


class Fuse:
    """Ends the process when so many points were passed."""

    def __init__(self, left: int) -> None:
        self.left = left

    def before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                os._exit(DIED)
            return act(*arguments, **options)

        return acting


def arm_every(left: int) -> None:
    fuse = Fuse(left)
    for owner, name in (
        (NetlinkSocket, "_exchange"),  # a datagram: the kernel does all of it or, of one never sent, nothing
        (Nft, "run"),
        (sysctl, "write"),
        (netns, "mount"),
        (netns, "umount2"),
        (netns, "delete_netns"),
    ):
        setattr(owner, name, fuse.before(getattr(owner, name)))


class Mortal(Applier):
    def __init__(self, inner: Applier, fuse: Fuse) -> None:
        super().__init__(inner.tools)
        for verb in ("make", "unmake", "alter", "forsake"):
            setattr(self, verb, fuse.before(getattr(self, verb)))


def life(controller: Controller) -> None:
    web = controller.create_network(
        "web", ipam=[IpamConfig(subnet="10.1.0.0/24"), IpamConfig(subnet="fd00:1::/64")], ipv6=True
    )
    other = controller.create_network("other", subnet="10.2.0.0/24")
    sandbox = controller.create_sandbox("s")
    first = web.create_endpoint("a", options={"rate_in": "10mbit"})
    second = other.create_endpoint("a", gw_priority=10)
    first.join(sandbox)
    first.publish([*parse_publish("8080:80"), *parse_publish("5353:53/udp")])
    second.join(sandbox)  # takes the default route
    second.limit(rate_in="1mbit", rate_out="1mbit")
    second.limit(rate_in="0", rate_out="0")
    second.leave()
    for name in ("stray0", "stray1"):  # several at once are deleted in another way than one
        controller.tools.rtnl.add_bridge(name, group=controller.instance.link_group)
    controller.repair()
    first.unpublish()
    second.join(sandbox)
    first.leave()
    first.join(sandbox)
    first.publish(parse_publish("8081:80"))
    sandbox.delete()
    for network in (web, other):
        for endpoint in network.endpoints():
            endpoint.delete()
        network.delete()


def macvlan_life(controller: Controller) -> None:
    lan = controller.create_network(
        "lan",
        driver="macvlan",
        ipam=[IpamConfig("10.1.0.0/24", gateway="10.1.0.254"), IpamConfig("fd00:1::/64", gateway="fd00:1::1")],
        ipv6=True,
        options={"parent": PARENT, "host_access": "true"},
    )
    alone = controller.create_network("alone", driver="macvlan", subnet="10.2.0.0/24")
    sandbox = controller.create_sandbox("s")
    first, second = lan.create_endpoint("a"), alone.create_endpoint("a")
    second.join(sandbox)
    first.join(sandbox)
    first.leave()
    first.join(sandbox)
    sandbox.delete()
    sandbox = controller.create_sandbox("t")
    first.join(sandbox)
    sandbox.delete()
    for network in (lan, alone):
        for endpoint in network.endpoints():
            endpoint.delete()
        network.delete()


def endpoints(controller: Controller) -> list[EndpointRecord]:
    return list(controller.registry.endpoints.values())


def gateways_of(controller: Controller, path: str) -> set[str]:
    with controller.tools.inside(path) as inside:
        return {r.gateway for version in (4, 6) for r in inside.rtnl.routes(version) if r.destination == "default"}


def in_child(act: Callable[[int], None], point: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            act(point)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(LIVED)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def follow(controller: Controller) -> None:
    controller.repair()
    assert controller.check() == [], controller.check()
    wanted = {n.bridge for n in controller.networks()}
    wanted |= {f"pv{e.id[:12]}" for e in endpoints(controller) if e.sandbox}
    # whatever group they are in: a link of ours that lost its mark is nobody's, and stays for ever
    links = [link for link in controller.tools.rtnl.links() if link.kind in ("bridge", "veth")]
    assert {link.name for link in links} == wanted
    assert {link.group for link in links} <= {controller.instance.link_group}
    for network in controller.networks():
        (link,) = (link for link in links if link.name == network.bridge)
        held = {f"{a.address}/{a.prefix}" for a in controller.tools.rtnl.addresses(link.index)}
        assert held >= {f"{config.gateway}/{config.prefix}" for config in network.record.ipam}, held
    rules, ports = controller.tools.firewall.state()
    assert {rule.bridge for rule in rules} == {n.bridge for n in controller.networks()}
    led = {p.host_port for n in controller.networks() for e in n.endpoints() for p in e.ports}
    assert {r.host_port for r in ports} == led
    for sandbox in controller.sandboxes():
        offered = [e.gateway for e in sandbox.endpoints()]
        gateways = gateways_of(controller, sandbox.path)
        assert bool(gateways) == bool(offered), (gateways, offered)
        sandbox.delete()
    controller.tools.rtnl.delete_links([link.index for link in links])  # the next life has another root
    controller.tools.firewall.destroy()


def macvlan_follow(controller: Controller) -> None:
    controller.repair()
    assert controller.check() == [], controller.check()
    rtnl = controller.tools.rtnl
    networks = {network.name: network for network in controller.networks()}
    wanted = {host_link_name(networks["lan"].id)} if "lan" in networks else set[str]()
    wanted |= {own_parent_name(networks["alone"].id)} if "alone" in networks else set()
    links = [link for link in rtnl.links() if link.kind in ("bridge", "macvlan")]
    assert {link.name for link in links} == wanted
    assert {link.group for link in links} <= {controller.instance.link_group}
    led = {e.ip for e in endpoints(controller) if e.sandbox and e.ip.startswith("10.1.")}
    led |= {e.ip6 for e in endpoints(controller) if e.sandbox and e.ip6}
    index = rtnl.index(host_link_name(networks["lan"].id)) if "lan" in networks else -1
    routes = [route for version in (4, 6) for route in rtnl.routes(version) if route.device == index]
    assert {r.destination.partition("/")[0] for r in routes if r.protocol != RTPROT_KERNEL} == led
    for sandbox in controller.sandboxes():
        with controller.tools.inside(sandbox.path) as inside:
            assert {link.name for link in inside.rtnl.links()} == {"lo", *(e.ifname for e in sandbox.endpoints())}
        sandbox.delete()
    rtnl.delete_links([link.index for link in links])  # the next life has another root


def main(directory: Path, firewall: str, points: str, stride: int, kind: str = "bridge") -> int:
    live, mended = {"bridge": (life, follow), "macvlan": (macvlan_life, macvlan_follow)}[kind]

    def start(point: int) -> Controller:
        return Controller(directory / str(point), directory / "run", firewall=firewall)

    def die(point: int) -> None:
        if points == "every":
            arm_every(point)
        with start(point) as controller:
            if points == "steps":
                controller.core.applier = Mortal(controller.core.applier, Fuse(point))
            live(controller)

    def mend(point: int) -> None:
        with start(point) as controller:
            mended(controller)

    for point in itertools.count(0, stride):
        ended = in_child(die, point)
        if DIED != ended != LIVED or in_child(mend, point) != LIVED:
            print(f"after dying at point {point}")
            return 1
        if ended == LIVED:
            print(point)
            return 0
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:]))
