"""Forgetting flows: a UDP client that keeps its source port must be sent anew after a port was moved."""

from __future__ import annotations

import socket

import pytest

from pynet.netlib.kernel import conntrack
from pynet.netlib.kernel.netlink import NetlinkSocket
from pynet.plugins.testhost import Host, Lan

RULES = """
table inet test {
  chain input { type filter hook input priority 0; ct state established accept; }
  chain pre { type nat hook prerouting priority -100; udp dport 5300 redirect to :5301; }
}
"""


def _udp(address: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind((address, port))
    return sock


@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_forgotten_by_port(host: Host, lan: Lan, version: int) -> None:
    host.run(["nft", "-f", "-"], input=RULES)
    server_ip, client_ip = (lan.host_address, lan.address) if version == 4 else (lan.host_address6, lan.address6)
    with _udp(server_ip, 5301) as old, _udp(server_ip, 5302) as new, lan.call(_udp, client_ip) as client:
        client.sendto(b"one", (server_ip, 5300))
        assert old.recv(10) == b"one"
        flow = next(flow for flow in conntrack.flows() if flow.destination_port == 5300)
        assert (flow.source, flow.destination, flow.reply_port) == (client_ip, server_ip, 5301)

        host.run(["nft", "flush chain inet test pre; add rule inet test pre udp dport 5300 redirect to :5302"])
        client.sendto(b"two", (server_ip, 5300))
        assert old.recv(10) == b"two", "the flow was not tracked, so the test proves nothing"

        assert conntrack.flush_ports(socket.IPPROTO_UDP, {5299}) == 0
        assert conntrack.flush_ports(socket.IPPROTO_UDP, {5299, 5301}) == 0
        assert conntrack.flush_ports(socket.IPPROTO_UDP, ()) == 0
        assert conntrack.flush_ports(socket.IPPROTO_TCP, {5300}) == 0
        assert conntrack.flush_ports(socket.IPPROTO_UDP, {5300}, destination=client_ip) == 0
        assert conntrack.flush_ports(socket.IPPROTO_UDP, {5300}) == 1
        client.sendto(b"three", (server_ip, 5300))
        assert new.recv(10) == b"three"
        assert conntrack.flush_ports(socket.IPPROTO_UDP, range(5000, 6000), destination=server_ip) == 1
    host.run(["nft", "delete table inet test"])


@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_forgotten_by_address(host: Host, lan: Lan, version: int) -> None:
    host.run(["nft", "-f", "-"], input=RULES)
    server_ip, client_ip = (lan.host_address, lan.address) if version == 4 else (lan.host_address6, lan.address6)
    with _udp(server_ip, 7000) as server, lan.call(_udp, client_ip) as client:
        client.sendto(b"x", (server_ip, 7000))
        assert server.recv(10) == b"x"
        with _udp(server_ip) as other:
            other.sendto(b"y", (client_ip, 9))  # to nobody: the flow is there all the same
        assert {flow.source for flow in conntrack.flows()} >= {server_ip, client_ip}
        assert conntrack.flush_address(client_ip) == 2
        assert not [flow for flow in conntrack.flows() if client_ip in (flow.source, flow.destination)]
        assert conntrack.flush_address(client_ip) == 0
    host.run(["nft", "delete table inet test"])


def test_the_filter_works_in_the_kernel(host: Host, lan: Lan) -> None:
    """The flows of everybody else must not be carried over to find one."""
    host.run(["nft", "-f", "-"], input=RULES)
    with lan.call(_udp, lan.address) as client:
        for port in (7000, 7001, 7002):
            client.sendto(b"x", (lan.host_address, port))
    select = conntrack.select_ports(socket.IPPROTO_UDP, frozenset({7001}))
    with NetlinkSocket(conntrack.NETLINK_NETFILTER) as netlink:
        assert len(conntrack.dump(netlink, socket.AF_INET)) >= 3
        found = [flow.destination_port for flow, _raw in conntrack.dump(netlink, socket.AF_INET, select)]
        assert found == [7001]
        select = conntrack.select_source(lan.host_address, reply=True)
        assert len(conntrack.dump(netlink, socket.AF_INET, select)) == 3
    host.run(["nft", "delete table inet test"])
