"""Targets and clients as bad as they come: each costs only itself, and nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pynet.netlib.ports.told import PortStats
from pynet.proxy.api import Forwarder, Port

from support.proxy import sockets

HOST = "127.0.0.1"
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
async def forwarder() -> AsyncIterator[Forwarder]:
    async with Forwarder(connect_timeout=0.4) as forwarder:
        yield forwarder


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0), backlog=1024) as sock:
        sock.settimeout(20)
        yield sock


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """A target that drops what asks for a connection: its queue is full (listen(2))."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()


def connect(port: Port) -> socket.socket:
    return socket.create_connection(port.address, timeout=20)


async def until_idle(port: Port) -> PortStats:
    async with asyncio.timeout(20):
        while (stats := await port.stats())["active"]:
            pass
    return stats


def pipes_with_bytes(pid: int) -> int:
    """Pipes of another process that still hold something: bytes that were lost on their way."""
    held = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        with contextlib.suppress(OSError):
            if os.readlink(path).startswith("pipe:") and int(fd) > 2:
                with open(
                    path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
                ) as end:
                    held += bool(select.select([end], [], [], 0)[0])
    return held


# -- targets -------------------------------------------------------------------------------------------------------


async def test_a_target_that_answers_nothing_is_given_up_in_time(
    forwarder: Forwarder, black_hole: tuple[str, int]
) -> None:
    port = await forwarder.forward_tcp((HOST, 0), black_hole)
    began = time.monotonic()
    with connect(port) as first, connect(port) as second:
        first.sendall(b"anybody?")
        async with asyncio.timeout(20):
            while (listing := await port.connections())["total"] < 2:
                pass
        assert {entry["state"] for entry in listing["connections"]} == {"connecting"}
        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    assert 0.35 < time.monotonic() - began < 5
    stats = await until_idle(port)
    assert "connect" in stats
    assert (stats["connections"], stats["refused"], stats["errors"], stats["connect"]["count"]) == (2, 2, 0, 0)


async def test_one_that_answers_nothing_holds_up_nobody(
    forwarder: Forwarder, black_hole: tuple[str, int], server: socket.socket
) -> None:
    dark = await forwarder.forward_tcp((HOST, 0), black_hole)
    port = await forwarder.forward_tcp((HOST, 0), server.getsockname())
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(dark))
        with connect(port) as client, server.accept()[0] as peer:
            client.sendall(b"x")
            assert peer.recv(1) == b"x"
    assert (await until_idle(port))["errors"] == 0


async def test_clients_that_leave_while_their_target_answers_nothing(
    forwarder: Forwarder, black_hole: tuple[str, int]
) -> None:
    port = await forwarder.forward_tcp((HOST, 0), black_hole)
    before = sockets(forwarder.pid)
    for _ in range(20):
        with connect(port) as client:
            client.sendall(b"x")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await until_idle(port)
    async with asyncio.timeout(20):
        while sockets(forwarder.pid) > before:
            await forwarder.stats()


async def test_a_withdrawal_reaches_what_still_connects(forwarder: Forwarder, black_hole: tuple[str, int]) -> None:
    port = await forwarder.forward_tcp((HOST, 0), black_hole)
    with connect(port) as client:
        async with asyncio.timeout(20):
            while not (await port.connections())["total"]:
                pass
        await port.withdraw(0)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


async def test_a_target_that_vanishes_and_comes_back(forwarder: Forwarder) -> None:
    with socket.create_server((HOST, 0)) as first:
        address = first.getsockname()
        port = await forwarder.forward_tcp((HOST, 0), address)
        with connect(port) as client, first.accept()[0] as peer:
            client.sendall(b"x")
            assert peer.recv(1) == b"x"
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            first.close()
            peer.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    for _ in range(5):
        with pytest.raises(ConnectionResetError), connect(port) as client:
            client.recv(1)
    with socket.create_server(address) as again, connect(port) as client, again.accept()[0] as peer:
        client.sendall(b"back")
        assert peer.recv(4) == b"back"
    stats = await until_idle(port)
    assert (stats["connections"], stats["refused"], stats["errors"]) == (7, 5, 1)


async def test_a_network_that_can_not_be_reached_refuses(forwarder: Forwarder) -> None:
    port = await forwarder.forward_tcp((HOST, 0), ("203.0.113.1", 9))  # this namespace has no such route
    with pytest.raises(ConnectionResetError), connect(port) as client:
        client.recv(1)
    assert (await port.stats())["refused"] == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(up=st.binary(max_size=2000), down=st.binary(max_size=2000), version=st.sampled_from([0, 1, 2]))
