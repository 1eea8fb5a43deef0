"""One suite over both firewall back ends, with real packets: published ports, networks, gateway modes."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from pynet.netlib.firewall.intents import FirewallBackend, PortRule
from pynet.netlib.kernel import sysctl
from pynet.netlib.kernel.rtnetlink import RouteInfo

from support.firewall import HOST, LAN, SERVED, World, gateway, open_port, rules, same
from support.ping import ping
from support.waiting import SILENCE

# -- published ports --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_published_ports_answer_everybody_who_may_ask(firewall: FirewallBackend, world: World, version: int) -> None:
    ports = [world.port(proto, "a1", version, 8080) for proto in ("tcp", "udp")]
    firewall.add_ports(ports)
    address, lan = HOST[version], LAN[version]
    for proto in ("tcp", "udp"):
        assert world.ask(world.lan, proto, address, 8080) == f"a1 {lan}", "the client's address must be kept"
        assert world.ask(world.host, proto, address, 8080).startswith("a1 ")
        # hairpin: the container itself, a neighbour, a container of another network
        for name in ("a1", "a2", "b1"):
            assert world.ask(world.containers[name], proto, address, 8080).startswith("a1 "), name
    firewall.remove_ports(ports)
    for proto in ("tcp", "udp"):
        assert not world.ask(world.lan, proto, address, 8080, silent=True)


@pytest.mark.parametrize("version", [4, 6])
def test_a_port_bound_to_one_address_answers_on_no_other(firewall: FirewallBackend, world: World, version: int) -> None:
    second = {4: "192.0.2.9", 6: "2001:db8::9"}[version]
    eth0 = world.host.rtnl.link("eth0")
    assert eth0 is not None
    world.host.rtnl.add_address(eth0.index, second, 24 if version == 4 else 64)
    firewall.add_ports(
        [
            world.port("tcp", "a1", version, 8080, second),
            world.port("tcp", "a1", version, 9090, second),
            world.port("tcp", "a2", version, 9090),
        ]
    )
    firewall.add_ports([world.port("tcp", "a2", version, 9091)])
    firewall.add_ports([world.port("tcp", "a1", version, 9091, second)])
    assert world.ask(world.lan, "tcp", second, 8080).startswith("a1")
    assert not world.ask(world.lan, "tcp", HOST[version], 8080, silent=True)
    assert world.ask(world.lan, "tcp", second, 9090).startswith("a1"), "the special one wins, whatever the order"
    assert world.ask(world.lan, "tcp", HOST[version], 9090).startswith("a2")
    assert world.ask(world.lan, "tcp", second, 9091).startswith("a1")
    assert world.ask(world.lan, "tcp", HOST[version], 9091).startswith("a2")


def test_loopback_by_nat(firewall: FirewallBackend, world: World) -> None:
    firewall.add_ports([world.port("tcp", "a2", 4, 7070)])
    assert not world.ask(world.host, "tcp", "127.0.0.1", 7070, silent=True), "127.0.0.1 is the proxy's unless asked for"
    sysctl.write(("net", "ipv4", "conf", "pba", "route_localnet"), 1)
    firewall.add_network(rules("a", loopback=True))
    firewall.add_ports([world.port(proto, "a1", 4, 8080, "127.0.0.1") for proto in ("tcp", "udp")])
    for proto in ("tcp", "udp"):
        assert world.ask(world.host, proto, "127.0.0.1", 8080) == "a1 10.77.1.1"
    assert world.ask(world.host, "tcp", "127.0.0.1", 7070).startswith("a2"), "published before the network changed"
    assert not world.ask(world.host, "tcp", HOST[4], 8080, silent=True)
    assert not world.ask(world.lan, "tcp", HOST[4], 8080, silent=True)


def test_ipv6_loopback_is_always_the_proxys(firewall: FirewallBackend, world: World) -> None:
    """The kernel routes nothing from ::1 to another interface: a port on every address must not take it there."""
    world.servers.serve("proxy", world.host, 8080, "::1")
    firewall.add_ports([world.port(proto, "a1", 6, 8080) for proto in ("tcp", "udp")])
    for proto in ("tcp", "udp"):
        assert world.ask(world.host, proto, "::1", 8080) == "proxy ::1"
        assert world.ask(world.host, proto, HOST[6], 8080).startswith("a1 ")


def test_loopback_is_guarded_from_the_wire(firewall: FirewallBackend, world: World) -> None:
    """An interface with route_localnet lets 127.0.0.1 in; what is published there must still not be reachable."""
    world.servers.serve("proxy", world.host, 8080, "127.0.0.1")
    world.servers.serve("other", world.host, 9090, "127.0.0.1")
    sysctl.write(("net", "ipv4", "conf", "all", "route_localnet"), 1)
    for client, via in ((world.lan, HOST[4]), (world.containers["a1"], gateway("a", 4))):
        client.call(sysctl.write, ("net", "ipv4", "conf", "all", "route_localnet"), 1)
        client.rtnl.delete_address(1, "127.0.0.1", 8)  # and with it the local route
        client.rtnl.add_route(RouteInfo(destination="127.0.0.0/8", gateway=via))
    firewall.add_ports([world.port(proto, "a1", 4, 8080, "127.0.0.1") for proto in ("tcp", "udp")])
    for proto in ("tcp", "udp"):
        assert world.ask(world.host, proto, "127.0.0.1", 8080).startswith("proxy"), "without loopback it is the proxy's"
        assert not world.ask(world.lan, proto, "127.0.0.1", 8080, silent=True)
        assert world.ask(world.lan, proto, "127.0.0.1", 9090).startswith("other"), (
            "other ports are none of our business"
        )
        assert not world.ask(world.containers["a1"], proto, "127.0.0.1", 9090, silent=True), "containers get nothing"


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_leaving_packets_take_an_address_of_the_host(firewall: FirewallBackend, world: World, version: int) -> None:
    world.servers.serve("lan", world.lan, 5000)
    second = {4: "192.0.2.9", 6: "2001:db8::9"}[version]
    eth0 = world.host.rtnl.link("eth0")
    assert eth0 is not None
    world.host.rtnl.add_address(eth0.index, second, 24 if version == 4 else 64)
    own = world.address("a1", version)
    world.route_lan_to_containers()
    for changes, seen in (({}, None), ({"source": (second,)}, second), ({"masquerade": False}, own)):
        firewall.add_network(rules("a", **changes))
        for proto in ("tcp", "udp"):
            answer = world.ask(world.containers["a1"], proto, LAN[version], 5000)
            if seen is None:
                assert answer in (f"lan {HOST[version]}", f"lan {second}")
            else:
                assert answer == f"lan {seen}"
            neighbour = world.ask(world.containers["a1"], proto, world.address("a2", version), SERVED)
            assert neighbour == f"a2 {own}", "what stays in the network keeps its address"


@pytest.mark.parametrize("version", [4, 6])
def test_containers_are_not_reached_past_their_published_ports(
    firewall: FirewallBackend, world: World, version: int
) -> None:
    world.route_lan_to_containers()
    firewall.add_ports([world.port("tcp", "a1", version, 8080)])
    target = world.address("a1", version)
    for proto in ("tcp", "udp"):
        assert not world.ask(world.lan, proto, target, SERVED, silent=True), "routed straight to the container"
        assert not world.ask(world.containers["b1"], proto, target, SERVED, silent=True), "from another network"
        assert world.ask(world.host, proto, target, SERVED).startswith("a1"), "the host itself may"
        assert world.ask(world.containers["a2"], proto, target, SERVED).startswith("a1"), "and the same network"
    firewall.destroy()
    assert world.ask(world.lan, "tcp", target, SERVED).startswith("a1"), "it was our rules that kept them out"


@pytest.mark.parametrize("version", [4, 6])
def test_an_internal_network_keeps_to_itself(firewall: FirewallBackend, world: World, version: int) -> None:
    world.servers.serve("lan", world.lan, 5000)
    firewall.add_ports([world.port("tcp", "b1", version, 8080), world.port("tcp", "a1", version, 9090)])
    firewall.add_network(rules("a", internal=True))
    inside = world.containers["a1"]
    world.route_lan_to_containers()
    assert not world.ask(inside, "tcp", LAN[version], 5000, silent=True)
    assert not world.ask(inside, "tcp", HOST[version], 8080, silent=True), "not even to published ports of others"
    assert not world.ask(world.lan, "tcp", world.address("a1", version), SERVED, silent=True)
    assert not world.ask(world.lan, "tcp", HOST[version], 9090, silent=True), "nothing is published from in there"
    assert world.ask(world.containers["a2"], "tcp", world.address("a1", version), SERVED).startswith("a1")
    assert world.ask(world.containers["b1"], "tcp", LAN[version], 5000).startswith("lan"), "others are not concerned"


def test_without_icc_neighbours_talk_through_published_ports_alone(firewall: FirewallBackend, world: World) -> None:
    if not os.path.exists("/proc/sys/net/bridge/bridge-nf-call-iptables"):
        pytest.skip("bridged packets need br_netfilter to reach the firewall")
    firewall.add_network(rules("a", icc=False))
    firewall.add_ports([world.port("tcp", "a1", version, 8080) for version in (4, 6)])
    neighbour = world.containers["a2"]
    for version in (4, 6):
        assert not world.ask(neighbour, "tcp", world.address("a1", version), SERVED, silent=True)
        assert world.ask(neighbour, "tcp", HOST[version], 8080).startswith("a1")
    firewall.add_network(rules("a"))
    assert world.ask(neighbour, "tcp", world.address("a1", 4), SERVED).startswith("a1")


@pytest.mark.parametrize("version", [4, 6])
def test_a_link_opens_a_port_to_one_neighbour_alone(firewall: FirewallBackend, world: World, version: int) -> None:
    """By way of the host, as the bridge passes nothing between ports that are apart."""
    world.servers.serve("a2", world.containers["a2"], 81)
    bits = 32 if version == 4 else 128
    for one, other in (("a1", "a2"), ("a2", "a1")):
        world.host.rtnl.set_link(world.host.rtnl.index(f"pv{one}"), isolated=True)
        world.containers[one].call(sysctl.write, ("net", "ipv6", "conf", "eth0", "accept_redirects"), 0)
        route = RouteInfo(destination=f"{world.address(other, version)}/{bits}", gateway=gateway("a", version))
        world.containers[one].rtnl.add_route(route)
    apart = rules("a", icc=False)
    firewall.add_network(apart)
    a1, target = world.containers["a1"], world.address("a2", version)
    links = [PortRule(proto, "", 0, target, SERVED, "pba", world.address("a1", version)) for proto in ("tcp", "udp")]
    for proto in ("tcp", "udp"):
        assert not world.ask(a1, proto, target, SERVED, silent=True)
    firewall.add_ports(links)
    assert same(firewall.state(), [apart, rules("b")], links)
    for proto in ("tcp", "udp"):
        assert world.ask(a1, proto, target, SERVED) == f"a2 {world.address('a1', version)}"
        assert not world.ask(a1, proto, target, 81, silent=True), "another port"
        assert not world.ask(world.containers["a2"], proto, world.address("a1", version), SERVED, silent=True), (
            "the other way"
        )
    assert not ping(a1, target, SILENCE)
    firewall.add_network(replace(apart, trusted=("eth9",)))  # all is written anew, and the link is before the drop
    assert world.ask(a1, "tcp", target, SERVED) == f"a2 {world.address('a1', version)}"
    firewall.remove_ports(links[:1])
    assert not world.ask(a1, "tcp", target, SERVED, silent=True)
    assert same(firewall.state(), [replace(apart, trusted=("eth9",)), rules("b")], links[1:])
    firewall.remove_ports(links)
    firewall.add_network(rules("a"))


def test_what_is_not_ours_is_left_to_the_host(firewall: FirewallBackend, world: World) -> None:
    """A third interface that is no network of ours is routed as if we were not there."""
    firewall.remove_network("pbb")
    world.route_lan_to_containers()
    assert world.ask(world.lan, "tcp", world.address("b1", 4), SERVED).startswith("b1")


def test_a_network_of_ipv6_alone(firewall: FirewallBackend, world: World) -> None:
    """It has every promise of its family, and IPv4 is none of its business."""
    world.servers.serve("lan", world.lan, 5000)
    only6 = rules("a", subnets=("fd77:1::/64",), source=("2001:db8::1",))
    ports = [world.port(proto, "a1", 6, 8080) for proto in ("tcp", "udp")]
    ports += [world.port("tcp", "a1", 6, 8081, HOST[6]), world.port("tcp", "a1", 6, 8082, "::1")]
    firewall.replace([only6, rules("b")], ports)
    assert same(firewall.state(), [only6, rules("b")], ports)
    world.route_lan_to_containers()
    for proto in ("tcp", "udp"):
        assert world.ask(world.lan, proto, HOST[6], 8080) == f"a1 {LAN[6]}"
        assert world.ask(world.containers["a1"], proto, HOST[6], 8080).startswith("a1 "), "hairpin"
        assert not world.ask(world.lan, proto, HOST[4], 8080, silent=True)
        assert world.ask(world.containers["a1"], proto, LAN[6], 5000) == f"lan {HOST[6]}"
        assert world.ask(world.containers["a1"], proto, LAN[4], 5000) == f"lan {world.address('a1', 4)}"
        assert not world.ask(world.lan, proto, world.address("a1", 6), SERVED, silent=True)
    assert world.ask(world.lan, "tcp", HOST[6], 8081).startswith("a1")
    firewall.remove_ports(ports[:1])
    assert same(firewall.state(), [only6, rules("b")], ports[1:])
    firewall.remove_network("pba")
    assert same(firewall.state(), [rules("b")], ports[1:])


def test_one_port_of_two_families_leads_two_ways(firewall: FirewallBackend, world: World) -> None:
    four, six = (world.port("tcp", name, version, 8080) for name, version in (("a1", 4), ("a2", 6)))
    firewall.add_ports([four, six])
    assert world.ask(world.lan, "tcp", HOST[4], 8080) == f"a1 {LAN[4]}"
    assert world.ask(world.lan, "tcp", HOST[6], 8080) == f"a2 {LAN[6]}"
    firewall.remove_ports([four])
    assert not world.ask(world.lan, "tcp", HOST[4], 8080, silent=True)
    assert world.ask(world.lan, "tcp", HOST[6], 8080) == f"a2 {LAN[6]}"
    assert same(firewall.state(), [rules("a"), rules("b")], [six])


# -- gateway modes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_routed_network_is_reached_at_its_own_addresses(
    firewall: FirewallBackend, world: World, version: int
) -> None:
    """Published ports and ICMP alone, and what leaves keeps its address; the other family is as it was."""
    world.route_lan_to_containers()
    world.servers.serve("lan", world.lan, 5000)
    world.servers.serve("a1", world.containers["a1"], 81)
    routed = rules("a", **{f"mode{version}": "routed"})
    ports = [open_port("tcp", "a1", version), open_port("udp", "a1", version)]
    firewall.add_network(routed)
    assert not world.ask(world.lan, "tcp", world.address("a1", version), SERVED, silent=True), "not published yet"
    firewall.add_ports(ports)
    assert same(firewall.state(), [routed, rules("b")], ports)
    for who, its in ((world.lan, LAN[version]), (world.containers["b1"], None), (world.host, None)):
        for proto in ("tcp", "udp"):
            answer = world.ask(who, proto, world.address("a1", version), SERVED)
            assert answer == f"a1 {its}" if its else answer.startswith("a1 ")
        assert ping(who, world.address("a1", version))
    for proto in ("tcp", "udp"):
        assert not world.ask(world.lan, proto, world.address("a1", version), 81, silent=True), "not published"
        assert not world.ask(world.lan, proto, world.address("a2", version), SERVED, silent=True), "its neighbour"
        assert not world.ask(world.lan, proto, world.address("a1", 10 - version), SERVED, silent=True)
        own = f"lan {world.address('a1', version)}"
        assert world.ask(world.containers["a1"], proto, LAN[version], 5000) == own
        assert world.ask(world.containers["a1"], proto, LAN[10 - version], 5000) == f"lan {HOST[10 - version]}"
    assert not ping(world.lan, world.address("a1", 10 - version), SILENCE)
    assert not ping(world.lan, world.address("b1", version), SILENCE)
    firewall.remove_ports(ports[:1])
    assert not world.ask(world.lan, "tcp", world.address("a1", version), SERVED, silent=True)
    assert world.ask(world.lan, "udp", world.address("a1", version), SERVED).startswith("a1")


@pytest.mark.parametrize("version", [4, 6])
def test_an_unprotected_network_is_reached_on_every_port(firewall: FirewallBackend, world: World, version: int) -> None:
    world.route_lan_to_containers()
    world.servers.serve("lan", world.lan, 5000)
    firewall.add_network(rules("a", **{f"mode{version}": "nat-unprotected"}))
    firewall.add_ports([world.port("tcp", "a1", version, 8080)])
    for proto in ("tcp", "udp"):
        assert world.ask(world.lan, proto, world.address("a1", version), SERVED) == f"a1 {LAN[version]}"
        assert world.ask(world.containers["b1"], proto, world.address("a1", version), SERVED).startswith("a1")
        assert not world.ask(world.lan, proto, world.address("a1", 10 - version), SERVED, silent=True)
        assert world.ask(world.containers["a1"], proto, LAN[version], 5000) == f"lan {HOST[version]}", "still NAT"
    assert ping(world.lan, world.address("a1", version))
    assert not ping(world.lan, world.address("b1", version), SILENCE)
    assert world.ask(world.lan, "tcp", HOST[version], 8080) == f"a1 {LAN[version]}"


@pytest.mark.parametrize("version", [4, 6])
def test_a_trusted_interface_reaches_published_ports_at_their_own_address(
    firewall: FirewallBackend, world: World, version: int
) -> None:
    world.route_lan_to_containers()
    world.servers.serve("a1", world.containers["a1"], 81)
    firewall.add_network(rules("a", trusted=("eth9", "eth0")))
    firewall.add_ports([open_port("tcp", "a1", version)])
    assert world.ask(world.lan, "tcp", world.address("a1", version), SERVED) == f"a1 {LAN[version]}"
    assert not world.ask(world.lan, "tcp", world.address("a1", version), 81, silent=True), "not published"
    assert not world.ask(world.lan, "udp", world.address("a1", version), SERVED, silent=True), "nor over UDP"
    assert not world.ask(world.containers["b1"], "tcp", world.address("a1", version), SERVED, silent=True)
    firewall.add_network(rules("a", trusted=("eth9",)))
    assert not world.ask(world.lan, "tcp", world.address("a1", version), SERVED, silent=True)
