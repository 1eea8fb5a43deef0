"""Macvlan networks for real: packets between containers, the LAN and the host; parents; what is left and what is repaired."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pynet.drivers.macvlan import MacvlanDriver
from pynet.netlib.applier import StepFailed
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotSupported, PynetError
from pynet.netlib.handles import Endpoint, Network
from pynet.netlib.kernel.rtnl_messages import LinkInfo
from pynet.netlib.kernel.stacked import new_macvlan
from pynet.netlib.kinds.kind import Kind, register
from pynet.netlib.kinds.parent import Parent
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.model import IpamConfig, NetworkRecord
from pynet.netlib.ports.portspec import parse_publish
from pynet.netlib.tools import Tools
from pynet.plugins.testhost import Host, Lan

from support.netlib import Watched, call_in, default_gateways
from support.waiting import PATIENCE, SILENCE

RTMGRP_NEIGH = 4  # rtnetlink(7), rtnetlink.h
LAN4 = IpamConfig("192.0.2.0/24", ip_range="192.0.2.128/26", gateway="192.0.2.2")
LAN6 = IpamConfig("2001:db8::/64", ip_range="2001:db8::100/120", gateway="2001:db8::2")


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


def lan_network(controller: Controller, name: str = "lan", *, ipv6: bool = False, **options: str) -> Network:
    """A network on the wire of the LAN client, who is its router too."""
    ipam = [LAN4, LAN6] if ipv6 else [LAN4]
    return controller.create_network(
        name, driver="macvlan", ipam=ipam, ipv6=ipv6, options={"parent": Lan.host_ifname, **options}
    )


def joined(controller: Controller, network: Network, name: str, *, mac: str = "") -> Endpoint:
    endpoint = network.create_endpoint(name, mac=mac or None)
    endpoint.join(controller.create_sandbox(name))
    return endpoint


def path(controller: Controller, endpoint: Endpoint) -> str:
    return controller.sandbox(endpoint.record.sandbox).path


def reach(
    client: Callable[..., socket.socket], server: Callable[..., socket.socket], address: str, *, port: int = 8000
) -> str:
    """Connect and be answered; the address that the client had at the server."""
    with server((address, port)) as listener:
        listener.settimeout(PATIENCE)
        with client((address, port)) as near:
            far, peer = listener.accept()
            with far:
                far.sendall(b"hello")
                near.settimeout(PATIENCE)
                assert near.recv(5) == b"hello"
    return str(peer[0])


def connecting(controller: Controller, endpoint: Endpoint) -> Callable[[tuple[str, int]], socket.socket]:
    def connect(address: tuple[str, int]) -> socket.socket:
        made: socket.socket = call_in(
            controller, path(controller, endpoint), socket.create_connection, address, PATIENCE
        )
        return made

    return connect


def listening(controller: Controller, endpoint: Endpoint) -> Callable[[tuple[str, int]], socket.socket]:
    def listen(address: tuple[str, int]) -> socket.socket:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made: socket.socket = call_in(
            controller, path(controller, endpoint), lambda: socket.create_server(address, family=family)
        )
        return made

    return listen


def link_of(controller: Controller, endpoint: Endpoint) -> LinkInfo:
    with controller.tools.inside(path(controller, endpoint)) as inside:
        link = inside.rtnl.link(endpoint.ifname)
    assert link is not None
    return link


# -- packets -----------------------------------------------------------------------------------------------------------


def test_containers_and_the_lan_reach_one_another(controller: Controller, lan: Lan) -> None:
    network = lan_network(controller, ipv6=True)
    a, b = joined(controller, network, "a"), joined(controller, network, "b")
    assert (a.address, a.address6, a.ifname) == ("192.0.2.128/24", "2001:db8::100/64", "eth0")
    for source, target in ((a.record.ip, b.record.ip), (a.record.ip6, b.record.ip6)):
        assert reach(connecting(controller, a), listening(controller, b), target) == source
        assert reach(lan.connect, listening(controller, b), target) == (lan.address6 if ":" in target else lan.address)
    assert reach(connecting(controller, a), lan.listen, lan.address) == a.record.ip
    assert reach(connecting(controller, a), lan.listen, lan.address6) == a.record.ip6
    assert default_gateways(controller, path(controller, a)) == {lan.address, lan.address6}
    assert link_of(controller, a).mac == a.mac == "02:42:c0:00:02:80"
    counted = a.statistics()
    assert counted.rx_bytes > 0 and counted.tx_bytes > 0
    assert controller.check() == []


def test_without_host_access_the_host_is_kept_from_its_containers(controller: Controller, lan: Lan) -> None:
    """The kernel's rule, that host_access is for."""
    a = joined(controller, lan_network(controller), "a")
    with listening(controller, a)((a.record.ip, 8000)), pytest.raises(OSError):
        socket.create_connection((a.record.ip, 8000), SILENCE)


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "dual"])
def test_with_host_access_the_host_and_its_containers_reach_one_another(
    controller: Controller, host: Host, lan: Lan, ipv6: bool
) -> None:
    network = lan_network(controller, ipv6=ipv6, host_access="true")
    own = [config.aux["host"] for config in network.record.ipam]
    a, b = joined(controller, network, "a"), joined(controller, network, "b")
    for address, source in zip((a.record.ip, a.record.ip6), own):
        assert reach(host.connect, listening(controller, a), address) == source
    for address, source in zip(own, (a.record.ip, a.record.ip6)):
        assert reach(connecting(controller, a), host.listen, address) == source
    # as before: the LAN, the containers, and the host's own address on the wire
    assert reach(lan.connect, listening(controller, a), a.record.ip) == lan.address
    assert reach(connecting(controller, b), listening(controller, a), a.record.ip) == b.record.ip
    assert reach(lan.connect, host.listen, lan.host_address) == lan.address
    assert reach(connecting(controller, a), host.listen, lan.host_address) == a.record.ip
    assert controller.check() == []
    destinations = {route.destination for route in host.rtnl.routes()}
    assert {f"{a.record.ip}/32", f"{b.record.ip}/32"} <= destinations
    a.leave()
    destinations = {route.destination for route in host.rtnl.routes()}
    assert f"{a.record.ip}/32" not in destinations
    assert f"{b.record.ip}/32" in destinations
    assert controller.check() == []


