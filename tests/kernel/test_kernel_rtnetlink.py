"""rtnetlink against the kernel: what is asked for is there, what fails says which step."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.errors import InvalidArgument
from pynet.netlib.kernel.netlink import CHUNK
from pynet.netlib.kernel.rtnetlink import NetlinkError, RouteInfo, Rtnetlink
from pynet.netlib.kernel.rtnl_links import OPERSTATE_UP
from pynet.plugins.testhost import Host, Lan, Namespace

MAC = "02:42:0a:00:00:02"
STARTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}


@pytest.fixture
def bridge(host: Host) -> Iterator[int]:
    index = host.rtnl.add_bridge("br0", mac="02:42:0a:00:00:01", mtu=1400, group=4242)
    yield index
    host.rtnl.delete_link(index)


@pytest.fixture
def box(host: Host) -> Iterator[Namespace]:
    box = host.namespace()
    yield box
    box.close()


def _join(host: Host, box: Namespace, bridge: int, number: int) -> int:
    index, peer = host.rtnl.add_veth(f"v{number}", "eth0", netns_fd=box.fd, master=bridge, mtu=1400, group=4242)
    addresses = [(f"10.0.0.{number}", 24), (f"fd00::{number}", 64)]
    box.rtnl.configure(peer, addresses=addresses, routes=[RouteInfo(gateway="10.0.0.1"), RouteInfo(gateway="fd00::1")])
    host.rtnl.wait_up(index)
    return index


def _talk(server: Namespace, client: Namespace, address: str) -> str:
    """Send a greeting over TCP; return the address that the server saw."""
    with server.listen((address, 0)) as listener, client.connect(listener.getsockname()[:2]) as outgoing:
        incoming, peer = listener.accept()
        with incoming:
            outgoing.sendall(b"hello")
            assert incoming.recv(5) == b"hello"
    return str(peer[0])


def test_a_lan_client_reaches_the_host(host: Host, lan: Lan) -> None:
    assert _talk(host, lan, lan.host_address) == lan.address
    assert _talk(host, lan, lan.host_address6) == lan.address6


def test_two_namespaces_talk_over_the_bridge(host: Host, bridge: int, box: Namespace) -> None:
    host.rtnl.add_address(bridge, "10.0.0.1", 24)
    host.rtnl.add_address(bridge, "fd00::1", 64)
    other = host.namespace()
    indices = [_join(host, box, bridge, 2), _join(host, other, bridge, 3)]
    try:
        assert _talk(box, other, "10.0.0.2") == "10.0.0.3"
        assert _talk(other, box, "fd00::3") == "fd00::2"
        assert _talk(host, box, "10.0.0.1") == "10.0.0.2"
    finally:
        host.rtnl.delete_links(indices)
        other.close()


def test_a_join_forks_nothing_and_leaks_nothing(host: Host, bridge: int, tmp_path: Path) -> None:
    def join() -> None:
        pin = str(tmp_path / "pin")
        thread = host.netns_thread
        fd = thread.create(pin)
        index, peer = host.rtnl.add_veth("v2", "eth0", netns_fd=fd, master=bridge)
        with Rtnetlink(thread.socket(fd, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)) as inside:
            inside.configure(peer, addresses=[("10.0.0.2", 24)], routes=[RouteInfo(gateway="10.0.0.1")])
        host.rtnl.wait_up(index)
        host.rtnl.delete_link(index)
        os.close(fd)
        thread.delete(pin)

    join()
    descriptors = len(os.listdir("/proc/self/fd"))
    started: list[str] = []
    watching = True

    def watch(event: str, _arguments: tuple[object, ...]) -> None:  # an audit hook stays until the process ends
        if watching and event in STARTS:
            started.append(event)

    sys.addaudithook(watch)
    for _ in range(5):
        join()
    watching = False
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not started


def test_links_are_what_was_asked_for(host: Host, bridge: int, box: Namespace) -> None:
    found = host.rtnl.link("br0")
    assert found is not None and found == host.rtnl.link(bridge)
    assert (found.index, found.name, found.kind, found.mac) == (bridge, "br0", "bridge", "02:42:0a:00:00:01")
    assert (found.mtu, found.group, found.up, found.master) == (1400, 4242, True, 0)

    index, peer = host.rtnl.add_veth(
        "v2", "eth0", netns_fd=box.fd, mac=MAC, host_mac="02:42:ff:00:00:02", mtu=1400, master=bridge, group=4242
    )
    end, inner = host.rtnl.link(index), box.rtnl.link(peer)
    assert end is not None and inner is not None
    assert (end.kind, end.master, end.mtu, end.mac, end.group) == ("veth", bridge, 1400, "02:42:ff:00:00:02", 4242)
    assert (inner.name, inner.mac, inner.mtu, inner.up, inner.index) == ("eth0", MAC, 1400, False, end.peer)
    assert [link.name for link in host.rtnl.links(group=4242)] == ["br0", "v2"]
    host.rtnl.delete_link("v2")
    assert host.rtnl.link("v2") is None and box.rtnl.link(peer) is None


def test_a_kernel_that_does_not_echo_is_asked(host: Host, box: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.2 RTM_NEWLINK was not echoed."""
    monkeypatch.setattr("pynet.netlib.kernel.rtnl_links.NLM_F_ECHO", 0)
    index, peer = host.rtnl.add_veth("v2", "eth0", netns_fd=box.fd)
    inner = box.rtnl.link("eth0")
    assert inner is not None and inner.index == peer
    host.rtnl.delete_link(index)


