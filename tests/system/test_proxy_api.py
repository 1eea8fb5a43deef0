"""pynet.proxy.api from an asyncio program, and what it tells of its ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.errors import InvalidArgument, NotFound, NotSupported, PortInUse, Unavailable
from pynet.netlib.ports.told import PortStats
from pynet.proxy.api import Forwarder, Port

from support.datagrams import answering, asking

HOST = "127.0.0.1"
DOCUMENT = Path(__file__).parents[2] / "docs" / "proxy.md"
Target = tuple[str, int]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def echo() -> AsyncIterator[Target]:
    """A server that echoes until each client's FIN."""
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writers.discard(writer)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0, backlog=1024)
    yield server.sockets[0].getsockname()
    server.close()
    for writer in writers:
        writer.transport.abort()


@pytest.fixture
async def forwarder() -> AsyncIterator[Forwarder]:
    async with Forwarder() as forwarder:
        yield forwarder


async def talk(address: Target, data: bytes = b"x") -> Streams:
    """A connection that has carried *data* there and back."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
    return reader, writer


async def until_idle(port: Port) -> PortStats:
    """The statistics when no connection is active."""
    async with asyncio.timeout(20):
        while (stats := await port.stats())["active"]:
            pass
    return stats


# -- the program's side --------------------------------------------------------------------------------------------


async def test_the_documents_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    source = re.search(r"### From an asyncio program.*?```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert source is not None
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(20)

        async def serve_until_told(port: Any) -> None:
            with socket.create_connection(port.address), server.accept()[0] as peer:
                assert peer.recv(12) == b"\r\n\r\n\0\r\nQUIT\n"
                while not (await port.stats())["active"]:
                    pass
                await asyncio.sleep(0)
            await until_idle(port)

        names: dict[str, Any] = {"serve_until_told": serve_until_told}
        exec(source[1], names)
        await names["main"](server.getsockname())
    said = capsys.readouterr().out
    assert re.search(r"\('127\.0\.0\.1', \d+\) lead to .*/metrics\n1 0\n", said), said


def test_it_needs_nothing_else_of_pynet() -> None:
    code = "import sys, pynet.proxy.api; print(*(name for name in sys.modules if name.startswith('pynet.')))"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    foundation = ("control", "control.questions", "errors", "ipc", "ports", "ports.bind", "ports.told", "version")
    allowed = {"pynet.netlib", *(f"pynet.netlib.{name}" for name in foundation), "pynet.proxy"}
    assert {name for name in result.stdout.split() if not name.startswith("pynet.proxy.")} <= allowed


async def test_a_port_from_birth_to_withdrawal(forwarder: Forwarder, echo: Target) -> None:
    port = await forwarder.forward_tcp((HOST, 0), echo)
    _, writer = await talk(port.address, b"hello")
    listing = await port.connections()
    (entry,) = listing["connections"]
    assert listing["total"] == 1
    assert entry["client"] == writer.get_extra_info("sockname")
    assert entry["target"] == echo
    assert (entry["state"], entry["bytes_in"], entry["bytes_out"], entry["pid"]) == ("open", 5, 5, forwarder.pid)
    writer.close()
    stats = await until_idle(port)
    assert (stats["proto"], stats["connections"], stats["bytes_in"], stats["bytes_out"]) == ("tcp", 1, 5, 5)
    assert "connect" in stats
    assert stats["connect"]["count"] == sum(stats["connect"]["buckets"]) == 1
    assert 0 < stats["connect"]["longest"] == stats["connect"]["seconds"] < 5
    await port.withdraw()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*port.address)
    with pytest.raises(NotFound):
        await port.stats()
    with pytest.raises(NotFound):
        await port.connections()


async def test_a_socket_from_elsewhere_is_served_and_stays_the_callers(forwarder: Forwarder, echo: Target) -> None:
    with socket.create_server((HOST, 0)) as sock:
        port = await forwarder.forward_tcp(sock, echo)
        assert port.address == sock.getsockname()
        (await talk(port.address))[1].close()
        await port.withdraw(drain=0)
        again = await forwarder.forward_tcp(sock, echo)
        (await talk(again.address))[1].close()


async def test_udp_and_a_new_target(forwarder: Forwarder) -> None:
    async with answering(lambda data: b"1" + data) as first, answering(lambda data: b"2" + data) as second:
        port = await forwarder.forward_udp((HOST, 0), first)
        async with asking(port.address) as one, asking(port.address) as other:
            assert list(await asyncio.gather(one(b"one"), other(b"two"))) == [b"1one", b"1two"]
            await port.retarget(second)
            assert list(await asyncio.gather(one(b"one"), other(b"two"))) == [b"2one", b"2two"]
        stats = await port.stats()
        assert (stats["bytes_in"], stats["bytes_out"], stats["connections"]) == (12, 16, 4)
        with pytest.raises(NotSupported, match="udp has none"):
            await port.connections()


async def test_what_can_not_be_is_said_by_class(forwarder: Forwarder, echo: Target) -> None:
    port = await forwarder.forward_tcp((HOST, 0), echo)
    for wrong in (
        forwarder.forward_tcp(("192.0.2.77", 0), echo),
        forwarder.forward_tcp((HOST, 0), ("example.org", 80)),
        forwarder.forward_tcp((HOST, 70000), echo),
        forwarder.forward_tcp((HOST, 0), echo, proxy_protocol=3),
        forwarder.forward_tcp((HOST, 0), echo, drain=-1),
        port.connections(limit=0),
        port.connections(limit=100_000),
        port.retarget((HOST, 0)),
        forwarder.request(
            {"op": "listen", "ports": [{"id": "x", "proto": "udp", "target": echo, "transparent": True}]}
        ),
    ):
        with pytest.raises(InvalidArgument):
            await wrong
    with pytest.raises(PortInUse, match=f"{HOST}:{port.address[1]}/tcp"):
        await forwarder.forward_tcp(port.address, echo)
    assert list((await forwarder.stats())["ports"]) == [port.id]


def _has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


async def test_sctp_where_the_kernel_has_none(forwarder: Forwarder) -> None:
    if _has_sctp():
        pytest.skip("this kernel has SCTP")
    with pytest.raises(NotSupported, match="sctp"):
        await forwarder.forward_sctp((HOST, 0), (HOST, 9))
    # a program that asks the forwarder itself: whatever it passes, it hears the reason
    with socket.create_server((HOST, 0)) as sock:
        entry = {"id": "x", "proto": "sctp", "target": [HOST, 9]}
        with pytest.raises(NotSupported, match="this kernel has no SCTP") as caught:
            await forwarder.request({"op": "listen", "ports": [entry]}, [sock.fileno()])
    assert "modprobe" in caught.value.hint


async def test_sctp_where_the_kernel_has_it(forwarder: Forwarder) -> None:
    if not _has_sctp():
        pytest.skip("this kernel has no SCTP")
    kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    with socket.socket(*kind) as server, socket.socket(*kind) as client:
        server.bind((HOST, 0))
        server.listen()
        port = await forwarder.forward_sctp((HOST, 0), server.getsockname())
        for sock in (server, client):
            sock.settimeout(20)
        client.connect(port.address)
        with server.accept()[0] as peer:
            for message in (b"one", b"two" * 1000):
                client.sendall(message)
                assert peer.recv(65536) == message


# -- life and death ------------------------------------------------------------------------------------------------


async def test_outside_of_its_block_there_is_no_forwarder(echo: Target) -> None:
    forwarder = Forwarder()
    with pytest.raises(Unavailable, match="not running"):
        await forwarder.stats()
    async with forwarder:
        await forwarder.start()  # once more is no error
        port = await forwarder.forward_tcp((HOST, 0), echo)
        pid = forwarder.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*port.address)
    await forwarder.close()


async def test_a_close_with_a_drain_waits_for_live_connections(echo: Target) -> None:
    forwarder = Forwarder()
    await forwarder.start()
    port = await forwarder.forward_tcp((HOST, 0), echo)
    reader, writer = await talk(port.address)
    closing = asyncio.create_task(forwarder.close(drain=60))
    async with asyncio.timeout(20):
        while True:  # until it has stopped listening
            try:
                (await asyncio.open_connection(*port.address))[1].close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                continue  # it was in the queue when the listener closed
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        assert not closing.done()
        writer.close()
        await closing


async def test_one_that_is_killed_is_unavailable(echo: Target) -> None:
    async with Forwarder() as forwarder:
        await forwarder.forward_tcp((HOST, 0), echo)
        os.kill(forwarder.pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="has ended"):
            while True:
                await forwarder.stats()


async def test_one_that_can_not_start_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await Forwarder(workers=1, options=["--bulk", "many"]).start()


def test_it_ends_with_the_program(tmp_path: Path) -> None:
    """Also when the program has no time for a goodbye."""
    code = """
