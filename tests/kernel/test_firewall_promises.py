"""What both firewall back ends promise of their calls: repeated, read back, refused, many at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pynet.netlib.errors import InvalidArgument
from pynet.netlib.firewall.intents import FirewallBackend, NetworkRules, PortRule, check_network, check_port
from pynet.plugins.testhost import Host, Lan

from support.firewall import (
    HOST,
    World,
    rules,
    run,
    same,
    tables,
)


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