def test_links_are_changed(host: Host, bridge: int) -> None:
    rtnl = host.rtnl
    index, _peer = rtnl.add_veth("v0", "v1", netns_fd=-1, up=False)
    rtnl.set_link(index, name="v9", mac=MAC, mtu=1300, group=7, alias="web", up=True, master=bridge)
    found = rtnl.link(index)
    assert found is not None
    assert (found.name, found.mac, found.mtu, found.group) == ("v9", MAC, 1300, 7)
    assert (found.alias, found.up, found.master) == ("web", True, bridge)
    rtnl.set_link(index, alias="", up=False, master=0)
    found = rtnl.link(index)
    assert found is not None and (found.alias, found.up, found.master) == ("", False, 0)
    rtnl.delete_link(index)


def test_bridge_port_options(host: Host, bridge: int, box: Namespace) -> None:
    def port(name: str) -> list[str]:
        shown = host.run(["bridge", "-d", "link", "show", "dev", name]).stdout.split()
        return [shown[shown.index(option) + 1] for option in ("hairpin", "isolated")]

    index, _ = host.rtnl.add_veth("v2", "eth0", netns_fd=box.fd, master=bridge, hairpin=True)
    assert port("v2") == ["on", "off"]
    host.rtnl.set_link(index, hairpin=False, isolated=True)
    assert port("v2") == ["off", "on"]
    host.rtnl.delete_link(index)


def test_routes(host: Host, lan: Lan) -> None:
    rtnl = host.rtnl
    eth0 = rtnl.link("eth0")
    assert eth0 is not None
    wanted = [
        RouteInfo("198.51.100.0/24", gateway=lan.address, metric=50, version=4, device=eth0.index),
        RouteInfo("203.0.113.7/32", device=eth0.index, version=4),
        RouteInfo("2001:db8:1::/48", gateway=lan.address6, metric=9, version=6, device=eth0.index),
        RouteInfo("10.9.0.0/16", gateway="10.77.0.1", onlink=True, device=eth0.index, version=4),
    ]
    for route in wanted:
        rtnl.add_route(route)
    assert set(wanted) <= {*rtnl.routes(4), *rtnl.routes(6)}
    with pytest.raises(NetlinkError) as caught:
        rtnl.add_route(wanted[0])
    assert (caught.value.errno, caught.value.step) == (errno.EEXIST, "add route 198.51.100.0/24 via 192.0.2.2")
    rtnl.add_route(wanted[0], replace=True)
    for route in [*wanted, *wanted]:
        rtnl.delete_route(route)
    assert not set(wanted) & {*rtnl.routes(4), *rtnl.routes(6)}
    default = next(route for route in rtnl.routes(6) if route.destination == "default")
    assert (default.gateway, default.device) == (lan.address6, eth0.index)


def test_addresses(host: Host, bridge: int) -> None:
    host.rtnl.add_address(bridge, "fd00::1", 64)
    host.rtnl.add_address(bridge, "10.0.0.1", 24)
    found = {(item.address, item.prefix): item for item in host.rtnl.addresses(bridge)}
    assert {("fd00::1", 64), ("10.0.0.1", 24)} <= set(found)
    assert found["fd00::1", 64].flags & 0x42 == 0x02, "NODAD is set and the address is not tentative"
    with socket.create_server(("fd00::1", 0), family=socket.AF_INET6):
        pass  # a tentative address could not be bound
    with pytest.raises(NetlinkError, match=r"add address 10\.0\.0\.1/24: File exists"):
        host.rtnl.add_address(bridge, "10.0.0.1", 24)
    for _ in range(2):
        host.rtnl.delete_address(bridge, "10.0.0.1", 24)
    assert ("10.0.0.1", 24) not in {(item.address, item.prefix) for item in host.rtnl.addresses(bridge)}


