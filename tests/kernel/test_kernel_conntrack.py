"""Forgetting flows: a UDP client that keeps its source port must be sent anew after a port was moved; the next container
of an address must not inherit the connections of the last."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from pynet.netlib.kernel import conntrack, sysctl
from pynet.netlib.kernel.conntrack import ANY, Conntrack
from pynet.netlib.kernel.netlink import NetlinkSocket, nested
from pynet.netlib.kernel.rtnetlink import RouteInfo
from pynet.plugins.testhost import Host, Lan

from support.waiting import PATIENCE

RULES = """
table inet test {
  chain input { type filter hook input priority 0; ct state established accept; }
  chain forward { type filter hook forward priority 0; ct state established accept; }
  chain pre { type nat hook prerouting priority -100; udp dport 5300 redirect to :5301; }
}
"""
FOREIGN = {4: "198.51.100.7", 6: "2001:db8:7::7"}


def _udp(address: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.bind((address, port))
    return sock


def _nobody(addresses: object) -> set[str]:
    raise AssertionError(f"asked for {addresses}")


@pytest.fixture
def tracked(host: Host) -> Iterator[Conntrack]:
    host.run(["nft", "-f", "-"], input=RULES)
    with Conntrack() as tracked:
        yield tracked
    host.run(["nft", "delete table inet test"])


@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_forgotten_by_port(tracked: Conntrack, host: Host, lan: Lan, version: int) -> None:
    server_ip, client_ip = (lan.host_address, lan.address) if version == 4 else (lan.host_address6, lan.address6)

    def flush(proto: int, *destinations: tuple[str, int]) -> int:
        return tracked.flush_ports(proto, destinations, local=host.rtnl.local)

    with _udp(server_ip, 5301) as old, _udp(server_ip, 5302) as new, lan.call(_udp, client_ip) as client:
        client.sendto(b"one", (server_ip, 5300))
        assert old.recv(10) == b"one"
        flow = next(flow for flow in tracked.flows() if flow.destination_port == 5300)
        assert (flow.source, flow.destination, flow.reply_port) == (client_ip, server_ip, 5301)

        host.run(["nft", "flush chain inet test pre; add rule inet test pre udp dport 5300 redirect to :5302"])
        client.sendto(b"two", (server_ip, 5300))
        assert old.recv(10) == b"two", "the flow was not tracked, so the test proves nothing"

        other = ANY[10 - version]
        assert flush(socket.IPPROTO_UDP) == 0
        assert flush(socket.IPPROTO_UDP, (server_ip, 5299), (server_ip, 5301)) == 0
        assert flush(socket.IPPROTO_TCP, (server_ip, 5300)) == 0
        assert flush(socket.IPPROTO_UDP, (client_ip, 5300)) == 0
        assert flush(socket.IPPROTO_UDP, (client_ip, 5300), (server_ip, 5299)) == 0
        assert flush(socket.IPPROTO_UDP, (other, 5300)) == 0
        assert flush(socket.IPPROTO_UDP, (server_ip, 5300), (other, 5300)) == 1
        client.sendto(b"three", (server_ip, 5300))
        assert new.recv(10) == b"three"
        assert flush(socket.IPPROTO_UDP, *((ANY[version], port) for port in range(5000, 6000))) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_port_on_every_address_is_nobody_elses(tracked: Conntrack, host: Host, lan: Lan, version: int) -> None:
    """A DNS question that passes through keeps its way back when 53/udp is published on the host."""
    own, client_ip = (lan.host_address, lan.address) if version == 4 else (lan.host_address6, lan.address6)
    foreign = FOREIGN[version]
    prefix = f"{foreign}/{32 if version == 4 else 128}"
    with _udp(own) as asking, lan.call(_udp, client_ip) as client:
        host.rtnl.add_route(RouteInfo(prefix, gateway=client_ip))
        asking.sendto(b"?", (foreign, 53))
        client.sendto(b"?", (own, 53))
        assert {flow.destination for flow in tracked.flows() if flow.destination_port == 53} == {own, foreign}
        assert host.rtnl.local([own, foreign, client_ip]) == {own}
        assert tracked.flush_ports(socket.IPPROTO_UDP, [(ANY[version], 53)], local=host.rtnl.local) == 1
        assert {flow.destination for flow in tracked.flows() if flow.destination_port == 53} == {foreign}
        # what is named needs no asking
        assert tracked.flush_ports(socket.IPPROTO_UDP, [(foreign, 53)], local=set) == 1
        host.rtnl.delete_route(RouteInfo(prefix, gateway=client_ip))


@pytest.fixture(params=["in the kernel", "one dump", "dumps by the kernel's filter"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How flows of addresses are found; which one is chosen depends on how many there are."""
    way: str = request.param
    if way != "in the kernel":
        monkeypatch.setattr(conntrack, "FEW_ADDRESSES", 0)
    if way == "dumps by the kernel's filter":
        monkeypatch.setattr(conntrack, "FEW", 0)
    return way


