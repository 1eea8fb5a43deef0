"""Forwarders that share listeners and that follow one another: no client notices."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pynet.netlib.errors import Unavailable
from pynet.netlib.ports.told import Stats
from pynet.proxy.api import Forwarder
from pynet.proxy.process.client import ForwarderClient, Listen
from pynet.proxy.process.launch import replace, spawn

from support.waiting import PATIENCE

HOST = "127.0.0.1"
Target = tuple[str, int]


class _Echo(asyncio.Protocol):
    def __init__(self, live: set[asyncio.BaseTransport]) -> None:
        self._live = live

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._live.add(transport)

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._live.discard(self._transport)


@pytest.fixture
async def echo() -> AsyncIterator[Target]:
    live: set[asyncio.BaseTransport] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _Echo(live), HOST, 0, backlog=4096)
    yield server.sockets[0].getsockname()
    server.close()
    for transport in live:
        transport.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client:
    """A connection through the forwarder; ``say`` is one round trip."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def of(cls, address: Target) -> Client:
        return cls(*await asyncio.open_connection(*address))

    async def say(self, word: bytes = b"hello") -> None:
        async with asyncio.timeout(20):
            self._writer.write(word)
            assert await self._reader.readexactly(len(word)) == word

    def close(self) -> None:
        self._writer.close()


