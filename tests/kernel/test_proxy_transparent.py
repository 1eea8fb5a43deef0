"""Transparent mode on a host with a bridge: a server in a container sees the address of a client on the LAN.

The host is prepared with the very commands that docs/proxy.md gives an administrator.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pynet.netlib.errors import InvalidArgument, NotSupported
from pynet.netlib.kernel.rtnetlink import RouteInfo
from pynet.plugins.testhost import Host, Lan, Namespace
from pynet.proxy.api import Forwarder
from pynet.proxy.dataplane import transparent
from pynet.proxy.ports import parse_target
from pynet.proxy.process.client import ForwarderClient, Listen

DOCUMENT = Path(__file__).parents[2] / "docs" / "proxy.md"
INSIDE, INSIDE6 = "10.9.0.2", "fd09::2"
UNDO = """
nft delete table inet transparent
ip rule del fwmark 0x1 lookup 100
ip -6 rule del fwmark 0x1 lookup 100
ip route flush table 100
ip -6 route flush table 100
"""


@pytest.fixture
def container(host: Host) -> Iterator[Namespace]:
    """A namespace behind the bridge br0 of *host*."""
    container = host.namespace()
    bridge = host.rtnl.add_bridge("br0")
    index, peer = host.rtnl.add_veth("pv0", "eth0", netns_fd=container.fd, master=bridge)
    host.rtnl.configure(bridge, addresses=[("10.9.0.1", 24), ("fd09::1", 64)], lo_up=False)
    routes = [RouteInfo(gateway="10.9.0.1"), RouteInfo(gateway="fd09::1")]
    container.rtnl.configure(peer, addresses=[(INSIDE, 24), (INSIDE6, 64)], routes=routes)
    host.rtnl.wait_up(bridge)
    container.rtnl.wait_up(peer)
    yield container
    container.close()
    host.rtnl.delete_link(index)
    host.rtnl.delete_link(bridge)


@pytest.fixture
def routed(host: Host, container: Namespace) -> Iterator[None]:
    found = re.search(r"to this host itself:\n\n```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    with open("/proc/sys/net/ipv4/conf/all/rp_filter", "r+") as setting:
        setting.write("0")
    host.run(["sh", "-e"], input=found[1])
    yield
    host.run(["sh", "-e"], input=UNDO)


@pytest.fixture
async def forwarder(host: Host) -> AsyncIterator[Forwarder]:
    async with Forwarder() as forwarder:
        yield forwarder


def _exchange(client: socket.socket, server: socket.socket) -> tuple[str, str]:
    """(who the server sees, who the client is) of a connection that has carried something both ways."""
    server.settimeout(20)
    with client, server.accept()[0] as peer:
        client.settimeout(20)
        peer.settimeout(20)
        client.sendall(b"question")
        assert peer.recv(8) == b"question"
        peer.sendall(b"answer")
        assert client.recv(6) == b"answer"
        return peer.getpeername()[0], client.getsockname()[0]


@pytest.mark.usefixtures("routed")
@pytest.mark.parametrize("version", [4, 6])
async def test_a_server_sees_the_client(lan: Lan, container: Namespace, forwarder: Forwarder, version: int) -> None:
    outside, inside, client = (
        (lan.host_address, INSIDE, lan.address) if version == 4 else (lan.host_address6, INSIDE6, lan.address6)
    )
    with container.listen((inside, 0)) as server:
        target = server.getsockname()[:2]
        plain = await forwarder.forward_tcp((outside, 0), target)
        shown = await forwarder.forward_tcp((outside, 0), target, transparent=True)
        assert _exchange(lan.connect(plain.address), server) == (
            INSIDE[:-1] + "1" if version == 4 else "fd09::1",
            client,
        )
        assert _exchange(lan.connect(shown.address), server) == (client, client)
        both = await forwarder.forward_tcp(("::", 0), target, transparent=True)
        assert _exchange(lan.connect((outside, both.address[1])), server) == (client, client)
        stats = await shown.stats()
        assert (stats["connections"], stats["errors"], stats["refused"]) == (1, 0, 0)


@pytest.mark.usefixtures("routed")
async def test_bulk_goes_both_ways(lan: Lan, container: Namespace, forwarder: Forwarder) -> None:
    """Also from a bulk worker: the sockets keep what they were bound to."""
    with container.listen((INSIDE, 0)) as server:
        port = await forwarder.forward_tcp((lan.host_address, 0), server.getsockname(), transparent=True)
        server.settimeout(20)
        with lan.connect(port.address) as client, server.accept()[0] as peer:
            client.settimeout(20)
            peer.settimeout(20)
            block = bytes(1 << 16)
            for here, there in ((client, peer), (peer, client)):
                for _ in range(160):
                    here.sendall(block)
                    left = len(block)
                    while left:
                        left -= len(there.recv(left))
            assert peer.getpeername()[0] == lan.address


@pytest.mark.usefixtures("routed")
async def test_who_has_no_address_to_show_comes_from_the_host(container: Namespace, forwarder: Forwarder) -> None:
    with container.listen((INSIDE, 0)) as server:
        port = await forwarder.forward_tcp(("::", 0), server.getsockname(), transparent=True)
        for address in ("127.0.0.1", "::1"):
            client = socket.create_connection((address, port.address[1]), timeout=20)
            assert _exchange(client, server) == ("10.9.0.1", address)


async def test_two_families_are_refused(forwarder: Forwarder) -> None:
    for listen, target in (("127.0.0.1", INSIDE6), ("::1", INSIDE)):
        with pytest.raises(InvalidArgument, match="one address family") as caught:
            await forwarder.forward_tcp((listen, 0), (target, 80), transparent=True)
        assert "PROXY protocol" in caught.value.hint


async def test_without_the_right_it_is_refused_and_leaves_the_rest(host: Host, tmp_path: Path) -> None:
    read, write = os.pipe()
    words = ["setpriv", "--bounding-set=-all", sys.executable, "-I", "-m", "pynet.proxy.process.forwarder"]
    process = host.popen([*words, "--run", str(tmp_path), "--ready-fd", str(write)], pass_fds=[write])
    os.close(write)
    with os.fdopen(read, "rb") as ready:
        assert ready.read() == b"0\n"
    client = ForwarderClient(str(tmp_path / "forwarder.sock"))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        client.listen([Listen("plain", "tcp", "127.0.0.1", 9, sock)])
        with pytest.raises(NotSupported, match="right to bind foreign addresses") as caught:
            client.listen([Listen("shown", "tcp", "127.0.0.1", 9, sock, transparent=True)])
        assert "CAP_NET_ADMIN" in caught.value.hint
        with pytest.raises(NotSupported):
            client.listen([Listen("plain", "tcp", "127.0.0.1", 9, sock, transparent=True)])
        (held,) = client.fetch()
        assert isinstance(held.sock, socket.socket)
        held.sock.close()
        assert (held.id, held.transparent) == ("plain", False)
    client.shutdown()
    assert process.wait(20) == 0


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::9"])
def test_which_port_the_client_has_there_is_decided_when_it_is_known_who_is_connected_to(
    host: Host, address: str
) -> None:
    """Decided at the bind, a port is one for all targets, and 28,000 connections of one client are the end."""
    target = parse_target([address, 80])
    with socket.socket(target.family, socket.SOCK_STREAM) as sock:
        transparent.bind(sock, (address, 40000), target)
        assert sock.getsockname()[:2] == (address, 0)