def test_on_no_parent_containers_reach_one_another_and_nobody_else(controller: Controller, lan: Lan) -> None:
    network = controller.create_network("alone", driver="macvlan", subnet="10.9.0.0/24")
    a, b = joined(controller, network, "a"), joined(controller, network, "b")
    assert a.address == "10.9.0.1/24", "no address is set aside for a gateway that is nowhere"
    assert reach(connecting(controller, a), listening(controller, b), b.record.ip) == a.record.ip
    assert default_gateways(controller, path(controller, a)) == set()
    with pytest.raises(OSError, match="Network is unreachable"):
        connecting(controller, a)((lan.address, 80))
    for endpoint in (a, b):
        endpoint.delete()
    network.delete()
    assert [link.name for link in controller.tools.rtnl.links() if link.name.startswith("pm")] == []


@pytest.mark.parametrize(("mode", "meet"), [("bridge", True), ("private", False), ("vepa", False)])
def test_the_mode_says_who_meets_whom(controller: Controller, lan: Lan, mode: str, meet: bool) -> None:
    network = lan_network(controller, macvlan_mode=mode)
    a, b = joined(controller, network, "a"), joined(controller, network, "b")
    assert reach(connecting(controller, a), lan.listen, lan.address) == a.record.ip
    if meet:
        reach(connecting(controller, a), listening(controller, b), b.record.ip)
        return
    with listening(controller, b)((b.record.ip, 8000)), pytest.raises(OSError):
        call_in(controller, path(controller, a), socket.create_connection, (b.record.ip, 8000), SILENCE)


def test_passthru_takes_the_parent_over_and_gives_it_back_as_it_was(
    controller: Controller, host: Host, lan: Lan
) -> None:
    before = host.rtnl.link(Lan.host_ifname)
    network = lan_network(controller, macvlan_mode="passthru")
    a = joined(controller, network, "a")
    assert link_of(controller, a).mac == a.mac
    assert controller.check() == []
    second = network.create_endpoint("b")
    with pytest.raises(Conflict, match="parent interface eth0 can not carry a macvlan interface in passthru mode"):
        second.join(controller.create_sandbox("b"))
    sandbox = controller.sandbox("a")
    sandbox.delete()
    second.join(controller.sandbox("b"))  # at once: the namespace of the first is being taken apart still
    second.leave()
    assert host.rtnl.link(Lan.host_ifname) == before


