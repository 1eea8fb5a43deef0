"""Macvlan networks for real: packets between containers, the LAN and the host, by mode and with host access."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, Forbidden, InvalidArgument
from pynet.netlib.kernel.rtnl_routes import RouteInfo
from pynet.netlib.kinds.host_access import HostLink
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host, Lan

from support.macvlan import connecting, joined, lan_network, link_of, listening, path, reach
from support.netlib import call_in, default_gateways
from support.waiting import PATIENCE, SILENCE

RTMGRP_NEIGH = 4  # rtnetlink(7), rtnetlink.h


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


def test_a_route_of_the_hosts_with_another_source_is_found_and_mended(
    controller: Controller, host: Host, lan: Lan
) -> None:
    network = lan_network(controller, ipv6=True, host_access="true")
    a = joined(controller, network, "a")
    link = host.rtnl.index(next(r.name for r in network.plan() if isinstance(r, HostLink)))
    for address, source in ((a.record.ip, lan.host_address), (a.record.ip6, lan.host_address6)):
        prefix = f"{address}/{128 if ':' in address else 32}"
        host.rtnl.add_route(RouteInfo(destination=prefix, device=link, source=source), replace=True)
    found = [f"missing route {a.record.ip}", f"missing route {a.record.ip6}"]
    assert [str(one) for one in controller.check()] == found
    controller.repair()
    assert controller.check() == []