def test_what_went_with_its_link_is_gone_already(host: Host) -> None:
    index = host.rtnl.add_bridge("br0")
    route4, route6 = (RouteInfo(prefix, device=index) for prefix in ("10.1.0.0/16", "fd01::/64"))
    for address, prefix in (("10.0.0.1", 24), ("fd00::1", 64)):
        host.rtnl.add_address(index, address, prefix)
    for route in (route4, route6):
        host.rtnl.add_route(route)
    host.rtnl.delete_link(index)
    for address, prefix in (("10.0.0.1", 24), ("fd00::1", 64)):
        host.rtnl.delete_address(index, address, prefix)
    for route in (route4, route6):
        host.rtnl.delete_route(route)


def test_many_links_go_at_once(host: Host) -> None:
    count = CHUNK + 6  # more than one datagram
    indices = [host.rtnl.add_veth(f"v{number}", f"w{number}", netns_fd=-1)[0] for number in range(count)]
    host.rtnl.delete_link(indices[0])
    survivor, _ = host.rtnl.add_veth("other", "other1", netns_fd=-1)
    host.rtnl.delete_links([*indices, 99999])
    assert [link.name for link in host.rtnl.links()] == ["lo", "other1", "other"]
    host.rtnl.delete_links(indices)
    host.rtnl.delete_links([survivor])
    host.rtnl.delete_links([])


FAILING: list[tuple[str, dict[str, Any]]] = [
    ("change link {index}", {"mtu": 1}),
    ("add address 10.0.0.2/24", {"addresses": [("10.0.0.2", 24), ("10.0.0.2", 24)]}),
    ("add address fd00::2/64", {"addresses": [("fd00::2", 64), ("fd00::2", 64)]}),
    ("add route default via 10.9.0.1", {"routes": [RouteInfo(gateway="10.9.0.1"), RouteInfo("10.1.0.0/16")]}),
    ("add route 10.1.0.0/16", {"routes": [RouteInfo("10.1.0.0/16"), RouteInfo("10.1.0.0/16")]}),
]


@pytest.mark.parametrize(("step", "arguments"), FAILING)
def test_a_failing_step_is_named_and_can_be_undone(
    host: Host, bridge: int, box: Namespace, step: str, arguments: dict[str, Any]
) -> None:
    index, peer = host.rtnl.add_veth("v2", "eth0", netns_fd=box.fd, master=bridge)
    with pytest.raises(NetlinkError) as caught:
        box.rtnl.configure(peer, **arguments)
    assert caught.value.step == step.format(index=peer)
    host.rtnl.delete_link(index)
    assert [link.name for link in box.rtnl.links()] == ["lo"]
    assert not box.rtnl.routes(4)


def test_a_link_that_is_gone_is_named(host: Host) -> None:
    with pytest.raises(NetlinkError, match="set link 99 up: No such device") as caught:
        host.rtnl.configure(99)
    assert caught.value.errno == errno.ENODEV


def test_the_kernels_own_words_are_in_the_error(host: Host) -> None:
    with pytest.raises(NetlinkError, match=r"add route default via 10\.9\.0\.1: .*\(Nexthop has invalid gateway\)"):
        host.rtnl.add_route(RouteInfo(gateway="10.9.0.1"))


def test_a_veth_that_fails_half_way_leaves_nothing(host: Host, box: Namespace) -> None:
    with pytest.raises(NetlinkError) as caught:  # a hairpin needs a bridge
        host.rtnl.add_veth("v2", "eth0", netns_fd=box.fd, hairpin=True)
    assert caught.value.step == "set bridge port v2"
    with pytest.raises(NetlinkError, match="add veth v2"):
        host.rtnl.add_veth("v2", "eth0", netns_fd=box.fd, master=99)
    with pytest.raises(NetlinkError, match="add veth v2: Bad file descriptor"):
        host.rtnl.add_veth("v2", "eth0", netns_fd=999)
    assert host.rtnl.link("v2") is None and box.rtnl.link("eth0") is None


def test_a_taken_name_is_not_ours_to_remove(host: Host, bridge: int, box: Namespace) -> None:
    with pytest.raises(NetlinkError) as caught:
        host.rtnl.add_bridge("br0")
    assert (caught.value.errno, str(caught.value)) == (errno.EEXIST, "add bridge br0: File exists")
    with pytest.raises(NetlinkError):
        host.rtnl.add_veth("br0", "eth0", netns_fd=box.fd, hairpin=True)
    found = host.rtnl.link("br0")
    assert found is not None and found.index == bridge