@pytest.mark.usefixtures("way")
def test_nothing_is_left_of_an_address(tracked: Conntrack, lan: Lan) -> None:
    both = [(lan.host_address, lan.address), (lan.host_address6, lan.address6)]
    for server_ip, client_ip in both:
        with _udp(server_ip, 7000) as server, lan.call(_udp, client_ip) as client, _udp(server_ip) as other:
            client.sendto(b"x", (server_ip, 7000))  # it opened
            assert server.recv(10) == b"x"
            other.sendto(b"y", (client_ip, 9))  # it was sent, and did not answer
        family = socket.AF_INET6 if ":" in server_ip else socket.AF_INET
        with socket.create_server((server_ip, 7000), family=family), lan.connect((server_ip, 7000)):
            pass
    # an echo request and its answer: 30 seconds in which the next of that address may be pinged
    for server_ip, client_ip in both:
        family, proto = (socket.AF_INET6, 58) if ":" in server_ip else (socket.AF_INET, 1)
        with socket.socket(family, socket.SOCK_RAW, proto) as ping:
            ping.settimeout(PATIENCE)
            kind = 128 if proto == 58 else 8
            checksum = 0 if proto == 58 else 0xFFFF - (kind << 8) - 1
            ping.sendto(bytes([kind, 0]) + checksum.to_bytes(2) + b"\0\0\0\1", (client_ip, 0))
    for server_ip, client_ip in both:
        mine = [flow for flow in tracked.flows() if client_ip in (flow.source, flow.destination)]
        assert {flow.proto for flow in mine} >= {6, 17, 58 if ":" in client_ip else 1}
        assert {flow.source for flow in mine} == {server_ip, client_ip}
    bystander = _udp(lan.host_address)
    with bystander:
        bystander.sendto(b"z", (FOREIGN[4], 9))
    before = tracked.flows()
    for nobodys in ([], [FOREIGN[6]]):
        tracked.flush_addresses(nobodys)
        assert set(tracked.flows()) == set(before)
    tracked.flush_addresses([client_ip for _, client_ip in both])
    left = tracked.flows()
    assert len(before) - len(left) >= 8
    for _, client_ip in both:
        assert not [flow for flow in left if client_ip in (flow.source, flow.destination, flow.reply_source)]
    assert FOREIGN[4] in {flow.destination for flow in left}, "nobody else's is touched"


@pytest.mark.usefixtures("way")
def test_a_container_behind_a_published_port_is_forgotten(tracked: Conntrack, host: Host, lan: Lan) -> None:
    """Its address is in the answer alone: the client spoke to the host's.  Or, with a rule of somebody else, in the
    question alone."""
    sysctl.write("net.ipv4.ip_forward", 1)
    host.run(["nft", "add rule inet test pre ip daddr 192.0.2.1 udp dport 5400 dnat ip to 192.0.2.200:80"])
    with lan.call(_udp, lan.address) as client:
        client.sendto(b"x", (lan.host_address, 5400))
    (flow,) = (flow for flow in tracked.flows() if flow.destination_port == 5400)
    assert (flow.destination, flow.reply_source, flow.reply_port) == (lan.host_address, "192.0.2.200", 80)
    before = tracked.flows()
    tracked.flush_addresses(["192.0.2.200"])
    assert set(before) - set(tracked.flows()) == {flow}

    host.run(["nft", f"add rule inet test pre ip daddr {FOREIGN[4]} udp dport 5500 redirect to :5301"])
    lan.rtnl.add_route(RouteInfo(f"{FOREIGN[4]}/32", gateway=lan.host_address))
    with lan.call(_udp, lan.address) as client:
        client.sendto(b"x", (FOREIGN[4], 5500))
    (flow,) = (flow for flow in tracked.flows() if flow.destination_port == 5500)
    assert (flow.destination, flow.reply_source) == (FOREIGN[4], lan.host_address)
    before = tracked.flows()
    tracked.flush_addresses([FOREIGN[4]])
    assert set(before) - set(tracked.flows()) == {flow}


