"""Small datagram services under asyncio, at a load like DNS: asyncio-dgram beside asyncio's own DatagramProtocol.

    python bench/bench_datagram.py [--rounds N] [--queries N]

Two roles.  *Upstream*: what a resolver does with a question that it can not answer: a socket with a new source port for each
(RFC 5452, 9.2), one datagram out, one back, closed; 1 and 16 under way.  *Server*: one socket that answers, asked by a process
with 16 under way.  ``sock_recv`` is the event loop's reader; names/upstream.py is that with ids, case, EDNS and a look at the
answer.  The other end is a plain blocking loop in a process of its own.  The ways take turns; questions a second, and for the
upstream microseconds a question at p50 and p99: medians over the rounds.  Loopback alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import asyncio_dgram

from pynet.names.asking import Asking
from pynet.names.upstream import Upstream

HOST = "127.0.0.1"
QUESTION = bytes(12) + b"\x03www\x07example\x03org\0\0\1\0\1"
ASKING = Asking(QUESTION[12:])
TIMEOUT = 5.0

Ask = Callable[[tuple[str, int]], Awaitable[bytes]]


class _One(asyncio.DatagramProtocol):
    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self._answer.done():
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def ask_protocol(address: tuple[str, int]) -> bytes:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _One(answer), remote_addr=address)
    try:
        transport.sendto(QUESTION)
        async with asyncio.timeout(TIMEOUT):
            return await answer
    finally:
        transport.close()


async def ask_dgram(address: tuple[str, int]) -> bytes:
    stream = await asyncio_dgram.connect(address)
    try:
        await stream.send(QUESTION)
        async with asyncio.timeout(TIMEOUT):
            data, _ = await stream.recv()
            return bytes(data)
    finally:
        stream.close()


async def ask_loop(address: tuple[str, int]) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(address)
        sock.send(QUESTION)
        async with asyncio.timeout(TIMEOUT):
            return await loop.sock_recv(sock, 512)


_upstreams: dict[asyncio.AbstractEventLoop, Upstream] = {}


async def ask_names(address: tuple[str, int]) -> bytes:
    """What the name server does: the same as ``sock_recv``, and everything that makes the answer nobody else's."""
    loop = asyncio.get_running_loop()
    if loop not in _upstreams:
        _upstreams[loop] = Upstream(*address)
    return (await _upstreams[loop].ask(ASKING)).body


async def upstream(ask: Ask, address: tuple[str, int], window: int, queries: int) -> tuple[float, float, float]:
    times: list[float] = []

    async def worker() -> None:
        for _ in range(queries // window):
            began = time.perf_counter()
            await ask(address)
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(window)))
    rate = len(times) / (time.perf_counter() - began)
    times.sort()
    return rate, times[len(times) // 2] * 1e6, times[int(len(times) * 0.99)] * 1e6


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # type: ignore[override]
        self._transport.sendto(data, addr)


async def serve_protocol(sock: socket.socket) -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(_Echo, sock=sock)
    await asyncio.Event().wait()


async def serve_dgram(sock: socket.socket) -> None:
    stream = await asyncio_dgram.from_socket(sock)
    while True:
        data, addr = await stream.recv()
        await stream.send(data, addr)


def _forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def _echo_for_ever(sock: socket.socket) -> None:
    while True:
        data, sender = sock.recvfrom(512)
        sock.sendto(data[:2] + b"\x81\x80" + data[4:], sender)


def server(serve: Callable[[socket.socket], Awaitable[None]], queries: int, window: int = 16) -> float:
    """Questions a second that *serve* answers."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock, socket.socket(type=socket.SOCK_DGRAM) as client:
        sock.bind((HOST, 0))
        sock.setblocking(False)
        pid = _forked(lambda: asyncio.run(serve(sock)))  # type: ignore[arg-type]
        client.connect(sock.getsockname())
        client.settimeout(TIMEOUT)
        client.send(QUESTION)
        client.recv(512)
        began = time.perf_counter()
        for _ in range(window):
            client.send(QUESTION)
        for _ in range(queries - window):
            client.recv(512)
            client.send(QUESTION)
        for _ in range(window):
            client.recv(512)
        rate = queries / (time.perf_counter() - began)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=4000)
    options = parser.parse_args()
    ways: dict[str, Ask] = {
        "DatagramProtocol": ask_protocol,
        "asyncio-dgram": ask_dgram,
        "sock_recv": ask_loop,
        "names/upstream.py": ask_names,
    }
    found: dict[str, list[tuple[float, ...]]] = {}
    with socket.socket(type=socket.SOCK_DGRAM) as echo:
        echo.bind((HOST, 0))
        address = echo.getsockname()
        pid = _forked(lambda: _echo_for_ever(echo))
        for _ in range(options.rounds):
            for window in (1, 16):
                for name, ask in ways.items():
                    measured = asyncio.run(upstream(ask, address, window, options.queries))
                    found.setdefault(f"upstream, {window} under way: {name}", []).append(measured)
            found.setdefault("server, 16 under way: DatagramProtocol", []).append(
                (server(serve_protocol, options.queries),)
            )
            found.setdefault("server, 16 under way: asyncio-dgram", []).append((server(serve_dgram, options.queries),))
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    for name, rounds in sorted(found.items()):
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        rest = f"  p50 {medians[1]:6.0f} us  p99 {medians[2]:6.0f} us" if len(medians) > 1 else ""
        print(f"{name:48} {medians[0] / 1e3:6.1f} k/s{rest}")
    print(f"load average {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
