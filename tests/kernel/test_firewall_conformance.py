"""One suite over both firewall back ends, with real packets.

    lan 192.0.2.2 ---- eth0 host ---- pba 10.77.1.1/24 ---- a1 .2  a2 .3
        2001:db8::2              |        fd77:1::1/64          ::2    ::3
                                 '--- pbb 10.77.2.1/24 ---- b1 .2
                                          fd77:2::1/64          ::2

A server tells its name and whom it answers to, so a test sees both ends of the translation.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from pynet.netlib.errors import InvalidArgument, NotSupported
from pynet.netlib.firewall.choice import select_backend
from pynet.netlib.firewall.intents import FirewallBackend, NetworkRules, PortRule, check_network, check_port
from pynet.netlib.kernel import sysctl
from pynet.netlib.kernel.rtnetlink import RouteInfo
from pynet.plugins.snapshot import Snapshot
from pynet.plugins.testhost import Host, Lan, Namespace

from support.answering import Servers
from support.ping import ping
from support.waiting import PATIENCE, SILENCE

SERVED = 80
NUMBERS = {"a": 1, "b": 2}
HOST = {4: Lan.host_address, 6: Lan.host_address6}
LAN = {4: Lan.address, 6: Lan.address6}


def gateway(network: str, version: int) -> str:
    return f"10.77.{NUMBERS[network]}.1" if version == 4 else f"fd77:{NUMBERS[network]}::1"


def rules(network: str, **changes: object) -> NetworkRules:
    number = NUMBERS[network]
    values = {"bridge": f"pb{network}", "subnets": (f"10.77.{number}.0/24", f"fd77:{number}::/64"), **changes}
    return NetworkRules(**values)  # type: ignore[arg-type]


class World:
    def __init__(self, host: Host, lan: Lan, servers: Servers, containers: dict[str, Namespace]) -> None:
        self.host, self.lan, self.servers, self.containers = host, lan, servers, containers

    @staticmethod
    def ask(who: Namespace, proto: str, address: str, port: int, *, silent: bool = False) -> str:
        """What the server at *address* answers to *who*; "" if nothing.  *silent* expects just that, and waits less."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with who.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM) as sock:
            sock.settimeout(SILENCE if silent else PATIENCE)
            try:
                sock.connect((address, port))
                if proto == "udp":
                    sock.send(b"?")
                return sock.recv(64).decode()
            except OSError:
                return ""

    @staticmethod
    def address(name: str, version: int) -> str:
        number, last = NUMBERS[name[0]], int(name[1:]) + 1
        return f"10.77.{number}.{last}" if version == 4 else f"fd77:{number}::{last}"

    def port(self, proto: str, name: str, version: int, host_port: int, host_ip: str = "") -> PortRule:
        return PortRule(proto, host_ip, host_port, self.address(name, version), SERVED, f"pb{name[0]}")

    def route_lan_to_containers(self) -> None:
        """Let the LAN send to container addresses by way of the host, as an attacker on the same wire would."""
        for number in NUMBERS.values():
            self.lan.rtnl.add_route(RouteInfo(destination=f"10.77.{number}.0/24", gateway=HOST[4]))
            self.lan.rtnl.add_route(RouteInfo(destination=f"fd77:{number}::/64", gateway=HOST[6]))