async def test_garbage_is_carried_as_it_is(
    forwarder: Forwarder, server: socket.socket, up: bytes, down: bytes, version: int
) -> None:
    port = await forwarder.forward_tcp((HOST, 0), server.getsockname(), proxy_protocol=version)
    with connect(port) as client, server.accept()[0] as peer:
        peer.settimeout(20)
        for sock, data in ((client, up), (peer, down)):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        got = [b"", b""]
        for number, sock in enumerate((peer, client)):
            while data := sock.recv(65536):
                got[number] += data
    assert got[0].endswith(up)
    assert (len(got[0]) > len(up)) is (version > 0)
    assert got[1] == down
    stats = await until_idle(port)
    assert (stats["bytes_in"], stats["bytes_out"], stats["errors"]) == (len(up), len(down), 0)
    await port.withdraw()


# -- clients -------------------------------------------------------------------------------------------------------


async def test_a_byte_at_a_time_arrives_a_byte_at_a_time(forwarder: Forwarder, server: socket.socket) -> None:
    port = await forwarder.forward_tcp((HOST, 0), server.getsockname(), proxy_protocol=2)
    with connect(port) as client, server.accept()[0] as peer:
        peer.settimeout(20)
        assert len(peer.recv(28, socket.MSG_WAITALL)) == 28
        for number in range(300):
            client.sendall(bytes([number & 255]))
            assert peer.recv(10) == bytes([number & 255])
            peer.sendall(b"x")
            assert client.recv(10) == b"x"
    assert (await until_idle(port))["bytes_in"] == 300


async def test_a_server_that_does_not_read_the_header_costs_only_itself(
    forwarder: Forwarder, server: socket.socket
) -> None:
    """The header and what follows wait in the kernel, in order; a reset meanwhile leaves nothing."""
    port = await forwarder.forward_tcp((HOST, 0), server.getsockname(), proxy_protocol=1)
    with connect(port) as client, server.accept()[0] as peer:
        peer.settimeout(20)
        client.setblocking(False)
        sent = 0
        while select.select([], [client], [], 0.2)[1]:
            with contextlib.suppress(BlockingIOError):
                sent += client.send(bytes(1 << 18))
        client.setblocking(True)
        client.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: peer.recv(1 << 20), b""))
    assert got.startswith(b"PROXY TCP4 ")
    assert len(got) == sent + got.index(b"\n") + 1


async def test_resets_at_every_step_leave_no_descriptor_and_no_byte(
    forwarder: Forwarder, server: socket.socket
) -> None:
    """Bulk that is in our pipes, too: a pipe with another connection's bytes must never be used again."""
    port = await forwarder.forward_tcp((HOST, 0), server.getsockname(), proxy_protocol=2)
    chance = random.Random(11)
    before = sockets(forwarder.pid)
    for _ in range(60):
        with connect(port) as client, server.accept()[0] as peer:
            for sock in (client, peer):
                sock.setblocking(False)
            with contextlib.suppress(OSError):
                for _ in range(chance.randrange(12)):
                    with contextlib.suppress(BlockingIOError):
                        client.send(b"c" * chance.randrange(1, 400_000))
                    with contextlib.suppress(BlockingIOError):
                        peer.send(b"p" * chance.randrange(1, 400_000))
                    for sock in (client, peer):
                        if chance.random() < 0.3:
                            with contextlib.suppress(BlockingIOError):
                                sock.recv(chance.randrange(1, 300_000))
            for sock in chance.sample((client, peer), 2):
                if chance.random() < 0.7:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await until_idle(port)
    async with asyncio.timeout(20):
        while sockets(forwarder.pid) > before:
            await forwarder.stats()
    assert pipes_with_bytes(forwarder.pid) == 0
    # what comes next is clean
    with connect(port) as client, server.accept()[0] as peer:
        peer.settimeout(20)
        data = bytes(range(256)) * 8192

        async def send() -> None:
            await asyncio.to_thread(client.sendall, data)
            client.shutdown(socket.SHUT_WR)

        sending = asyncio.create_task(send())
        got = await asyncio.to_thread(lambda: b"".join(iter(lambda: peer.recv(1 << 20), b"")))
        await sending
    assert got[28:] == data