def test_several_networks_stand_on_one_parent_but_none_beside_passthru(controller: Controller, lan: Lan) -> None:
    one = lan_network(controller)
    two = controller.create_network("two", driver="macvlan", subnet="10.9.0.0/24", options={"parent": "eth0"})
    with pytest.raises(Forbidden, match=r"^network (lan|two) is already using parent interface eth0$"):
        controller.create_network("sole", driver="macvlan", options={"parent": "eth0", "macvlan_mode": "passthru"})
    one.delete()
    two.delete()
    controller.create_network("sole", driver="macvlan", options={"parent": "eth0", "macvlan_mode": "passthru"})
    with pytest.raises(Forbidden, match="network sole is already using parent interface eth0"):
        lan_network(controller)


def test_a_container_that_starts_again_has_its_addresses_again(controller: Controller, lan: Lan) -> None:
    """Its last namespace may live on for a while: an interface in there would hold the MAC address."""
    endpoint = lan_network(controller, host_access="1").create_endpoint("a")
    for _ in range(3):
        sandbox = controller.create_sandbox("a")
        endpoint.join(sandbox)
        with open(sandbox.path):  # somebody keeps the namespace
            assert reach(lan.connect, listening(controller, endpoint), endpoint.record.ip) == lan.address
            sandbox.delete()
            again = controller.create_sandbox("b")
            endpoint.join(again)
            again.delete()
    assert controller.check() == []


@pytest.mark.usefixtures("lan")
def test_a_sandbox_that_a_crash_left_holds_no_mac_address(controller: Controller) -> None:
    """Gone from the store, and not yet from the kernel; somebody keeps its namespace when a repair takes the pin."""
    endpoint = lan_network(controller).create_endpoint("a")
    sandbox = controller.create_sandbox("a")
    endpoint.join(sandbox)
    record, joined_record = sandbox.record, endpoint.record
    with open(sandbox.path):
        controller.core.registry.save(replace(joined_record, sandbox="", ifname=""), forget=[record])
        assert [str(one) for one in controller.repair()] == [f"stray netns {record.path}"]
        endpoint.join(controller.create_sandbox("b"))
    assert controller.check() == []


def test_a_mac_address_that_is_taken_on_the_parent_is_a_conflict(controller: Controller, lan: Lan) -> None:
    network = lan_network(controller)
    joined(controller, network, "a", mac="02:00:00:00:00:07")
    sandbox, endpoint = controller.create_sandbox("b"), network.create_endpoint("b", mac="02:00:00:00:00:07")
    with pytest.raises(Conflict, match="MAC address 02:00:00:00:00:07 is in use on parent interface eth0"):
        endpoint.join(sandbox)
    with controller.tools.inside(sandbox.path) as inside:
        assert [link.name for link in inside.rtnl.links()] == ["lo"]


def test_neighbours_learn_who_has_an_address_now(controller: Controller, lan: Lan) -> None:
    network = lan_network(controller, ipv6=True)
    for path_ in ("ipv4/neigh/eth0/locktime", "ipv6/neigh/eth0/locktime"):
        lan.call(
            Path(f"/proc/sys/net/{path_}").write_text, "0"
        )  # else what was learnt just now is believed for a second

    def known(address: str) -> str:
        shown = lan.run(["ip", "neigh", "show", address, "dev", "eth0"]).stdout.split()
        return shown[shown.index("lladdr") + 1] if "lladdr" in shown else ""

    for mac in ("02:00:00:00:00:01", "02:00:00:00:00:02"):
        endpoint = network.create_endpoint("a", ip="192.0.2.200", ip6="2001:db8::200", mac=mac)
        with lan.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
            events.bind((0, RTMGRP_NEIGH))
            events.settimeout(PATIENCE)
            endpoint.join(controller.create_sandbox("a"))
            for address in (endpoint.record.ip, endpoint.record.ip6):
                if mac.endswith("2"):  # nothing was sent to it, nor by it
                    while known(address) != mac:
                        events.recv(1 << 16)
                    continue
                reach(lan.connect, listening(controller, endpoint), address)
                assert known(address) == mac
        controller.sandbox("a").delete()
        endpoint.delete()