@contextmanager
def building_world(host: Host, lan: Lan) -> Generator[World]:
    sysctl.write(("net", "ipv4", "ip_forward"), 1)
    sysctl.write(("net", "ipv6", "conf", "all", "forwarding"), 1)
    # a bridge asks for neighbours once its own link-local address is known to be unique: one to two seconds
    sysctl.write(("net", "ipv6", "conf", "default", "accept_dad"), 0)
    with ExitStack() as stack:
        servers = Servers()
        stack.callback(servers.close)
        containers: dict[str, Namespace] = {}
        links: list[int] = []
        # not left to the end of their namespaces, which the kernel takes apart in its own time
        stack.callback(lambda: host.rtnl.delete_links(links))
        for network, names in (("a", ("a1", "a2")), ("b", ("b1",))):
            bridge = host.rtnl.add_bridge(f"pb{network}", mac=f"02:00:00:00:00:0{NUMBERS[network]}")
            links.append(bridge)
            for version, prefix in ((4, 24), (6, 64)):
                host.rtnl.add_address(bridge, gateway(network, version), prefix)
            for name in names:
                container = containers[name] = host.namespace()
                stack.callback(container.close)
                index, peer = host.rtnl.add_veth(
                    f"pv{name}", "eth0", netns_fd=container.fd, master=bridge, hairpin=True
                )  # fmt: skip
                links.append(index)
                container.rtnl.configure(
                    peer,
                    addresses=[(World.address(name, 4), 24), (World.address(name, 6), 64)],
                    routes=[RouteInfo(gateway=gateway(network, version)) for version in (4, 6)],
                )
                host.rtnl.wait_up(index)
                servers.serve(name, container, SERVED)
        yield World(host, lan, servers, containers)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


# -- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(host: Host, lan: Lan) -> Iterator[World]:
    with building_world(host, lan) as world:
        yield world


@pytest.fixture(params=["nftables", "iptables"])
def make(request: pytest.FixtureRequest, host: Host) -> Iterator[Callable[..., FirewallBackend]]:
    """Makes back ends of one kind; all are closed at the end, and what they made is removed."""
    made: list[tuple[FirewallBackend, str]] = []

    def make(instance: str = "") -> FirewallBackend:
        try:
            backend = select_backend(request.param, instance)
        except NotSupported as error:
            pytest.skip(str(error))
        made.append((backend, instance))
        return backend

    yield make
    for backend, _ in made:
        backend.destroy()
        backend.close()


@pytest.fixture
def firewall(make: Callable[..., FirewallBackend], world: World) -> FirewallBackend:
    """A back end that knows both networks."""
    backend = make()
    backend.replace([rules("a"), rules("b")], [])
    return backend


def tables() -> dict[str, tuple[str, ...]]:
    """All rules of both kinds in the calling thread's namespace."""
    sections = Snapshot.take().sections
    without_counters = [re.sub(r" \[\d+:\d+\]$", "", line) for line in sections["iptables"]]
    return {"nftables": sections["nftables"], "iptables": tuple(without_counters)}


def same(found: tuple[list[NetworkRules], list[PortRule]], networks: list[NetworkRules], ports: list[PortRule]) -> bool:
    return (sorted(found[0], key=str), sorted(found[1], key=str)) == (sorted(networks, key=str), sorted(ports, key=str))


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


def open_port(proto: str, name: str, version: int, port: int = SERVED) -> PortRule:
    return PortRule(proto, "", 0, World.address(name, version), port, f"pb{name[0]}")


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


# -- the user and others ------------------------------------------------------------------------------------------------


def user_rule(firewall: FirewallBackend) -> None:
    """The user forbids the LAN, in the chain that is theirs."""
    if firewall.name == "nftables":
        run("nft", "add", "rule", "inet", "pynet", "pynet_user", "iifname", "eth0", "drop")
    else:
        run("iptables-legacy", "-A", "PYNET-USER", "-i", "eth0", "-j", "DROP")


def test_the_users_chain_has_the_first_word_and_stays(
    firewall: FirewallBackend, make: Callable[..., FirewallBackend], world: World
) -> None:
    port = world.port("tcp", "a1", 4, 8080)
    firewall.add_ports([port])
    assert world.ask(world.lan, "tcp", HOST[4], 8080)
    user_rule(firewall)
    firewall.ensure()
    firewall.replace([rules("a")], [port])
    restarted = make()
    restarted.ensure()
    restarted.add_network(rules("b"))
    assert not world.ask(world.lan, "tcp", HOST[4], 8080, silent=True)
    assert world.ask(world.host, "tcp", HOST[4], 8080)


