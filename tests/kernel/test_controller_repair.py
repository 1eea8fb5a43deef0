"""What check sees and repair mends: parameters, what was lost inside sandboxes, interfaces; beside drivers that are away."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pynet.drivers.bridge import BridgeDriver
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Forbidden, NotFound, PynetError
from pynet.netlib.handles import Endpoint, Network, Sandbox
from pynet.netlib.instance import veth_name
from pynet.netlib.kernel import sysctl
from pynet.netlib.kernel.netns import delete_netns
from pynet.netlib.kernel.rtnetlink import RouteInfo
from pynet.netlib.model import IpamConfig
from pynet.netlib.tools import FRESH

from support.leaks import lost_leases
from support.netlib import call_in, default_gateways
from support.waiting import PATIENCE


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


def joined(controller: Controller, name: str = "a") -> tuple[Network, Sandbox, Endpoint]:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox(name), network.create_endpoint(name)
    endpoint.join(sandbox)
    return network, sandbox, endpoint


def mended(controller: Controller) -> list[str]:
    """What check says, after repair has said and mended the same."""
    found = [str(difference) for difference in controller.check()]
    assert [str(difference) for difference in controller.repair()] == found
    assert controller.check() == []
    return found


def test_a_parameter_that_somebody_set_is_seen_and_set_again(controller: Controller) -> None:
    network, _, _ = joined(controller)
    for path, value in (
        (("net", "ipv4", "ip_forward"), "0"),
        (("net", "ipv6", "conf", network.bridge, "accept_ra"), "2"),
        (("net", "ipv4", "conf", network.bridge, "route_localnet"), "0"),
    ):
        right = sysctl.read(path)
        sysctl.write(path, value)
        assert mended(controller) == [f"missing sysctl {'.'.join(path)}"]
        assert sysctl.read(path) == right


def test_a_bridge_that_is_made_again_has_its_parameters_again(controller: Controller) -> None:
    network, _, _ = joined(controller)
    Path("/proc/sys/net/ipv6/conf/default/accept_ra").write_text("1")
    link = controller.tools.rtnl.link(network.bridge)
    assert link is not None
    controller.tools.rtnl.delete_link(link.index)
    mended(controller)
    assert sysctl.read(("net", "ipv6", "conf", network.bridge, "accept_ra")) == "0"


def test_what_was_lost_inside_a_sandbox_comes_back_and_the_interface_is_the_same(controller: Controller) -> None:
    _, sandbox, endpoint = joined(controller)
    with controller.tools.inside(sandbox.path) as inside:
        before = inside.rtnl.link("eth0")
        assert before is not None
        inside.rtnl.delete_route(RouteInfo(gateway="10.1.0.1"))
        assert mended(controller) == [f"missing route 10.1.0.1 in {sandbox.path}"]
        inside.rtnl.delete_address(before.index, "10.1.0.2", 24)
        assert f"missing link {veth_name(endpoint.id)}" in mended(controller)
        inside.rtnl.set_link(before.index, up=False)
        assert f"missing link {veth_name(endpoint.id)}" in mended(controller)
        after = inside.rtnl.link("eth0")
    assert after is not None
    assert after.index == before.index, "what the container has open goes on"
    assert default_gateways(controller, sandbox.path) == {"10.1.0.1"}


def test_a_connection_outlives_the_repair_of_its_interface(controller: Controller) -> None:
    _, sandbox, endpoint = joined(controller)
    with (
        call_in(controller, sandbox.path, socket.create_server, ("", 80)) as server,
        socket.create_connection(("10.1.0.2", 80), timeout=PATIENCE) as client,
        server.accept()[0] as accepted,
    ):
        host = controller.tools.rtnl.link(veth_name(endpoint.id))
        assert host is not None
        controller.tools.rtnl.set_link(host.index, master=0)
        assert mended(controller) == [f"missing link {veth_name(endpoint.id)}"]
        client.sendall(b"still here")
        assert accepted.recv(10) == b"still here"


def test_what_a_sandbox_was_made_with_is_not_used_for_another_in_its_place(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox = controller.create_sandbox("a")
    delete_netns(sandbox.path)
    os.close(controller.tools.netns.create(sandbox.path))
    network.create_endpoint("a").join(sandbox)
    names = {name for _, name in call_in(controller, sandbox.path, socket.if_nameindex)}
    assert names == {"lo", "eth0"}


def test_sandboxes_that_nothing_joins_are_not_all_kept_open(controller: Controller) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sandboxes = [controller.create_sandbox(f"{n:03}") for n in range(FRESH + 5)]
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * FRESH
    for sandbox in sandboxes:
        sandbox.delete()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_driver_that_is_away_is_told_and_its_things_are_no_strays(
    start_controller: Callable[..., Controller], monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = start_controller()
    network, _, endpoint = joined(controller)
    other = controller.create_network("other", subnet="10.2.0.0/24")
    link = controller.tools.rtnl.link(other.bridge)
    assert link is not None
    load = controller.core.driver

    def away(name: str) -> object:
        record = controller.registry.networks.get(network.id)
        if record is not None and record.driver == "gone" and name == "gone":
            raise NotFound("could not find plugin gone")
        return load("bridge" if name == "gone" else name)

    with monkeypatch.context() as context:
        controller.registry.save(replace(network.record, driver="gone"))
        plans = replace(controller.core.plans, driver_of=away)  # type: ignore[arg-type]
        context.setattr(controller.core, "plans", plans)
        sysctl.write(("net", "ipv4", "conf", other.bridge, "route_localnet"), "0")
        found = [str(d) for d in controller.check()]
        assert found == ["missing driver of network web", f"missing sysctl net.ipv4.conf.{other.bridge}.route_localnet"]
        controller.repair()
        assert [str(d) for d in controller.check()] == ["missing driver of network web"]
        assert controller.tools.rtnl.link(veth_name(endpoint.id)) is not None
    controller.registry.save(replace(network.record, driver="bridge"))
    assert controller.check() == []


# -- what belongs to one network alone -----------------------------------------------------------------------------


def test_two_drivers_can_not_have_one_bridge(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(BridgeDriver):
        name = "other"

    first = controller.create_network("first", options={"bridge": "br7"})
    monkeypatch.setitem(controller.core._drivers, "other", Other())
    with pytest.raises(
        Forbidden, match=rf"conflicts with network {first.id} \(first\): networks have same bridge name"
    ):
        controller.create_network("second", driver="other", options={"bridge": "br7"})
    assert controller.check() == []
    first.delete()
    second = controller.create_network("second", driver="other", options={"bridge": "br7"})
    second.delete()


def test_an_adopted_bridge_stays_and_keeps_nothing_of_ours(controller: Controller) -> None:
    rtnl = controller.tools.rtnl
    index = rtnl.add_bridge("br7")
    rtnl.add_address(index, "192.168.77.1", 24)
    network = controller.create_network("web", subnet="10.1.0.0/24", options={"bridge": "br7"})
    assert {a.address for a in rtnl.addresses(index) if ":" not in a.address} == {"192.168.77.1", "10.1.0.1"}
    network.delete()
    assert {a.address for a in rtnl.addresses(index) if ":" not in a.address} == {"192.168.77.1"}
    rtnl.delete_link(index)


@pytest.mark.parametrize("up", [False, True])
def test_an_adopted_bridge_is_left_as_it_was_found(start_controller: Callable[..., Controller], up: bool) -> None:
    """Also by a later controller, and when what a network needs of it was repaired meanwhile."""
    controller = start_controller()
    controller.tools.rtnl.add_bridge("br9", up=up)
    parameters = {"disable_ipv6": "1", "accept_dad": "1", "accept_ra": "1"}
    for name, value in parameters.items():
        sysctl.write(("net", "ipv6", "conf", "br9", name), value)

    def look() -> tuple[object, ...]:
        link = controller.tools.rtnl.link("br9")
        assert link is not None
        return (
            link.up,
            link.mtu,
            {name: sysctl.read(("net", "ipv6", "conf", "br9", name)) for name in parameters},
            sysctl.read(("net", "ipv4", "conf", "br9", "route_localnet")),
            [(a.address, a.prefix) for a in controller.tools.rtnl.addresses(link.index)],
        )

    before = look()
    controller.create_network(
        "web",
        ipv6=True,
        ipam=[IpamConfig("10.1.0.0/24"), IpamConfig("fd00:1::/64")],
        options={"bridge": "br9", "mtu": "1400"},
    )
    assert look() != before
    sysctl.write(("net", "ipv6", "conf", "br9", "accept_ra"), "1")
    controller = start_controller()
    assert controller.repair() != []
    assert controller.check() == []
    controller.network("web").delete()
    assert look() == before
    assert list((controller.instance.run / "found").iterdir()) == []
    link = controller.tools.rtnl.link("br9")
    assert link is not None
    controller.tools.rtnl.delete_link(link.index)


def test_an_address_that_an_adopted_bridge_had_before_stays(controller: Controller) -> None:
    rtnl = controller.tools.rtnl
    index = rtnl.add_bridge("br7")
    rtnl.add_address(index, "10.1.0.1", 24)
    controller.create_network("web", subnet="10.1.0.0/24", options={"bridge": "br7"}).delete()
    assert [a.address for a in rtnl.addresses(index) if ":" not in a.address] == ["10.1.0.1"]
    rtnl.delete_link(index)


def test_an_adopted_bridge_keeps_nothing_of_a_creation_that_failed(controller: Controller) -> None:
    rtnl = controller.tools.rtnl
    index = rtnl.add_bridge("br7")
    sysctl.write(("net", "ipv6", "conf", "br7", "disable_ipv6"), 1)
    configs = [IpamConfig("10.1.0.0/24"), IpamConfig("fd00:1::/64")]

    def refuse(name: object, value: object) -> None:
        raise FileNotFoundError(2, "no such parameter")

    with pytest.MonkeyPatch.context() as context:
        context.setattr(sysctl, "ensure", refuse)
        with pytest.raises(PynetError):
            controller.create_network("web", ipam=configs, ipv6=True, options={"bridge": "br7"})
    assert [a.address for a in rtnl.addresses(index)] == []
    rtnl.delete_link(index)


# -- addresses -----------------------------------------------------------------------------------------------------


def test_each_of_several_subnets_has_its_own_gateway(controller: Controller) -> None:
    configs = [IpamConfig("10.1.0.0/30"), IpamConfig("10.2.0.0/24")]
    network = controller.create_network("web", ipam=configs)
    hops: list[set[str]] = []
    for name in ("a", "b"):
        sandbox, endpoint = controller.create_sandbox(name), network.create_endpoint(name)
        endpoint.join(sandbox)
        hops.append(default_gateways(controller, sandbox.path))
    assert hops == [{"10.1.0.1"}, {"10.2.0.1"}]
    assert controller.check() == []


def test_ipv6_is_on_where_it_was_asked_for_alone(controller: Controller) -> None:
    dual = controller.create_network("dual", ipam=[IpamConfig("10.1.0.0/24"), IpamConfig("fd00:1::/64")], ipv6=True)
    plain = controller.create_network("plain", subnet="10.2.0.0/24")
    sandbox = controller.create_sandbox("a")
    for network in (dual, plain):
        network.create_endpoint("a").join(sandbox)

    def read(name: str, parameter: str) -> str:
        return str(call_in(controller, sandbox.path, sysctl.read, ("net", "ipv6", "conf", name, parameter)))

    assert [read(name, "disable_ipv6") for name in ("eth0", "eth1")] == ["0", "1"]
    assert [read(name, "accept_ra") for name in ("eth0", "eth1")] == ["0", "0"]


def test_an_address_is_given_back_when_the_other_family_has_none(controller: Controller) -> None:
    network = controller.create_network(
        "web", ipam=[IpamConfig("10.1.0.0/24"), IpamConfig("fd00:1::/127")], ipv6=True
    )  # fmt: skip
    network.create_endpoint("a")
    with pytest.raises(PynetError, match="no available IPv6 addresses"):
        network.create_endpoint("b")
    assert lost_leases(controller) == [], "the IPv4 address of the second is free again"


def test_the_host_is_told_when_it_stops_taking_router_advertisements(
    controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    index = controller.tools.rtnl.add_bridge("uplink")
    sysctl.write(("net", "ipv6", "conf", "uplink", "accept_ra"), 1)
    controller.create_network("dual", ipam=[IpamConfig("10.1.0.0/24"), IpamConfig("fd00:1::/64")], ipv6=True)
    assert "uplink" in caplog.text
    assert "accept_ra=2" in caplog.text
    controller.tools.rtnl.delete_link(index)


def test_a_port_that_somebody_let_loose_is_kept_apart_again(start_controller: Callable[..., Controller]) -> None:
    """Where the firewall does not see what passes from port to port, the bridge's own isolation is all there is (icc=false)."""
    controller = start_controller()
    network = controller.create_network("web", subnet="10.1.0.0/24", options={"icc": "false"})
    endpoint = network.create_endpoint("a")
    endpoint.join(controller.create_sandbox("a"))
    rtnl, name = controller.tools.rtnl, veth_name(endpoint.id)
    for file in Path("/proc/sys/net/bridge").glob("bridge-nf-call-ip*tables"):
        file.write_text("0")
    rtnl.set_link(rtnl.index(name), isolated=False)
    assert [str(one) for one in controller.check()] == [f"missing link {name}"]
    controller.repair()
    assert controller.check() == []
    link = rtnl.link(name)
    assert link is not None and link.isolated