def test_ports_are_exposed_and_not_published(controller: Controller, lan: Lan) -> None:
    endpoint = joined(controller, lan_network(controller), "a")
    assert endpoint.publish(parse_publish("8080:80")) == ()


def test_a_rate_limit_holds_what_leaves_and_nothing_else_can(controller: Controller, lan: Lan) -> None:
    network = lan_network(controller, rate_out="1mbit")
    joined(controller, network, "a")
    assert controller.check() == []
    network.endpoints()[0].delete()
    network.delete()
    with pytest.raises(InvalidArgument, match="rate_in is not supported by the macvlan driver"):
        lan_network(controller, rate_in="1mbit")


# -- beside a bridge ---------------------------------------------------------------------------------------------------


def test_beside_a_bridge_the_priority_says_which_way_out(controller: Controller, lan: Lan) -> None:
    bridge = controller.create_network("web", subnet="10.1.0.0/24")
    network = lan_network(controller)
    sandbox = controller.create_sandbox("a")
    first, second = bridge.create_endpoint("a"), network.create_endpoint("a")
    first.join(sandbox)
    second.join(sandbox)
    assert (first.ifname, second.ifname) == ("eth0", "eth1")
    assert default_gateways(controller, sandbox.path) == {lan.address}, "lan comes before web"
    assert reach(connecting(controller, second), lan.listen, lan.address) == second.record.ip
    assert [port.host_port for port in sandbox.publish(parse_publish("8080:80"))] == [], "its way out publishes none"
    second.leave()
    assert default_gateways(controller, sandbox.path) == {"10.1.0.1"}
    second.delete()
    preferred = network.create_endpoint("a", gw_priority=-1)
    preferred.join(sandbox)
    assert default_gateways(controller, sandbox.path) == {"10.1.0.1"}
    assert controller.check() == []


# -- parents -----------------------------------------------------------------------------------------------------------


def refused(controller: Controller, error: type[PynetError], match: str, **options: str) -> PynetError:
    """Creating is refused, and nothing is left: the same subnet and name are free at once."""
    links = [link.name for link in controller.tools.rtnl.links()]
    with pytest.raises(error, match=match) as caught:
        controller.create_network("bad", driver="macvlan", subnet="10.7.0.0/24", options=options)
    assert [link.name for link in controller.tools.rtnl.links()] == links
    assert controller.networks() == []
    controller.create_network("bad", driver="macvlan", subnet="10.7.0.0/24").delete()
    return caught.value


def test_a_parent_that_can_not_carry_it_is_refused_by_name(controller: Controller, host: Host, lan: Lan) -> None:
    refused(controller, NotFound, "^parent interface eth7 not found$", parent="eth7")
    refused(controller, NotFound, "^parent interface eth0.4095 not found$", parent="eth0.4095")
    refused(controller, InvalidArgument, "^loopback interface is not a valid macvlan parent link$", parent="lo")
    refused(controller, InvalidArgument, "not an interface name", parent="et/h0")
    refused(
        controller,
        InvalidArgument,
        "^MTU 9000 is more than the 1500 of parent interface eth0$",
        parent="eth0",
        mtu="9000",
    )
    index, peer = host.rtnl.add_veth("slave", "slave-peer", netns_fd=-1)
    bridge = host.rtnl.add_bridge("br7")
    host.rtnl.set_link(index, master=bridge)
    assert (
        "use br7 itself"
        in refused(controller, Conflict, "^parent interface slave belongs to br7$", parent="slave").hint
    )
    host.rtnl.set_link(index, master=0, up=False)
    assert (
        "ip link set slave up" in refused(controller, Conflict, "^parent interface slave is down$", parent="slave").hint
    )
    host.rtnl.delete_link(peer)
    host.rtnl.delete_link(bridge)


