"""Captures of real packets in sandboxes, read by a small reader of its own (tests/support/pcap.py)."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from pynet.netlib.capture import ANY, BATCH, LOOK, LOOPBACK, MOST_SNAPLEN, Capture
from pynet.netlib.controller import Controller
from pynet.netlib.errors import InvalidArgument, NotFound, NotSupported
from pynet.netlib.handles import Endpoint, Sandbox
from pynet.netlib.kernel.packets import BUFFER

from support import pcap
from support.netlib import call_in

PATIENCE = 20.0


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


@pytest.fixture
def joined(controller: Controller) -> tuple[Sandbox, Endpoint]:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    return sandbox, endpoint


@contextmanager
def talking(
    controller: Controller, sandbox: Sandbox
) -> Generator[tuple[socket.socket, socket.socket, tuple[str, int]]]:
    """UDP sockets outside and inside, and the address of the second."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside,
        call_in(controller, sandbox.path, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as inside,
    ):
        inside.bind(("10.1.0.2", 0))
        yield outside, inside, inside.getsockname()


def until(capture: Capture, done: Callable[[pcap.Contents], bool]) -> pcap.Contents:
    """Read until *done* says so of what has come, or the capture has ended."""
    data, deadline = capture.header, time.monotonic() + PATIENCE
    while True:
        contents = pcap.read(data)
        if done(contents):
            return contents
        assert time.monotonic() < deadline, f"it did not come: {contents.packets}"
        select.select([capture], [], [], LOOK)
        data += capture.read()


def datagrams(contents: pcap.Contents) -> list[bytes]:
    return [p.payload for p in contents.packets if p.is_udp]


def test_packets_of_both_directions_with_times_and_lengths(
    controller: Controller, joined: tuple[Sandbox, Endpoint]
) -> None:
    sandbox, _ = joined
    with talking(controller, sandbox) as (outside, inside, address):
        outside.sendto(b"from before", address)
        inside.recv(100)
        began = time.time()
        capture = sandbox.capture()
        try:
            outside.sendto(b"in", address)
            _, peer = inside.recvfrom(100)
            inside.sendto(b"out and longer", peer)
            contents = until(capture, lambda seen: len(datagrams(seen)) == 2)
        finally:
            capture.close()
    packets = [packet for packet in contents.packets if packet.is_udp]
    assert [(p.payload, p.outgoing) for p in packets] == [(b"in", False), (b"out and longer", True)]
    assert contents.interfaces == [("eth0", 1, MOST_SNAPLEN)]
    assert contents.application.startswith("pynet ")
    for packet in packets:
        assert packet.length == len(packet.data) == 42 + len(packet.payload)
        assert began - 1 <= packet.time <= time.time() + 1
    assert capture.captured == len(contents.packets)


def test_a_short_snaplen_keeps_the_true_length(controller: Controller, joined: tuple[Sandbox, Endpoint]) -> None:
    sandbox, _ = joined
    with talking(controller, sandbox) as (outside, _, address):
        capture = sandbox.capture(snaplen=64)
        try:
            outside.sendto(bytes(500), address)
            contents = until(capture, lambda seen: any(p.length == 542 for p in seen.packets))
        finally:
            capture.close()
    assert {len(p.data) for p in contents.packets if p.length == 542} == {64}


def test_a_filter_passes_what_it_says(controller: Controller, joined: tuple[Sandbox, Endpoint]) -> None:
    sandbox, _ = joined
    with talking(controller, sandbox) as (outside, _, address), talking_to_nobody() as other:
        try:
            capture = sandbox.capture(expression=f"udp and src port {outside_port(outside)}", count=2)
        except NotSupported as error:
            pytest.skip(str(error))
        try:
            for text in (b"1", b"2", b"3"):
                other.sendto(b"unwanted", address)
                outside.sendto(text, address)
            contents = until(capture, lambda seen: capture.ended)
        finally:
            capture.close()
    assert datagrams(contents) == [b"1", b"2"]
    assert contents.drops == {"eth0": 0}


def outside_port(sock: socket.socket) -> int:
    sock.bind(("", 0))
    port: int = sock.getsockname()[1]
    return port


@contextmanager
def talking_to_nobody() -> Generator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


def test_several_interfaces_in_one_stream_and_the_loopback_once(
    controller: Controller, joined: tuple[Sandbox, Endpoint]
) -> None:
    sandbox, _ = joined
    with talking(controller, sandbox) as (outside, inside, address):
        capture = sandbox.capture(interfaces=[ANY])
        try:
            inside.sendto(b"to myself", address)
            outside.sendto(b"from outside", address)
            contents = until(capture, lambda seen: len(datagrams(seen)) == 2)
        finally:
            capture.close()
    seen = {packet.payload: packet.interface for packet in contents.packets if packet.is_udp}
    assert seen == {b"to myself": "lo", b"from outside": "eth0"}
    assert [name for name, _, _ in contents.interfaces] == ["lo", "eth0"]
    times = [packet.time for packet in contents.packets]
    assert times == sorted(times)