@pytest.mark.parametrize("name", ["", "a" * 16, "ä" * 8, ".", "..", "a b", "a/b", "a:b", "eth%d", "a\n", "a\0b"])
def test_names_that_the_kernel_would_not_take(host: Host, name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid interface name"):
        host.rtnl.add_bridge(name)
    with pytest.raises(InvalidArgument, match="invalid interface name"):
        host.rtnl.link(name)


def test_the_longest_name_works(host: Host) -> None:
    name = "a" * 15
    host.rtnl.add_bridge(name)
    host.rtnl.delete_link(name)
    host.rtnl.delete_link(name)


def test_waiting_for_a_link_is_bounded(host: Host, bridge: int) -> None:
    with pytest.raises(NetlinkError, match=f"wait for link {bridge} to come up: Connection timed out"):
        host.rtnl.wait_up(bridge, 0.05)  # a bridge without ports has no carrier
    with pytest.raises(NetlinkError, match="look up link 99: No such device"):
        host.rtnl.wait_up(99, 0.05)


def test_threads_share_one_socket(host: Host) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(4):
                index = host.rtnl.add_bridge(f"br{number}", up=False)
                found = host.rtnl.link(index)
                assert found is not None and found.name == f"br{number}"
                assert f"br{number}" in [link.name for link in host.rtnl.links()]
                host.rtnl.delete_link(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


def test_an_index_is_found_by_name_alone(host: Host, bridge: int) -> None:
    assert (host.rtnl.index("br0"), host.rtnl.index("lo"), host.rtnl.index("nobody")) == (bridge, 1, 0)
    with pytest.raises(InvalidArgument):
        host.rtnl.index("far too long a name")


def test_each_end_of_a_pair_has_one_queue(host: Host, bridge: int, box: Namespace) -> None:
    _join(host, box, bridge, 2)
    for place, name in ((host, "v2"), (box, "eth0")):
        (shown,) = json.loads(place.run(["ip", "-d", "-j", "link", "show", name]).stdout)
        assert (shown["num_tx_queues"], shown["num_rx_queues"]) == (1, 1)
    host.rtnl.delete_link("v2")


def _until_down(host: Host, bridge: int) -> None:
    """A bridge whose last port left goes out of operation a moment later (linkwatch)."""
    deadline = time.monotonic() + 10
    while host.rtnl.operstate(bridge) == OPERSTATE_UP:
        assert time.monotonic() < deadline, "the bridge never lost its carrier"
        select.select([], [], [], 0.001)


@pytest.mark.parametrize("again", [False, True], ids=["new", "again"])
def test_the_first_frame_after_a_bridges_first_port_is_not_lost(host: Host, box: Namespace, again: bool) -> None:
    frame = b"\xff" * 6 + bytes.fromhex("02420a000001") + b"\x88\xb5" + b"x" * 50  # 0x88b5: for experiments (IEEE 802)
    bridge = 0
    for number in range(20):
        bridge = bridge or host.rtnl.add_bridge("br0", mac="02:42:0a:00:00:01")
        index, peer = host.rtnl.add_veth(f"v{number}", f"e{number}", netns_fd=box.fd, master=bridge)
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
            box.socket(socket.AF_PACKET, socket.SOCK_RAW) as receiver,
        ):
            sender.bind(("br0", 0))
            box.call(receiver.bind, (f"e{number}", 0x88B5))
            box.rtnl.configure(peer)
            host.rtnl.wait_forwarding(index, "br0")
            sender.send(frame)
            receiver.settimeout(5)
            assert _first(receiver) == frame, f"round {number}"
        host.rtnl.delete_link(index)
        if again:
            _until_down(host, bridge)
        else:
            host.rtnl.delete_link(bridge)
            bridge = 0
    host.rtnl.delete_link("br0")


def _first(receiver: socket.socket) -> bytes:
    while True:
        try:
            return receiver.recv(2000)
        except OSError as error:
            if error.errno != errno.ENETDOWN:  # said once, of the time before the interface was up
                raise


def test_nobody_waits_for_a_spanning_tree_or_a_bridge_that_is_down(host: Host, bridge: int, box: Namespace) -> None:
    host.rtnl.delete_link(_join(host, box, bridge, 2))
    _until_down(host, bridge)
    host.run(["ip", "link", "set", "br0", "type", "bridge", "stp_state", "1"])
    began = time.monotonic()
    index = _join(host, box, bridge, 3)
    host.rtnl.wait_forwarding(index, "br0", 20)
    (shown,) = json.loads(host.run(["ip", "-json", "-details", "link", "show", "v3"]).stdout)
    assert shown["linkinfo"]["info_slave_data"]["state"] in ("listening", "learning")  # for 30 s
    host.rtnl.set_link(bridge, up=False)
    host.rtnl.wait_forwarding(index, "br0", 20)
    assert time.monotonic() - began < 20


def test_a_bridges_port_has_no_address_of_the_kernels_making(host: Host, bridge: int, box: Namespace) -> None:
    index = _join(host, box, bridge, 2)
    assert host.rtnl.addresses(index) == []
    link = host.rtnl.link(index)
    assert link is not None and link.up and link.operstate == OPERSTATE_UP
    host.rtnl.delete_link(index)
