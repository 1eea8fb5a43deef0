"""A port that moves to another target, or onto another socket, under traffic: no client is lost, none meets a moment between."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from pynet.netlib import ipc
from pynet.netlib.errors import NotFound
from pynet.proxy.process import messages
from pynet.proxy.process.client import ForwarderClient, Listen
from pynet.proxy.process.launch import spawn

HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def _named(name: bytes) -> AsyncGenerator[tuple[str, int]]:
    """A server that answers each line with its name."""

    serving: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.readline():
                writer.write(name)
        writer.close()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(answer(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(serve, HOST, 0, backlog=1024)
    yield server.sockets[0].getsockname()
    server.close()
    if serving:
        await asyncio.wait(serving)


class _Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: tuple[str, int]) -> _Client:
        return cls(*await asyncio.open_connection(*address))

    async def ask(self) -> bytes:
        self.writer.write(b"?\n")
        return await asyncio.wait_for(self._reader.readexactly(1), 20)


async def _new(address: tuple[str, int]) -> bytes:
    client = await _Client.to(address)
    try:
        return await client.ask()
    finally:
        client.writer.close()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ["retarget", "listen"])
async def test_a_move_under_traffic_loses_no_connection(tmp_path: Path, how: str, workers: int) -> None:
    """What is asked after the move has returned is answered by the new target, what was live by the old one."""
    process = spawn(str(tmp_path), "--workers", str(workers))
    assert process is not None
    client = ForwarderClient(str(tmp_path / "forwarder.sock"))
    sock = socket.create_server((HOST, 0), backlog=1024)
    try:
        async with _named(b"A") as first, _named(b"B") as second, asyncio.timeout(60):
            address: tuple[str, int] = sock.getsockname()
            client.listen([Listen("p", "tcp", *first, sock, 30.0)])
            while len(client.stats()["processes"]) < workers:
                pass
            stop = asyncio.Event()
            seen: set[bytes] = set()

            async def traffic() -> int:
                count = 0
                while not stop.is_set():
                    seen.add(await _new(address))
                    count += 1
                return count

            live = [await _Client.to(address) for _ in range(8)]
            for one in live:
                assert await one.ask() == b"A"
            load = [asyncio.create_task(traffic()) for _ in range(4)]
            for number in range(40):
                wanted, target = (b"B", second) if number % 2 == 0 else (b"A", first)
                if how == "retarget":
                    await asyncio.to_thread(client.retarget, [("p", *target)])
                else:
                    await asyncio.to_thread(client.listen, [Listen("p", "tcp", *target, sock, 30.0)])
                assert {await _new(address) for _ in range(4)} == {wanted}
                assert await live[number % 8].ask() == b"A"
            stop.set()
            counts = await asyncio.gather(*load)
            assert min(counts) > 0 and seen == {b"A", b"B"}
            for one in live:
                assert await one.ask() == b"A"
                one.writer.close()
            stats = client.stats()["ports"]["p"]
            assert (stats["errors"], stats["refused"]) == (0, 0)
    finally:
        sock.close()
        client.shutdown()
        assert process.wait(20) == 0


async def test_ports_move_together_or_not_at_all(tmp_path: Path) -> None:
    process = spawn(str(tmp_path))
    assert process is not None
    client = ForwarderClient(str(tmp_path / "forwarder.sock"))
    async with _named(b"A") as first, _named(b"B") as second, asyncio.timeout(20):
        addresses: list[tuple[str, int]] = []
        for name in "pq":
            with socket.create_server((HOST, 0)) as sock:
                client.listen([Listen(name, "tcp", *first, sock)])
                addresses.append(sock.getsockname())
        with pytest.raises(NotFound):
            client.retarget([("p", *second), ("q", *second), ("nonesuch", *second)])
        assert [await _new(address) for address in addresses] == [b"A", b"A"]
        client.retarget([("p", *second), ("q", *second)])
        assert [await _new(address) for address in addresses] == [b"B", b"B"]
    client.shutdown()
    assert process.wait(20) == 0


async def test_an_id_that_gets_another_port_lets_its_live_connections_end(tmp_path: Path) -> None:
    """The old port is free at once, in every process; what was live on it has its drain."""
    process = spawn(str(tmp_path), "--workers", "2")
    assert process is not None
    client = ForwarderClient(str(tmp_path / "forwarder.sock"))
    async with _named(b"A") as first, _named(b"B") as second, asyncio.timeout(20):
        while len(client.stats()["processes"]) < 2:
            pass
        with socket.create_server((HOST, 0)) as sock:
            old: tuple[str, int] = sock.getsockname()
            client.listen([Listen("p", "tcp", *first, sock, 30.0)])
        live = [await _Client.to(old) for _ in range(8)]
        for one in live:
            assert await one.ask() == b"A"
        with socket.create_server((HOST, 0)) as sock:
            client.listen([Listen("p", "tcp", *second, sock, 30.0)])
            assert await _new(sock.getsockname()) == b"B"
        with socket.create_server(old):
            pass  # nobody holds it
        for one in live:
            assert await one.ask() == b"A"
            one.writer.close()
        # and what was a tcp port is given up by all of them when its id is a udp port's
        with socket.create_server((HOST, 0)) as sock:
            client.listen([Listen("p", "tcp", *first, sock)])
            old = sock.getsockname()
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            datagrams.bind((HOST, 0))
            client.listen([Listen("p", "udp", *second, datagrams)])
        with socket.create_server(old):
            pass
    client.shutdown()
    assert process.wait(20) == 0


async def test_the_crew_follows_in_the_order_of_the_changes(tmp_path: Path) -> None:
    """A move that is asked for while the crew is still being told of the ports, page by page, is not told before them."""
    process = spawn(str(tmp_path), "--workers", "2")
    assert process is not None
    client = ForwarderClient(str(tmp_path / "forwarder.sock"))
    while len(client.stats()["processes"]) < 2:
        pass
    async with _named(b"B") as second, asyncio.timeout(60):
        with socket.create_server((HOST, 0), backlog=1024) as sock:
            ports = [Listen(f"p{number}", "tcp", HOST, 9, sock) for number in range(1200)]
            channel = ipc.connect(str(tmp_path / "forwarder.sock"), 20)
            frames = messages.listen(ports)
            for message, fds in frames:
                channel.send(message, fds)
            channel.send(messages.retarget([("p0", *second), ("p1199", *second)]))
            for _ in range(len(frames) + 1):
                assert channel.receive() == ({"ok": True}, [])
            channel.close()
            client.withdraw([port.id for port in ports[1:-1]])
            # both of them, in both processes: one socket, so any of the four may have the connection
            assert {await _new(sock.getsockname()) for _ in range(60)} == {b"B"}
    client.shutdown()
    assert process.wait(20) == 0
    assert (tmp_path / "forwarder.log").read_text() == ""
