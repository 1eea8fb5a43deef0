"""A name server in a thread of its own, on loopback, and who asks it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from pynet.names import message
from pynet.names.counters import Limits
from pynet.names.forward import Source
from pynet.names.message import IN, A, Question
from pynet.names.server import LIMITS, Server
from pynet.names.streams import Streams
from pynet.names.zones import Zones
from pynet.netlib.naming import Names, View
from pynet.proxy.dataplane.lane import Lane

T = TypeVar("T")
HOST = "127.0.0.1"
PATIENCE = 60.0
"""Seconds for what takes milliseconds on a quiet machine."""
NETWORK = "n1"


def query(name: str, type: int = A, *, id: int = 4711, size: int | None = None) -> bytes:
    head = struct.pack(">HHHHHH", id, message.RD, 1, 0, 0, int(size is not None))
    opt = b"" if size is None else b"\0" + struct.pack(">HHIH", message.OPT, size, 0, 0)
    return head + message.wire_name(name) + struct.pack(">HH", type, IN) + opt


def framed(*messages: bytes) -> bytes:
    return b"".join(len(each).to_bytes(2, "big") + each for each in messages)


def endpoint(name: str, *addresses: str, network: str = NETWORK, names: tuple[str, ...] = ()) -> Names:
    return Names(f"e-{name}", network, "back", (name, *names), addresses)


class ToyForwarder:
    """Answers at once by what it was told, and when told to wait, when it is let go."""

    def __init__(self) -> None:
        self.at_hand: dict[bytes, bytes] = {}
        """name -> reply past the id"""
        self.right_for = 0.0
        """Seconds."""
        self.say: Callable[[Question], bytes] = lambda question: message.reply(question, message.NXDOMAIN)
        self.held: asyncio.Event | None = None
        self.asked: list[tuple[str, bytes, bool]] = []
        self.cancelled = 0
        self.forgotten: list[str] = []

    def cached(self, sandbox: str, view: View, question: Question, *, tcp: bool) -> tuple[bytes, float] | None:
        found = self.at_hand.get(question.name)
        return None if found is None else (question.id.to_bytes(2, "big") + found, self.right_for)

    async def answer(self, sandbox: str, view: View, question: Question, *, tcp: bool) -> tuple[bytes, Source]:
        self.asked.append((sandbox, question.name, tcp))
        try:
            if self.held is not None:
                await self.held.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.say(question), Source("upstream", "192.0.2.1")

    def forget(self, sandbox: str) -> None:
        self.forgotten.append(sandbox)


class Udp:
    """A client over UDP, as in a sandbox: connected, one socket."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def receive(self) -> bytes:
        return self.sock.recv(65536)

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        return self.receive()


class Tcp:
    """A client over TCP."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=PATIENCE)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> bytes:
        """The next message; EOFError when the server has ended the connection, in whatever way."""
        try:
            size = self._file.read(2)
            data = self._file.read(int.from_bytes(size, "big"))
        except ConnectionError as error:
            raise EOFError from error
        if len(size) < 2 or len(data) < int.from_bytes(size, "big"):
            raise EOFError
        return data

    def ask(self, data: bytes) -> bytes:
        self.send(framed(data))
        return self.receive()

    def leave_at_once(self) -> None:
        """End by a reset, as a client that is killed with data unread."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._file.close()
        self.sock.close()


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock goes on when it is told to, too: what is due then happens then."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Running:
    """A server; ``call`` runs something in its thread, where everything of it happens."""

    def __init__(self, limits: Limits) -> None:
        self.forwarder, self.zones = ToyForwarder(), Zones()
        self.errors: list[dict[str, Any]] = []
        self._lane = Lane()
        self._loop = Loop(self._lane)
        self._loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.server = Server(self._lane, self._loop, self.forwarder, zones=self.zones, limits=limits)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.udp: dict[str, tuple[str, int]] = {}
        self.tcp: dict[str, tuple[str, int]] = {}

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function(*arguments))
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(PATIENCE)

    def advance(self, seconds: float) -> None:
        """Let so much time have passed."""
        self.call(setattr, self._loop, "ahead", self._loop.ahead + seconds)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def serve(self, *sandboxes: str) -> None:
        """Sockets for these, on loopback addresses of ours."""
        for sandbox in sandboxes:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((HOST, 0))
            tcp = socket.create_server((HOST, 0), backlog=64)
            self.udp[sandbox], self.tcp[sandbox] = udp.getsockname(), tcp.getsockname()
            self.call(self.server.serve, sandbox, udp, tcp)

    def tell(self, *told: View | Names, gone_views: tuple[str, ...] = (), gone_endpoints: tuple[str, ...] = ()) -> None:
        views = [one for one in told if isinstance(one, View)]
        names = [one for one in told if isinstance(one, Names)]
        self.call(self.server.tell, views, names, gone_views, gone_endpoints)

    def count(self, sandbox: str) -> dict[str, int]:
        return self.call(self.server.counters)[sandbox]

    def received(self, sandbox: str, size: int) -> float:
        """Wait until its connection has received *size* bytes that are no message yet; until when it has time for it."""
        self.until(lambda: any(len(one.received) == size for one in self._streams(sandbox).mine))
        return self.call(lambda: next(iter(self._streams(sandbox).mine)).deadline())

    def listening(self, sandbox: str) -> bool:
        return self._streams(sandbox).reading

    def _streams(self, sandbox: str) -> Streams:
        return self.server.of(sandbox).streams

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds, looked at each time that the loop has come round."""
        end = time.monotonic() + PATIENCE
        while not self.call(condition):
            assert time.monotonic() < end, "it never came to be"

    def close(self) -> None:
        self.call(self.server.close)
        self.wait(asyncio.sleep(0))  # what was cancelled ends
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def running(*sandboxes: str, limits: Limits = LIMITS) -> Generator[Running]:
    """A server of these sandboxes, each on NETWORK; nothing of ours must have gone wrong at the end."""
    server = Running(limits)
    try:
        server.serve(*sandboxes)
        server.tell(*(View(sandbox, (NETWORK,)) for sandbox in sandboxes))
        yield server
    finally:
        server.close()
    assert server.errors == []