def test_a_flow_that_was_made_anew_meanwhile_is_left_alone(
    tracked: Conntrack, host: Host, lan: Lan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the deleting it may end and begin again, with the same tuple: its id is another."""
    client = lan.call(_udp, lan.address)
    delete = conntrack._delete
    counts: list[int] = []

    def meanwhile(netlink: NetlinkSocket, doomed: list[dict[int, bytes]]) -> int:
        counts.append(delete(netlink, doomed))
        for port in range(8000, 8020):  # or the new flow might get the old one's memory, from which its id is made
            client.sendto(b"x", (lan.host_address, port))
        client.sendto(b"x", (lan.host_address, 7000))
        counts.append(delete(netlink, doomed))
        return sum(counts)

    with client:
        client.sendto(b"x", (lan.host_address, 7000))
        monkeypatch.setattr(conntrack, "FEW_ADDRESSES", 0)
        monkeypatch.setattr(conntrack, "_delete", meanwhile)
        tracked.flush_addresses([lan.address])
        assert counts == [1, 1], "asked for twice"
        assert [flow for flow in tracked.flows() if flow.destination_port == 7000], "the second flow was not looked at"


def test_a_namespace_that_tracks_nothing_is_not_walked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def dump(*_: object) -> None:
        raise AssertionError("the hash table of the whole machine was walked")

    monkeypatch.setattr(conntrack, "dump", dump)
    monkeypatch.setattr(conntrack, "FEW_ADDRESSES", 0)
    with Conntrack() as tracked:
        assert tracked.count() == 0
        tracked.flush_addresses(["10.0.0.2"])
        assert tracked.flush_ports(socket.IPPROTO_UDP, [("10.0.0.2", 53)], local=_nobody) == 0


def test_the_flows_are_those_of_its_namespace_whoever_asks(tracked: Conntrack, host: Host, lan: Lan) -> None:
    thread = lan.netns_thread
    with lan.call(_udp, lan.address) as client:
        client.sendto(b"x", (lan.host_address, 7000))
    asked_there = threading.Thread(target=lambda: lan.call(tracked.flush_addresses, [lan.address]))
    with Conntrack(lambda: thread.socket(lan.fd, socket.AF_NETLINK, socket.SOCK_RAW, 12)) as others:
        assert others.flows() == [], "nothing is tracked in there"
        assert lan.address in {flow.source for flow in tracked.flows()}
    asked_there.start()
    asked_there.join()
    assert lan.address not in {flow.source for flow in tracked.flows()}


def test_the_filter_works_in_the_kernel(tracked: Conntrack, lan: Lan) -> None:
    """The flows of everybody else must not be carried over to find one."""
    with lan.call(_udp, lan.address) as client:
        for port in (7000, 7001, 7002):
            client.sendto(b"x", (lan.host_address, port))
    select = conntrack.select_ports(socket.IPPROTO_UDP, frozenset({7001}))
    with NetlinkSocket(conntrack.NETLINK_NETFILTER) as netlink:
        assert len(conntrack.dump(netlink, socket.AF_INET)) >= 3
        found = [flow.destination_port for flow, _raw in conntrack.dump(netlink, socket.AF_INET, select)]
        assert found == [7001]
        for select, count in (
            (conntrack.select_address(lan.host_address, reply=True), 3),
            (conntrack.select_address(lan.host_address, sent=True), 3),
            (conntrack.select_address(lan.address), 3),
            (conntrack.select_address(lan.host_address), 0),
        ):
            assert len(conntrack.dump(netlink, socket.AF_INET, select)) == count


def test_a_kernel_that_deletes_by_no_filter_is_asked_once(
    tracked: Conntrack, lan: Lan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the filter's half of a tuple for a tuple that lacks the rest."""

    def half(address: str, **_: bool) -> bytes:
        asked.append(address)
        return nested(conntrack.CTA_TUPLE_ORIG)

    asked: list[str] = []
    for attempt in range(2):
        with lan.call(_udp, lan.address) as client:
            client.sendto(b"x", (lan.host_address, 7000))
        with monkeypatch.context() as patched:
            patched.setattr(conntrack, "select_address", half)
            tracked.flush_addresses([lan.address])
        assert lan.address not in {flow.source for flow in tracked.flows()}
        assert len(asked) == 3, f"attempt {attempt}"