import asyncio, os
from pynet.proxy.api import Forwarder

async def main():
    forwarder = Forwarder()
    await forwarder.start()
    print(forwarder.pid, flush=True)
    os.read(0, 1)
    os._exit(1)

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pidfd = os.pidfd_open(int(program.stdout.readline()))
        program.communicate("x")
    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)


# -- drain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said_by", ["withdraw", "listen", "forwarder"])
async def test_a_drain_of_0_is_at_once_whoever_says_it(echo: Target, said_by: str) -> None:
    async with Forwarder(drain=0 if said_by == "forwarder" else 60) as forwarder:
        port = await forwarder.forward_tcp((HOST, 0), echo, drain=0 if said_by == "listen" else None)
        reader, writer = await talk(port.address)
        await port.withdraw(0 if said_by == "withdraw" else None)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(20):
                await reader.read(1)
        writer.close()


async def test_a_drain_is_the_seconds_that_it_says(echo: Target) -> None:
    """Withdraw's own word counts more than listen's, and listen's more than the forwarder's."""
    loop = asyncio.get_running_loop()
    async with Forwarder(drain=0.3) as forwarder:
        ports = [await forwarder.forward_tcp((HOST, 0), echo, drain=drain) for drain in (None, 60, 60, 0)]
        live = [await talk(port.address) for port in ports]
        began = loop.time()
        for port, drain in zip(ports, (None, None, 0.3, 60), strict=True):
            await port.withdraw(drain)

        async def end(reader: asyncio.StreamReader) -> float:
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            return loop.time() - began

        async with asyncio.timeout(20):
            first, third = await asyncio.gather(end(live[0][0]), end(live[2][0]))
        assert 0.25 < first < 5
        assert 0.25 < third < 5
        for number in (1, 3):
            reader, writer = live[number]
            writer.write(b"on")
            assert await reader.readexactly(2) == b"on"
        for _, writer in live:
            writer.close()