def test_a_parent_in_a_vrf_may_carry_it(controller: Controller, host: Host) -> None:
    if not controller.tools.rtnl.has_kind("vrf"):
        pytest.skip("this kernel has no vrf")
    host.run(["ip", "link", "add", "red", "type", "vrf", "table", "10"])
    near, _ = host.rtnl.add_veth("card", "cable", netns_fd=-1, master=host.rtnl.index("red"))
    controller.create_network("lan", driver="macvlan", options={"parent": "card"})
    assert controller.check() == []
    host.rtnl.delete_link(near)
    host.rtnl.delete_link("red")


class Recording(Kind[Any]):
    """Makes nothing, and tells what was done."""

    done: ClassVar[list[str]] = []

    def make(self, tools: Tools, resource: Common) -> None:
        self.done.append("make")

    def unmake(self, tools: Tools, resource: Common) -> None:
        self.done.append("unmake")


@dataclass(frozen=True)
class Common(Resource):
    """As a VLAN interface is: of several networks, and of none alone."""

    @property
    def key(self) -> tuple[str, ...]:
        return ("common",)

    @property
    def exclusive(self) -> bool:
        return False

    @property
    def shared(self) -> bool:
        return True

    @property
    def title(self) -> str:
        return "what is common"


class Failing(MacvlanDriver):
    """Its networks have something in common; one of a name can not be made after that."""

    name = "failing"

    def network_plan(self, network: NetworkRecord) -> Iterable[Resource]:
        yield Common()
        if network.name == "bad":
            yield Parent("nosuch", "macvlan")


def test_what_networks_share_goes_with_the_last_that_has_it(start_controller: Callable[..., Controller]) -> None:
    register(Common, Recording())
    Recording.done.clear()

    def start() -> Controller:
        controller = start_controller()
        controller.core._drivers["failing"] = Failing()
        return controller

    controller = start()
    one = controller.create_network("one", driver="failing")
    with pytest.raises(NotFound, match="parent interface nosuch not found"):
        controller.create_network("bad", driver="failing")
    assert "unmake" not in Recording.done, "a network that could not be made takes nothing of the others along"
    controller.create_network("two", driver="failing")
    one.delete()
    assert "unmake" not in Recording.done
    controller = start()
    controller.network("two").delete()
    assert Recording.done.count("unmake") == 1
    with pytest.raises(NotFound):
        controller.create_network("bad", driver="failing")
    assert Recording.done.count("unmake") == 2, "and what it alone has made, it takes back"


def test_wherever_a_change_fails_nothing_is_left(
    start_controller: Callable[..., Controller], host: Host, lan: Lan
) -> None:
    """Each step of a network and a join is made to fail in turn."""
    controller = start_controller()
    inner = controller.core.applier
    steps = 0

    def fail_at(count: int) -> None:
        left = [count]

        def before(verb: str, resource: Resource) -> None:
            left[0] -= 1
            if left[0] == 0 and verb == "make":
                raise OSError(errno.EIO, "as a test wants")

        controller.core.applier = Watched(inner, before)

    def attempt() -> bool:
        """Whether everything could be made; all of it is gone again at the end."""
        network = lan_network(controller, ipv6=True, host_access="true")
        try:
            endpoint = network.create_endpoint("a")
            try:
                endpoint.join(sandbox)
            finally:
                controller.core.applier = inner
                endpoint.delete()
        finally:
            controller.core.applier = inner
            network.delete()
        return True

    sandbox = controller.create_sandbox("a")
    controller.tools.reaper.settle()
    before = host.rtnl.links(), host.rtnl.routes(4), host.rtnl.routes(6)
    for count in range(1, 30):
        fail_at(count)
        try:
            whole = attempt()
        except StepFailed as error:
            assert error.errno == errno.EIO
            whole = False
        controller.core.applier = inner
        assert controller.check() == []
        controller.tools.reaper.settle()
        assert (host.rtnl.links(), host.rtnl.routes(4), host.rtnl.routes(6)) == before
        with controller.tools.inside(sandbox.path) as inside:
            assert [link.name for link in inside.rtnl.links()] == ["lo"]
        if whole:
            break
        steps += 1
    assert steps >= 6, "parent, host's interface, flows, interface, two routes of the host, two default routes"


