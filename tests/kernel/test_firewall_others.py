"""Both firewall back ends beside the user's own rules and other programs': what comes first, what is mended, what is told."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from pynet.netlib.firewall.intents import FirewallBackend, PortRule
from pynet.netlib.kernel import sysctl
from pynet.plugins.testhost import Host, Lan, Namespace

from support.firewall import (
    HOST,
    LAN,
    SERVED,
    World,
    rules,
    run,
    same,
    tables,
)
from support.waiting import PATIENCE, SILENCE


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