def test_a_vlan_tag_is_where_it_was_on_the_wire(controller: Controller, joined: tuple[Sandbox, Endpoint]) -> None:
    sandbox, endpoint = joined
    frame = (
        bytes.fromhex(endpoint.mac.replace(":", "")) + bytes(6) + struct.pack("!HHH", 0x8100, 42, 0x88B5) + bytes(50)
    )
    bridge = endpoint.network.bridge
    capture = sandbox.capture()
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((bridge, 0))

            def seen(contents: pcap.Contents) -> bool:
                if any(p.data[12:14] == b"\x81\x00" for p in contents.packets):
                    return True
                raw.send(frame)  # a bridge whose first port this is may lose one, and nobody would send it again
                return False

            contents = until(capture, seen)
    finally:
        capture.close()
    tagged = next(packet for packet in contents.packets if packet.data[12:14] == b"\x81\x00")
    assert tagged.data[14:18] == struct.pack("!HH", 42, 0x88B5)
    assert tagged.length == len(frame)


def test_what_nobody_fetched_is_counted_and_told(controller: Controller, joined: tuple[Sandbox, Endpoint]) -> None:
    sandbox, _ = joined
    with talking(controller, sandbox) as (outside, inside, address):
        outside.sendto(b"", address)
        inside.recv(1)  # their neighbours are known
        capture = sandbox.capture()
        try:
            sent = 0
            while sent < 3 * BUFFER:
                outside.sendto(bytes(1400), address)
                sent += 1400
            contents = until(capture, lambda seen: bool(sum(seen.drops.values())))
            packets = len(contents.packets)
            assert capture.dropped == contents.drops["eth0"] > 0
            assert packets + capture.dropped <= sent // 1400 + 20
        finally:
            capture.close()


def test_a_capture_ends_with_its_interface_and_keeps_no_sandbox_alive(
    controller: Controller, joined: tuple[Sandbox, Endpoint]
) -> None:
    sandbox, endpoint = joined
    capture, loopback = sandbox.capture(), sandbox.capture(interfaces=["lo"])
    try:
        endpoint.leave()
        until(capture, lambda seen: capture.ended)
        assert not loopback.ended
        sandbox.delete()
        until(loopback, lambda seen: loopback.ended)
    finally:
        capture.close()
        loopback.close()


def test_an_interface_that_is_down_for_a_while_is_captured_when_it_is_up_again(
    controller: Controller, joined: tuple[Sandbox, Endpoint]
) -> None:
    sandbox, _ = joined
    capture = sandbox.capture()
    try:
        with controller.tools.inside(sandbox.path) as inside:
            index = inside.rtnl.index("eth0")
            inside.rtnl.set_link(index, up=False)
            capture.read()
            inside.rtnl.set_link(index, up=True)
        controller.repair()
        with talking(controller, sandbox) as (outside, _, address):
            outside.sendto(b"again", address)
            assert b"again" in datagrams(until(capture, lambda seen: b"again" in datagrams(seen)))
    finally:
        capture.close()


def test_what_is_wrong_is_refused_and_leaves_nothing(controller: Controller, joined: tuple[Sandbox, Endpoint]) -> None:
    sandbox, _ = joined
    with pytest.raises(NotFound, match=r"no interface eth7 .*") as refusal:
        sandbox.capture(interfaces=["eth7"])
    assert "lo, eth0" in refusal.value.hint
    for snaplen, count in ((MOST_SNAPLEN + 1, 0), (-1, 0), (0, -1)):
        with pytest.raises(InvalidArgument):
            sandbox.capture(snaplen=snaplen, count=count)
    for words in ("no such words", "host \ud800"):
        with pytest.raises((InvalidArgument, NotSupported)):
            sandbox.capture(expression=words)
    alone = controller.create_sandbox("alone")
    with pytest.raises(NotSupported, match="no interface but the loopback"):
        alone.capture()
    with pytest.raises(InvalidArgument, match="host's own namespace"):
        controller.create_sandbox("host", host=True).capture()


IN_A_USER_NAMESPACE = """
from pynet.netlib.kernel.packets import PacketSocket, accept
from pynet.plugins.isolation import loopback_up
loopback_up()
one = PacketSocket("lo")
one.listen(accept(100), 100)
one.close()
print("heard")
"""


def test_root_of_a_user_namespace_captures_with_the_buffer_that_it_may_have() -> None:
    """pynet playground is such a place: SO_RCVBUFFORCE is the machine's root's."""
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-I", "-c", IN_A_USER_NAMESPACE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.stderr.startswith("unshare:"):
        pytest.skip(done.stderr.strip())
    assert (done.stdout, done.stderr) == ("heard\n", "")


def test_an_interface_that_floods_does_not_keep_the_others_waiting(
    controller: Controller, joined: tuple[Sandbox, Endpoint]
) -> None:
    sandbox, _ = joined
    with talking(controller, sandbox) as (outside, inside, address):
        outside.sendto(b"", address)
        inside.recv(1)
        capture = sandbox.capture(interfaces=[LOOPBACK, "eth0"], expression=f"udp dst port {address[1]}")
        try:
            for _ in range(2 * BATCH // 1400):
                inside.sendto(bytes(1400), address)
            outside.sendto(b"from outside", address)
            packets = pcap.read(capture.header + capture.read()).packets
        finally:
            capture.close()
    assert {packet.interface for packet in packets} == {"lo", "eth0"}