def test_options_that_make_no_sense_are_refused(controller: Controller, lan: Lan) -> None:
    refused(controller, InvalidArgument, "requested macvlan mode 'bridg' is not valid", macvlan_mode="bridg")
    refused(controller, InvalidArgument, "unknown option parnet for the macvlan driver", parnet="eth0")
    refused(controller, InvalidArgument, "host_access needs macvlan_mode=bridge", host_access="1", macvlan_mode="vepa")
    refused(controller, InvalidArgument, "passthru needs a parent", macvlan_mode="passthru")
    refused(controller, InvalidArgument, "invalid value 'maybe' for option host_access", host_access="maybe")


def test_a_parent_that_fails_later_fails_the_join_and_leaves_nothing(
    controller: Controller, host: Host, lan: Lan
) -> None:
    network = lan_network(controller)
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    parent = host.rtnl.index(Lan.host_ifname)
    host.rtnl.set_link(parent, up=False)
    with pytest.raises(Conflict, match="parent interface eth0 is down"):
        endpoint.join(sandbox)
    assert [str(difference) for difference in controller.check()] == ["missing parent eth0"]
    host.rtnl.set_link(parent, up=True)
    endpoint.join(sandbox)
    assert controller.check() == []


def test_a_network_whose_parent_went_is_removed_all_the_same(
    start_controller: Callable[..., Controller], host: Host
) -> None:
    near, _ = host.rtnl.add_veth("card", "cable", netns_fd=-1)
    host.rtnl.set_link(host.rtnl.index("cable"), up=True)
    controller = start_controller()
    options = {"parent": "card", "host_access": "true"}
    network = controller.create_network("lan", driver="macvlan", subnet="10.7.0.0/24", options=options)
    web = controller.create_network("web")
    a = joined(controller, network, "a")
    host.rtnl.delete_link(near)  # and the kernel takes along what stood on it
    controller = start_controller()
    controller.tools.rtnl.delete_link(web.bridge)
    with pytest.raises(PynetError, match="parent interface card not found"):
        controller.repair()
    assert host.rtnl.link(web.bridge) is not None, "what can be repaired is"
    endpoint = controller.endpoint(a.id)
    endpoint.delete()
    controller.network("lan").delete()
    assert controller.check() == []


def test_a_parent_without_a_cable_is_nobodys_failure(controller: Controller, host: Host) -> None:
    near, _ = host.rtnl.add_veth("card", "cable", netns_fd=-1)
    try:
        network = controller.create_network("lan", driver="macvlan", subnet="10.7.0.0/24", options={"parent": "card"})
        endpoint = joined(controller, network, "a")
        assert link_of(controller, endpoint).up
        assert controller.check() == []
        controller.sandbox("a").delete()
    finally:
        host.rtnl.delete_link(near)


def test_a_macvlan_interface_may_be_the_parent(controller: Controller, host: Host, lan: Lan) -> None:
    host.rtnl.send(new_macvlan("mine", host.rtnl.index(Lan.host_ifname), mode="bridge"))
    host.rtnl.set_link(host.rtnl.index("mine"), up=True)
    network = controller.create_network("lan", driver="macvlan", ipam=[LAN4], options={"parent": "mine"})
    endpoint = joined(controller, network, "a")
    assert reach(lan.connect, listening(controller, endpoint), endpoint.record.ip) == lan.address
    assert controller.check() == []
    controller.sandbox("a").delete()
    host.rtnl.delete_link("mine")


def test_the_parent_is_left_as_it_was_found(controller: Controller, host: Host, lan: Lan) -> None:
    index = host.rtnl.index(Lan.host_ifname)

    def state() -> object:
        return host.rtnl.link(index), host.rtnl.addresses(index), host.rtnl.routes(4), host.rtnl.routes(6)

    before = state()
    network = lan_network(controller, ipv6=True, host_access="true")
    joined(controller, network, "a")
    controller.sandbox("a").delete()
    network.endpoints()[0].delete()
    network.delete()
    controller.tools.reaper.settle()
    assert state() == before
    assert host.rtnl.links(group=controller.instance.link_group) == []