class Storm:
    """*width* clients that connect, say something and leave, again and again."""

    def __init__(self, address: Target, width: int = 32) -> None:
        self.address, self.done = address, 0
        self._stop = False
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(width)]

    async def _run(self, number: int) -> None:
        while not self._stop:
            client = await Client.of(self.address)
            await client.say(b"%d" % number)
            client.close()
            self.done += 1

    async def more(self, count: int) -> None:
        """Wait for *count* connections more."""
        until = self.done + count
        while self.done < until:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Raises what any of the clients has met."""
        self._stop = True
        await asyncio.gather(*self._tasks)


def _listen(run: Path, echo: Target, *extra: str) -> tuple[subprocess.Popen[bytes], ForwarderClient, Target]:
    process = spawn(str(run), *extra)
    assert process is not None
    client = ForwarderClient(str(run / "forwarder.sock"))
    with socket.create_server((HOST, 0), backlog=4096) as sock:
        client.listen([Listen("p", "tcp", *echo, sock)])
        return process, client, sock.getsockname()


# -- one after the other -------------------------------------------------------------------------------------------


async def test_a_forwarder_is_replaced_under_load_without_an_error(tmp_path: Path, echo: Target) -> None:
    """New connections come all the time; one stays open over all generations, one more with each."""
    process, client, address = _listen(tmp_path, echo)
    processes, live = [process], [await Client.of(address)]
    storm = Storm(address)
    for _ in range(3):
        await storm.more(100)
        live.append(await Client.of(address))
        await live[-1].say()
        successor = await asyncio.to_thread(replace, str(tmp_path))
        assert successor is not None
        assert client.ping() == successor.pid
        processes.append(successor)
        await storm.more(100)
    await storm.end()
    for one in live:
        await one.say(b"still here")
        one.close()
    # each of the old ones ends with its last connection
    for old in processes[:-1]:
        assert await asyncio.to_thread(old.wait, 20) == 0
    stats = client.stats()["ports"]["p"]
    assert (stats["errors"], stats["refused"]) == (0, 0)
    client.shutdown()
    assert await asyncio.to_thread(processes[-1].wait, 20) == 0
    assert (tmp_path / "forwarder.log").read_text() == ""


async def test_one_that_can_not_be_replaced_goes_on(tmp_path: Path, echo: Target) -> None:
    process, client, address = _listen(tmp_path, echo)
    live = await Client.of(address)
    await live.say()
    with pytest.raises(Unavailable, match="is not replaced: another one did not start"):
        await asyncio.to_thread(replace, str(tmp_path), "--workers", "0")
    for one in (live, await Client.of(address)):
        await one.say()
        one.close()
    assert client.ping() == process.pid
    client.shutdown()
    assert await asyncio.to_thread(process.wait, 20) == 0


async def test_what_is_replaced_cuts_when_its_drain_is_over(tmp_path: Path, echo: Target) -> None:
    process, client, address = _listen(tmp_path, echo)
    old = await Client.of(address)
    await old.say()
    successor = await asyncio.to_thread(lambda: replace(str(tmp_path), drain=0.1))
    assert successor is not None
    with pytest.raises(ConnectionResetError):
        while True:
            await old.say()
    old.close()
    assert await asyncio.to_thread(process.wait, 20) == 0
    client.shutdown()
    await asyncio.to_thread(successor.wait, 20)


async def test_a_successor_knows_every_option(tmp_path: Path, echo: Target) -> None:
    process, client, _ = _listen(tmp_path, echo)
    with socket.create_server((HOST, 0)) as sock, socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        port = target.getsockname()[1]
        client.listen([Listen("q", "tcp", HOST, port, sock, 7.0, proxy_protocol=1)])
        successor = await asyncio.to_thread(replace, str(tmp_path))
        assert successor is not None
        with socket.create_connection(sock.getsockname()), target.accept()[0] as peer:
            assert peer.recv(6) == b"PROXY "
        held = {listen.id: listen for listen in client.fetch()}
        for listen in held.values():
            assert isinstance(listen.sock, socket.socket)
            listen.sock.close()
        assert (held["q"].drain, held["q"].proxy_protocol, held["q"].transparent) == (7.0, 1, False)
    client.shutdown()
    for one in (process, successor):
        await asyncio.to_thread(one.wait, 20)


# -- several at a time ---------------------------------------------------------------------------------------------


async def _crew(client: Callable[[], Awaitable[Stats]], size: int) -> list[int]:
    """The pids, when all have told that they are there."""
    async with asyncio.timeout(20):
        while True:
            pids: list[int] = (await client())["processes"]
            if len(pids) == size:
                return pids


@contextmanager
def stopped(pids: Collection[int]) -> Generator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.usefixtures("many_files")
async def test_several_workers_share_a_port(echo: Target) -> None:
    async with Forwarder(workers=3) as forwarder:
        port = await forwarder.forward_tcp((HOST, 0), echo)
        pids = await _crew(forwarder.stats, 3)
        clients: list[Client] = []
        for pid in pids:
            with stopped(set(pids) - {pid}):  # else a busy one may take all that come
                clients += await asyncio.gather(*(Client.of(port.address) for _ in range(20)))
                async with asyncio.timeout(PATIENCE):
                    await asyncio.gather(*(client.say() for client in clients[-20:]))
        listing = await port.connections(limit=1000)
        assert listing["total"] == len(listing["connections"]) == len(clients)
        assert {entry["pid"] for entry in listing["connections"]} == set(pids)
        for client in clients:
            client.close()
        async with asyncio.timeout(20):
            while (stats := await port.stats())["active"]:
                pass
        count = len(clients)
        assert (stats["connections"], stats["bytes_in"], stats["bytes_out"]) == (count, 5 * count, 5 * count)
        assert "connect" in stats
        assert stats["connect"]["count"] == count
        # what is told to one is told to all
        with socket.create_server((HOST, 0), backlog=1024) as other:
            await port.retarget(other.getsockname())
            for _ in range(60):
                with socket.create_connection(port.address), other.accept()[0]:
                    pass
        await port.withdraw(0)
        with socket.create_server(port.address):
            pass  # nobody holds it any more


async def test_a_worker_that_dies_is_started_again_and_told_everything(echo: Target) -> None:
    async with Forwarder(workers=2) as forwarder:
        port = await forwarder.forward_tcp((HOST, 0), echo, proxy_protocol=0)
        first, member = await _crew(forwarder.stats, 2)
        assert first == forwarder.pid
        os.kill(member, signal.SIGKILL)
        async with asyncio.timeout(20):
            while member in (pids := await _crew(forwarder.stats, 2)):
                pass
            mine = None
            while mine is None or pids[1] not in {entry["pid"] for entry in mine["connections"]}:
                clients = await asyncio.gather(*(Client.of(port.address) for _ in range(50)))
                await asyncio.gather(*(client.say() for client in clients))
                mine = await port.connections(limit=1000)
                for client in clients:
                    client.close()


async def test_kill_9_of_the_first_loses_only_its_own(tmp_path: Path, echo: Target) -> None:
    """The others give the port up at once, for whoever comes next, and serve their live connections on."""
    process, client, address = _listen(tmp_path, echo, "--workers", "2")
    held = client.fetch()
    first, member = await _crew(lambda: asyncio.to_thread(client.stats), 2)
    clients: dict[tuple[str, int], Client] = {}
    async with asyncio.timeout(20):
        while True:
            for _ in range(50):
                reader, writer = await asyncio.open_connection(*address)
                clients[writer.get_extra_info("sockname")] = Client(reader, writer)
            await asyncio.gather(*(one.say() for one in clients.values()))
            where = {entry["client"]: entry["pid"] for entry in client.connections("p", 1000)["connections"]}
            if set(where.values()) == {first, member}:
                break
    gone = os.pidfd_open(member)
    process.kill()
    process.wait()
    successor = spawn(str(tmp_path))
    assert successor is not None
    client.listen(held)
    for listen in held:
        assert isinstance(listen.sock, socket.socket)
        listen.sock.close()
    for name, one in clients.items():
        if where[name] == member:
            await one.say(b"still here")
        else:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await one.say()
        one.close()
    assert await asyncio.to_thread(select.select, [gone], [], [], 20) != ([], [], [])
    os.close(gone)
    newcomer = await Client.of(address)
    await newcomer.say()
    newcomer.close()
    client.shutdown()
    successor.wait(20)


async def test_a_crew_is_replaced_under_load(tmp_path: Path, echo: Target) -> None:
    process, client, address = _listen(tmp_path, echo, "--workers", "2")
    pids = await _crew(lambda: asyncio.to_thread(client.stats), 2)
    gone = [os.pidfd_open(pid) for pid in pids]
    storm = Storm(address)
    await storm.more(100)
    successor = await asyncio.to_thread(replace, str(tmp_path), "--workers", "2")
    assert successor is not None
    await storm.more(100)
    await storm.end()
    for pidfd in gone:
        assert await asyncio.to_thread(select.select, [pidfd], [], [], 20) != ([], [], [])
        os.close(pidfd)
    client.shutdown()
    for one in (process, successor):
        await asyncio.to_thread(one.wait, 20)
    assert (tmp_path / "forwarder.log").read_text() == ""


async def test_the_end_of_a_crew_is_the_end_of_all(tmp_path: Path, echo: Target) -> None:
    process, client, address = _listen(tmp_path, echo, "--workers", "2")
    pids = await _crew(lambda: asyncio.to_thread(client.stats), 2)
    one = await Client.of(address)
    await one.say()
    client.shutdown()
    assert await asyncio.to_thread(process.wait, 20) == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await one.say()
    one.close()