def test_the_users_chain_has_the_first_word_on_connections_that_are_there(
    firewall: FirewallBackend, world: World
) -> None:
    """Before "established" is accepted: who is forbidden at last is cut off, and not only kept from coming again."""
    firewall.add_ports([replace(world.port("tcp", "a1", 4, 8080), target_port=9000)])
    listener = world.containers["a1"].listen((world.address("a1", 4), 9000))
    with listener, world.lan.connect((HOST[4], 8080)) as client:
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE)
            client.send(b"before")
            assert server.recv(16) == b"before"
            server.settimeout(SILENCE)
            user_rule(firewall)
            client.send(b"after")
            with pytest.raises(TimeoutError):
                server.recv(16)


DROPPING = {
    "iptables-nft": [f"{program}-nft -P FORWARD DROP" for program in ("iptables", "ip6tables")],
    "iptables-legacy": [f"{program}-legacy -P FORWARD DROP" for program in ("iptables", "ip6tables")],
    "docker": [
        f"{program}-nft {words}"
        for program in ("iptables", "ip6tables")
        for words in ("-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", "-A FORWARD -o docker0 -j DROP")
    ],
    "nft": ["nft add table inet own", "nft add chain inet own f { type filter hook forward priority 9; policy drop; }"],
}
UNDO = {
    "iptables-nft": ["nft flush ruleset"],
    "iptables-legacy": [f"{program}-legacy -P FORWARD ACCEPT" for program in ("iptables", "ip6tables")],
    "docker": ["nft flush ruleset"],
    "nft": ["nft flush ruleset"],
}


@pytest.mark.parametrize("other", DROPPING)
def test_a_forward_policy_of_drop_elsewhere_is_mended(
    make: Callable[..., FirewallBackend], world: World, other: str
) -> None:
    world.servers.serve("lan", world.lan, 5000)
    for command in DROPPING[other]:
        run(*command.split(" "))
    before = tables()
    assert not world.ask(world.containers["a1"], "tcp", LAN[4], 5000, silent=True), "the other table does drop"
    firewall = make()
    firewall.replace([rules("a")], [])
    firewall.add_network(rules("b"))
    firewall.add_ports([world.port("tcp", "a1", version, 8080) for version in (4, 6)])
    for version in (4, 6):
        assert world.ask(world.lan, "tcp", HOST[version], 8080).startswith("a1")
        assert world.ask(world.containers["b1"], "tcp", LAN[version], 5000).startswith("lan")
        assert world.ask(world.containers["a2"], "tcp", world.address("a1", version), SERVED).startswith("a1")
        assert not world.ask(world.containers["b1"], "tcp", world.address("a1", version), SERVED, silent=True)
    assert firewall.diagnose() == []
    if other.startswith("iptables"):
        for program in ("iptables", "ip6tables"):
            assert "policy DROP" in run(*f"{program}{other.removeprefix('iptables')} -nL FORWARD".split(" "))
    again = tables()
    firewall.ensure()
    firewall.add_network(rules("b"))
    assert tables() == again
    firewall.remove_network("pbb")
    assert "pbb" not in str(tables())
    firewall.destroy()
    assert tables() == before
    for command in UNDO[other]:
        run(*command.split(" "))