def has_vlan(controller: Controller) -> None:
    if not controller.tools.rtnl.has_kind("vlan"):
        pytest.skip("this kernel has no vlan (module 8021q)")


def test_a_vlan_interface_is_made_and_goes_with_the_last_network_that_has_it(
    controller: Controller, host: Host, lan: Lan
) -> None:
    has_vlan(controller)
    one, two = (
        controller.create_network(name, driver="macvlan", subnet=subnet, options={"parent": "eth0.10"})
        for name, subnet in (("one", "10.7.0.0/24"), ("two", "10.8.0.0/24"))
    )
    one.delete()
    assert host.rtnl.link("eth0.10") is not None
    two.delete()
    assert host.rtnl.link("eth0.10") is None


def test_without_the_module_a_vlan_is_refused_by_its_name(controller: Controller, lan: Lan) -> None:
    if controller.tools.rtnl.has_kind("vlan"):
        pytest.skip("this kernel has vlan")
    error = refused(controller, NotSupported, r"^this kernel has no vlan \(module 8021q\)$", parent="eth0.10")
    assert "modprobe 8021q" in error.hint


def test_a_dotted_interface_of_the_host_is_taken_as_it_is_and_stays(controller: Controller, host: Host) -> None:
    near, _ = host.rtnl.add_veth("eth0.10", "far", netns_fd=-1)
    host.rtnl.set_link(host.rtnl.index("far"), up=True)
    network = controller.create_network("lan", driver="macvlan", subnet="10.7.0.0/24", options={"parent": "eth0.10"})
    joined(controller, network, "a")
    assert controller.check() == []
    controller.sandbox("a").delete()
    network.endpoints()[0].delete()
    network.delete()
    assert host.rtnl.index("eth0.10") == near
    host.rtnl.delete_link(near)


def test_without_the_module_ipvlan_is_refused_by_its_name(controller: Controller, lan: Lan) -> None:
    if controller.tools.rtnl.has_kind("ipvlan"):
        pytest.skip("this kernel has ipvlan")
    with pytest.raises(NotSupported, match=r"^this kernel has no ipvlan \(module ipvlan\)$"):
        controller.create_network("lan", driver="ipvlan", subnet="10.7.0.0/24", options={"parent": "eth0"})
    assert controller.networks() == []


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlan_containers_reach_one_another(controller: Controller, lan: Lan, mode: str) -> None:
    if not controller.tools.rtnl.has_kind("ipvlan"):
        pytest.skip("this kernel has no ipvlan (module ipvlan)")
    network = controller.create_network(
        "lan", driver="ipvlan", ipam=[LAN4], options={"parent": "eth0", "ipvlan_mode": mode}
    )
    a, b = joined(controller, network, "a"), joined(controller, network, "b")
    assert reach(connecting(controller, a), listening(controller, b), b.record.ip) == a.record.ip
    assert default_gateways(controller, path(controller, a)) == ({lan.address} if mode == "l2" else {""})
    assert controller.check() == []


# -- what is found and repaired ----------------------------------------------------------------------------------------


def test_what_is_deleted_by_hand_is_found_and_repaired(controller: Controller, host: Host, lan: Lan) -> None:
    network = lan_network(controller, ipv6=True, host_access="true")
    a = joined(controller, network, "a")
    sandbox = path(controller, a)
    (link,) = (link for link in host.rtnl.links() if link.name.startswith("ph"))

    def differences() -> list[str]:
        found = [str(difference) for difference in controller.check()]
        controller.repair()
        assert controller.check() == []
        assert reach(host.connect, listening(controller, a), a.record.ip)
        assert reach(connecting(controller, a), lan.listen, lan.address6) == a.record.ip6
        return found

    host.rtnl.delete_link(link.index)
    assert differences() == [
        f"missing link {link.name}",
        f"missing route {a.record.ip}",
        f"missing route {a.record.ip6}",
    ]
    with controller.tools.inside(sandbox) as inside:
        inside.rtnl.delete_link("eth0")
    assert f"missing link eth0 in {sandbox}" in differences()
    with controller.tools.inside(sandbox) as inside:
        inside.rtnl.delete_address(inside.rtnl.index("eth0"), a.record.ip, 24)
        before = inside.rtnl.index("eth0")
    assert f"missing link eth0 in {sandbox}" in differences()
    with controller.tools.inside(sandbox) as inside:
        assert inside.rtnl.index("eth0") == before, "it is mended, and not made anew: connections live on"
    for route in host.rtnl.routes(4):
        if route.destination == f"{a.record.ip}/32":
            host.rtnl.delete_route(route)
    assert differences() == [f"missing route {a.record.ip}"]