# -- metrics -------------------------------------------------------------------------------------------------------


async def scrape(address: Target, request: bytes = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") -> tuple[bytes, bytes]:
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


async def test_prometheus_is_answered_where_it_was_asked_for(forwarder: Forwarder, echo: Target) -> None:
    port = await forwarder.forward_tcp((HOST, 0), echo)
    address = await forwarder.metrics((HOST, 0))
    assert address is not None
    _, writer = await talk(port.address, b"12345")
    head, body = await scrape(address)
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in lines
    assert f"Content-Length: {len(body)}" in lines
    said = body.decode().splitlines()
    labels = f'port="{port.id}",proto="tcp"'
    for line in (
        f"pynet_proxy_connections_active{{{labels}}} 1",
        f"pynet_proxy_received_bytes_total{{{labels}}} 5",
        f'pynet_proxy_backend_connect_seconds_bucket{{{labels},le="+Inf"}} 1',
        "pynet_proxy_processes 1",
    ):
        assert line in said
    writer.close()
    empty_head, nothing = await scrape(address, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert (empty_head.split(b"\r\n")[0], nothing) == (b"HTTP/1.1 200 OK", b"")
    elsewhere = await forwarder.metrics((HOST, 0))
    with pytest.raises(ConnectionRefusedError):
        await scrape(address)
    await scrape(elsewhere)
    await forwarder.metrics(None)
    with pytest.raises(ConnectionRefusedError):
        await scrape(elsewhere)


async def test_scrapers_that_say_nothing_are_bounded(forwarder: Forwarder) -> None:
    address = await forwarder.metrics((HOST, 0))
    silent = [await asyncio.open_connection(*address) for _ in range(16)]
    said = b""
    with contextlib.suppress(ConnectionResetError):
        said, _ = await scrape(address)
    assert said == b""  # it was closed before it was answered
    for _, writer in silent:
        writer.close()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(ConnectionResetError):
                if (await scrape(address))[0].startswith(b"HTTP/1.1 200"):
                    break


async def test_an_end_with_a_scraper_connected_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    for move in (False, True):
        async with Forwarder() as forwarder:
            address = await forwarder.metrics((HOST, 0))
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /metrics HTTP/1.1\r\n")
            await scrape(address)  # whoever came before is being served by now
            if move:
                await forwarder.metrics(None)
                assert await reader.read() == b""
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metricsx HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics SPDY/1\r\n\r\n", b"400"),
        (b"\0\xff\xfe\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_whatever_a_scraper_says_is_answered(forwarder: Forwarder, request_: bytes, status: bytes) -> None:
    address = await forwarder.metrics((HOST, 0))
    assert address is not None
    head, _ = await scrape(address, request_)
    assert head.split()[1] == status


async def test_scrapers_that_are_rude_stop_nobody_and_leave_nothing(forwarder: Forwarder, echo: Target) -> None:
    address = await forwarder.metrics((HOST, 0))
    assert address is not None
    port = await forwarder.forward_tcp((HOST, 0), echo)
    (await talk(port.address))[1].close()
    await until_idle(port)
    before = len(os.listdir(f"/proc/{forwarder.pid}/fd"))
    rude = [await asyncio.open_connection(*address) for _ in range(30)]
    for number, (_, writer) in enumerate(rude):
        writer.write(b"GET /metrics HTTP/1.1\r\n"[: number % 24])
    (await talk(port.address))[1].close()
    await until_idle(port)
    for _, writer in rude:
        writer.transport.abort()
    async with asyncio.timeout(20):
        while len(os.listdir(f"/proc/{forwarder.pid}/fd")) > before:
            await forwarder.stats()
        await scrape(address)


async def test_a_metrics_socket_must_be_one(forwarder: Forwarder) -> None:
    read, write = os.pipe()
    server = socket.create_server((HOST, 0))
    client = socket.create_connection(server.getsockname())
    with server, client, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        before = len(os.listdir(f"/proc/{forwarder.pid}/fd"))
        for fds in ([read], [datagrams.fileno()], [server.fileno(), server.fileno()], [client.fileno()]):
            with pytest.raises(InvalidArgument):
                await forwarder.request({"op": "metrics"}, fds)
        assert len(os.listdir(f"/proc/{forwarder.pid}/fd")) == before
    os.close(read)
    os.close(write)


# -- many idle connections -----------------------------------------------------------------------------------------


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


async def test_idle_connections_cost_little_memory(forwarder: Forwarder) -> None:
    """1,000 here; the benchmark holds 9,000 and compares."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server = stack.enter_context(socket.create_server((HOST, 0), backlog=4096))
        port = await forwarder.forward_tcp((HOST, 0), server.getsockname())
        warm = stack.enter_context(socket.create_connection(port.address))
        stack.enter_context(server.accept()[0])
        before = _resident(forwarder.pid)
        for _ in range(1000):
            client = stack.enter_context(socket.create_connection(port.address))
            peer = stack.enter_context(server.accept()[0])
            client.send(b"x")
            assert peer.recv(1) == b"x"
        assert (await port.stats())["active"] == 1001
        assert (_resident(forwarder.pid) - before) / 1000 < 2500
        listing = await port.connections(limit=5)
        assert (listing["total"], len(listing["connections"])) == (1001, 5)
        assert listing["connections"][0]["client"] == warm.getsockname()
    await until_idle(port)