def test_diagnose_tells_what_stands_in_the_way(firewall: FirewallBackend, world: World) -> None:
    assert firewall.diagnose() == []
    firewall.add_ports([world.port("tcp", "a1", 4, 8080)])
    run("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "8080", "-j", "REDIRECT")
    (said,) = firewall.diagnose()
    assert "ip nat PREROUTING translates tcp port 8080 too" in said
    run("nft", "delete", "table", "ip", "nat")
    sysctl.write(("net", "ipv4", "ip_forward"), 0)
    firewall.add_network(rules("a", loopback=True))
    forwarding, localnet = firewall.diagnose()
    assert "net.ipv4.ip_forward=1" in forwarding
    assert "net.ipv4.conf.pba.route_localnet=1" in localnet
    sysctl.write(("net", "ipv4", "ip_forward"), 1)
    firewall.add_network(rules("a", icc=False))
    if os.path.exists("/proc/sys/net/bridge"):
        assert firewall.diagnose() == []
        for name in ("bridge-nf-call-ip6tables", "bridge-nf-call-iptables"):
            sysctl.write(("net", "bridge", name), 0)
            (said,) = firewall.diagnose()
            assert "icc=false" in said and f"net.bridge.{name}=1" in said
            sysctl.write(("net", "bridge", name), 1)
            assert firewall.diagnose() == []
        sysctl.write(("net", "bridge", "bridge-nf-call-iptables"), 0)
        sysctl.write(("net", "bridge", "bridge-nf-call-ip6tables"), 0)
    four, six = firewall.diagnose()
    assert "bridged IPv4" in four and "bridged IPv6" in six
    for name in ("pva1", "pva2"):
        link = world.host.rtnl.link(name)
        assert link is not None
        world.host.rtnl.set_link(link.index, isolated=True)
    assert firewall.diagnose() == [], "the bridge keeps them apart"


@pytest.mark.parametrize("forwarding", [1, 0])
def test_diagnose_tells_what_forwarding_does_to_router_advertisements(
    host: Host, lan: Lan, make: Callable[..., FirewallBackend], forwarding: int
) -> None:
    """The kernel forgets the default route that an advertisement gave as soon as the host forwards."""
    sysctl.write(("net", "ipv6", "conf", "all", "forwarding"), 0)
    sysctl.write(("net", "ipv6", "conf", "eth0", "accept_ra"), 1)
    sysctl.write(("net", "ipv6", "conf", "eth0", "autoconf"), 1)
    firewall = make()
    firewall.replace([rules("a", subnets=("fd77:1::/64",))], [])
    sysctl.write(("net", "ipv6", "conf", "all", "forwarding"), 1)
    assert firewall.diagnose() == [], "who has no way out from advertisements loses none"
    sysctl.write(("net", "ipv6", "conf", "all", "forwarding"), 0)

    advertise(lan)

    def told() -> bool:
        return any(route.protocol == 9 and route.destination == "default" for route in host.rtnl.routes(6))

    deadline = time.monotonic() + 10
    while not told():
        assert time.monotonic() < deadline, "the advertisement was not taken"
        os.sched_yield()
    sysctl.write(("net", "ipv6", "conf", "all", "forwarding"), forwarding)
    assert told() == (not forwarding)
    said = firewall.diagnose()
    if forwarding:
        assert len(said) == 1 and "net.ipv6.conf.eth0.accept_ra=2" in said[0]
        sysctl.write(("net", "ipv6", "conf", "eth0", "accept_ra"), 2)
        assert firewall.diagnose() == []
        firewall.replace([rules("a", subnets=("10.77.1.0/24",))], [])
        sysctl.write(("net", "ipv6", "conf", "eth0", "accept_ra"), 1)
        sysctl.write(("net", "ipv4", "ip_forward"), 1)
        assert firewall.diagnose() == [], "not for a network without IPv6"
    else:
        assert ["forwarding is off" in sentence for sentence in said] == [True]
    sysctl.write(("net", "ipv6", "conf", "all", "forwarding"), 0)
    host.run(["ip", "-6", "route", "flush", "proto", "ra"])


def advertise(router: Namespace) -> None:
    """Send one router advertisement (RFC 4861 4.2) with a prefix, as the client on the LAN."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 1800, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8:5::")
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    with router.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        eth0 = router.rtnl.link("eth0")
        assert eth0 is not None
        router.rtnl.add_address(eth0.index, "fe80::2", 64)  # its own one is still tentative
        sock.bind(("fe80::2", 0, 0, eth0.index))
        sock.sendto(message, ("ff02::1", 0, 0, eth0.index))


def flush() -> None:
    run("nft", "flush", "ruleset")
    for program in ("iptables-legacy", "ip6tables-legacy"):
        for table in ("raw", "nat", "filter"):
            run(program, "-t", table, "-F")
            run(program, "-t", table, "-X")


@pytest.mark.parametrize("repair", ["replace", "add_ports", "add_network"])
def test_flushed_rules_come_back(firewall: FirewallBackend, world: World, repair: str) -> None:
    networks, ports = [rules("a"), rules("b")], [world.port("tcp", "a1", v, 8080) for v in (4, 6)]
    firewall.add_ports(ports)
    before = tables()
    flush()
    assert same(firewall.state(), [], [])
    if repair == "replace":
        firewall.replace(networks, ports)
    elif repair == "add_ports":
        firewall.add_ports(ports)
    else:
        firewall.add_network(rules("a"))
    assert tables() == before
    assert world.ask(world.lan, "tcp", HOST[4], 8080) == f"a1 {LAN[4]}"


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("delete", [False, True], ids=["rules", "chains"])
def test_a_change_after_a_flush_brings_all_back(
    host: Host, make: Callable[..., FirewallBackend], count: int, delete: bool
) -> None:
    """However large the change is, and by whatever way it is made: nobody looked at the tables in between."""
    firewall = make()
    ports = [PortRule("tcp", "", 8000 + number, "10.77.1.2", 80, "pba") for number in range(2 * count)]
    for added in (True, False):
        firewall.replace([rules("a")], ports[:count] if added else ports)
        if firewall.name == "nftables":
            run("nft", "flush ruleset")
        for program in ("iptables-legacy", "ip6tables-legacy") if firewall.name == "iptables" else ():
            for table in ("raw", "nat", "filter"):
                run(program, "-t", table, "-F")
                if delete:
                    run(program, "-t", table, "-X")
        if added:
            firewall.add_ports(ports[count:])
        else:
            firewall.remove_ports(ports[count:])
        assert same(firewall.state(), [rules("a")], ports if added else ports[:count])


def test_rules_that_no_packet_comes_to_count_as_gone(firewall: FirewallBackend, world: World) -> None:
    before = tables()
    if firewall.name == "nftables":
        run("nft", "flush", "chain", "inet", "pynet", "forward")
    else:
        run("iptables-legacy", "-F", "FORWARD")
    assert same(firewall.state(), [], [])
    firewall.add_network(rules("a"))
    assert same(firewall.state(), [rules("a"), rules("b")], [])
    assert tables() == before


# -- promises of the protocol -----------------------------------------------------------------------------------------


def test_every_call_may_be_repeated(host: Host, make: Callable[..., FirewallBackend]) -> None:
    empty = tables()
    firewall = make()
    ports = [PortRule("tcp", "", 80, "10.77.1.2", 8080, "pba"), PortRule("udp", "127.0.0.1", 80, "fd77::2", 1, "pba")]
    ports[1] = PortRule("udp", "::1", 80, "fd77:1::2", 1, "pba")
    shown: list[object] = []
    for _ in range(2):
        firewall.ensure()
        firewall.add_network(rules("a"))
        firewall.add_ports(ports)
        firewall.add_ports(ports[:1])
        shown.append(tables())
    assert shown[0] == shown[1]
    assert same(firewall.state(), [rules("a")], ports)
    for _ in range(2):
        firewall.replace([rules("a")], ports)
        assert tables() == shown[0]
    for _ in range(2):
        firewall.remove_ports(ports)
        firewall.remove_network("pba")
        assert same(firewall.state(), [], [])
    for _ in range(2):
        firewall.destroy()
        assert tables() == empty
        assert same(firewall.state(), [], [])


def test_state_tells_all_that_was_said(host: Host, make: Callable[..., FirewallBackend]) -> None:
    networks = [
        rules("a", icc=False, loopback=True, source=("192.0.2.7", "2001:db8::7")),
        rules("b", internal=True, masquerade=False),
        NetworkRules("pbc", ("10.78.0.0/16", "10.79.4.0/30"), masquerade=False),
        NetworkRules("pbd", ("fd78::/64",), source=("2001:db8::7",)),
        NetworkRules("pbe"),
        NetworkRules(
            "pbf", ("10.80.0.0/16", "fd80::/64"), mode4="routed", mode6="nat-unprotected", trusted=("eth1", "wg0")
        ),
        NetworkRules("pbg", ("10.81.0.0/16", "fd81::/64"), masquerade=False, mode4="routed", mode6="routed"),
    ]
    hosts = {4: ("", "192.0.2.7", "127.0.0.1", "127.8.8.8"), 6: ("", "2001:db8::7", "::1")}
    ports = [
        PortRule(proto, host, 80, f"10.77.{n}.2" if version == 4 else f"fd77:{n}::2", 80 + n, f"pb{name}")
        for n, (name, proto) in enumerate((("a", "tcp"), ("b", "udp"), ("a", "sctp")), 1)
        for version, addresses in hosts.items()
        for host in addresses
    ]
    ports += [PortRule("tcp", "", 0, address, 80, "pbf") for address in ("10.80.0.2", "fd80::2")]
    ports += [
        PortRule("udp", "", 0, f"{net}2", 53, "pba", f"{net}{n}") for net in ("10.77.1.", "fd77:1::") for n in (3, 4)
    ]
    firewall = make()
    for network in networks:
        firewall.add_network(network)
    firewall.add_ports(ports)
    assert same(firewall.state(), networks, ports)
    other = make()  # a restart knows nothing but the kernel
    other.ensure()
    other.remove_ports(ports[::2])
    other.remove_network("pba")
    assert same(other.state(), networks[1:], ports[1::2])
    other.replace(networks, ports)
    assert same(other.state(), networks, ports)


def test_what_others_put_into_our_tables_does_not_keep_us_from_reading(
    host: Host, make: Callable[..., FirewallBackend]
) -> None:
    firewall = make()
    networks = [rules("a", icc=False), rules("b", internal=True, masquerade=False)]
    ports = [PortRule("tcp", host_ip, 80, "10.77.1.2", 80, "pba") for host_ip in ("", "192.0.2.1", "127.0.0.1")]
    firewall.replace(networks, ports)
    if firewall.name == "nftables":
        for line in (
            'own4 { 10.99.0.1-10.99.0.5 . "x" }',
            'masq4 { 10.98.0.0-10.98.0.5 comment "mine" }',
            'internal { "x" comment "mine" }',
            "ports4 { tcp . 99 : 10.77.1.9 . 99 }",
        ):
            run("nft", f"add element inet pynet {line}")
        others = [PortRule("tcp", "", 99, "10.77.1.9", 99, "")]
    else:
        for line in (
            "filter -A PYNET-SAME -j RETURN",
            "filter -A PYNET-SAME -i x -m mark --mark 1",
            "filter -A PYNET-INT -j RETURN",
            "nat -A PYNET-POST -j RETURN",
            "nat -A PYNET-POST -s 10.99.0.0/24 -j RETURN",
            "nat -A PYNET-DNAT -p tcp -j RETURN",
            "nat -A PYNET-DNAT -p tcp --dport 99 -j DNAT --to-destination 10.77.1.9",
            "raw -A PYNET-GUARD -m comment --comment mine -j RETURN",
        ):
            run("iptables-legacy", "-t", *line.split(" "))
        others = []
    found, also = firewall.state()
    assert all(network in found for network in networks)
    assert sorted(also, key=str) == sorted([*ports, *others], key=str)
    restarted = make()
    restarted.ensure()
    restarted.remove_ports(ports[:1])
    restarted.replace(networks, ports)
    assert same(restarted.state(), networks, ports)


def test_addresses_are_told_as_they_were_given(host: Host, make: Callable[..., FirewallBackend]) -> None:
    """inet_ntop(3) has a form of its own for IPv4 within IPv6; a rule that reads otherwise is repaired for ever."""
    firewall = make()
    ports = [PortRule("tcp", host_ip, 80, "fd77:1::2", 80, "pba") for host_ip in ("::ffff:192.0.2.1", "::c000:201")]
    networks = [rules("a", source=("::ffff:c000:0201",))]
    firewall.replace(networks, ports)
    found, also = firewall.state()
    assert found == [check_network(network) for network in networks]
    assert sorted(also, key=str) == sorted(map(check_port, ports), key=str)


def test_a_key_leads_where_it_was_last_told_to(firewall: FirewallBackend, world: World) -> None:
    first, second = (world.port("tcp", name, 4, 8080) for name in ("a1", "a2"))
    firewall.add_ports([first])
    firewall.add_ports([second])
    assert world.ask(world.lan, "tcp", HOST[4], 8080).startswith("a2")
    firewall.remove_ports([first])  # its owner leaves late
    assert same(firewall.state(), [rules("a"), rules("b")], [second])


def test_a_thousand_ports(firewall: FirewallBackend, world: World) -> None:
    ports = [world.port("tcp", "a1", 4, port) for port in range(10000, 11000)]
    firewall.add_ports(ports)
    assert same(firewall.state(), [rules("a"), rules("b")], ports)
    assert world.ask(world.lan, "tcp", HOST[4], 10999).startswith("a1")
    firewall.remove_ports(ports)
    assert same(firewall.state(), [rules("a"), rules("b")], [])


def test_two_instances_live_side_by_side(
    firewall: FirewallBackend, make: Callable[..., FirewallBackend], world: World
) -> None:
    firewall.replace([rules("a")], [world.port("tcp", "a1", 4, 8080)])
    before = tables()
    other = make("0123abcd")
    other.replace([rules("b")], [world.port("tcp", "b1", 4, 9090)])
    assert world.ask(world.lan, "tcp", HOST[4], 8080).startswith("a1")
    assert world.ask(world.lan, "tcp", HOST[4], 9090).startswith("b1")
    other.destroy()
    assert tables() == before


def test_calls_act_where_the_back_end_was_made(host: Host, lan: Lan, make: Callable[..., FirewallBackend]) -> None:
    firewall = make()
    lan.call(firewall.replace, [rules("a")], [])
    assert same(firewall.state(), [rules("a")], [])
    assert not any(lan.call(tables).values())


def test_a_change_that_is_refused_changes_nothing(host: Host, make: Callable[..., FirewallBackend]) -> None:
    firewall = make()
    port = PortRule("tcp", "", 80, "10.77.1.2", 80, "pba")
    firewall.replace([rules("a")], [port])
    before = tables()
    for bad in (
        PortRule("tcp", "", -1, "10.77.1.2", 80, "pba"),
        PortRule("tcp", "", 0, "10.77.1.2", 80, "pba", "fd77:1::3"),
        PortRule("tcp", "", 8080, "10.77.1.2", 80, "pba", "10.77.1.3"),
        PortRule("tcp", "", 0, "10.77.1.2", 80, "pba", "box"),
        PortRule("icmp", "", 80, "10.77.1.2", 80, "pba"),
        PortRule("tcp", "", 80, '10.77.1.2 } ; flush ruleset"', 80, "pba"),
        PortRule("tcp", "::1", 80, "10.77.1.2", 80, "pba"),
        PortRule("tcp", "", 80, "10.77.1.2", 80, 'x" accept'),
    ):
        with pytest.raises(InvalidArgument):
            firewall.add_ports([replace(port, host_port=81), bad])
    with pytest.raises(InvalidArgument):
        firewall.add_network(rules("b", bridge="br0; reboot"))
    assert tables() == before