def test_what_nobody_asked_for_is_found_and_removed(
    start_controller: Callable[..., Controller], host: Host, lan: Lan
) -> None:
    """A process was killed after the store had forgotten an endpoint."""
    controller = start_controller()
    network = lan_network(controller, host_access="true")
    a = joined(controller, network, "a")
    sandbox, ip = path(controller, a), a.record.ip
    controller.registry.save(forget=(a.record,))
    controller = start_controller()
    assert [str(difference) for difference in controller.check()] == [
        f"stray link eth0 in {sandbox}",
        f"stray route {ip}/32",
    ]
    controller.repair()
    assert controller.check() == []
    with controller.tools.inside(sandbox) as inside:
        assert [link.name for link in inside.rtnl.links()] == ["lo"]
    assert f"{ip}/32" not in {route.destination for route in host.rtnl.routes()}


def test_a_lost_pin_is_set_again_on_the_namespace_that_lives(
    start_controller: Callable[..., Controller], host: Host, lan: Lan
) -> None:
    controller = start_controller()
    endpoint = joined(controller, lan_network(controller), "a")
    pin = path(controller, endpoint)
    sleeper = call_in(controller, pin, subprocess.Popen, ["sleep", "60"])
    try:
        inode = os.stat(pin).st_ino
        controller.tools.netns.delete(pin)
        controller.repair()
        assert os.stat(pin).st_ino == inode
        assert controller.check() == []
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_route_of_somebody_else_to_the_address_is_a_conflict(controller: Controller, host: Host, lan: Lan) -> None:
    network = lan_network(controller, host_access="true")
    endpoint = network.create_endpoint("a", ip="192.0.2.99")
    theirs = next(route for route in host.rtnl.routes() if route.destination == "192.0.2.0/24")
    mine = type(theirs)(destination="192.0.2.99/32", device=theirs.device)
    host.rtnl.add_route(mine)
    with pytest.raises(Conflict, match=r"the host has another route to 192\.0\.2\.99"):
        endpoint.join(controller.create_sandbox("a"))
    assert "192.0.2.99/32" in {route.destination for route in host.rtnl.routes()}
    host.rtnl.delete_route(mine)


def test_the_hosts_address_can_be_chosen_and_is_remembered(
    start_controller: Callable[..., Controller], host: Host, lan: Lan
) -> None:
    chosen = IpamConfig("192.0.2.0/24", ip_range="192.0.2.128/26", aux={"host": "192.0.2.77"})
    controller = start_controller()
    network = controller.create_network(
        "lan", driver="macvlan", ipam=[chosen], options={"parent": "eth0", "host_access": "true"}
    )
    a = joined(controller, network, "a")
    controller = start_controller()
    assert controller.check() == []
    assert reach(host.connect, listening(controller, a), a.record.ip) == "192.0.2.77"
    network = controller.network("lan")
    assert network.record.ipam[0].gateway == ""
    assert network.create_endpoint("b").address == "192.0.2.129/24", "leases and the host's address are taken again"
    with pytest.raises(Forbidden, match="Address already in use"):
        network.create_endpoint("c", ip="192.0.2.77")


def test_a_plan_shows_what_would_be_made(controller: Controller, lan: Lan) -> None:
    steps = controller.planned(lan_network, controller, host_access="true")
    assert [str(step).partition(":")[0] for step in steps] == [
        "make parent interface eth0",
        f"make the host's interface {steps[1].resource.key[1]!s}",
    ]
    network = lan_network(controller, host_access="true")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    shown = [str(step) for step in controller.planned(endpoint.join, sandbox)]
    assert any("interface eth0 in" in line and "macvlan bridge on eth0" in line for line in shown)
    assert any(line.startswith(f"make the host's route to {endpoint.record.ip}: ph") for line in shown)
