"""Parents of macvlan and ipvlan networks: which can carry one, what is made and goes with them, what fails."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from pynet.drivers.macvlan import MacvlanDriver
from pynet.netlib.applier import StepFailed
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, InvalidArgument, NotFound, NotSupported, PynetError
from pynet.netlib.kernel.stacked import new_macvlan
from pynet.netlib.kinds.kind import Kind, register
from pynet.netlib.kinds.parent import Parent
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.model import NetworkRecord
from pynet.netlib.tools import Tools
from pynet.plugins.testhost import Host, Lan

from support.macvlan import LAN4, connecting, joined, lan_network, link_of, listening, path, reach
from support.netlib import Watched, default_gateways


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
