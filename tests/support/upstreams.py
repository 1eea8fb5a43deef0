"""DNS servers that a test plays, over UDP and TCP, each by a function: what it answers, how often, and whether at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

import asyncio_dgram
import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from pynet.names import message
from pynet.names.message import Question

from support.waiting import PATIENCE

Answers = bytes | None | Iterable[bytes]
Answer = Callable[["Asked"], Answers]
SOA = "example.org. 900 SOA ns.example.org. root.example.org. 1 2 3 4 300"


class Asked:
    """One question as it came to an upstream."""

    def __init__(self, data: bytes, tcp: bool, port: int) -> None:
        self.data, self.tcp, self.port = data, tcp, port
        self.message = dns.message.from_wire(data)
        question = message.parse(data)
        assert isinstance(question, Question)
        self.question = question

    @property
    def name(self) -> str:
        """As it was asked."""
        return str(self.message.question[0].name)

    def reply(self, *records: str, code: int = 0, authority: Iterable[str] = (), flags: str = "") -> bytes:
        """Records as in a zone file, ``@`` for the question's name."""
        response = dns.message.make_response(self.message, recursion_available=True)
        response.set_rcode(dns.rcode.Rcode.make(code))
        response.flags |= dns.flags.from_text(flags)
        for section, lines in ((response.answer, records), (response.authority, authority)):
            for line in lines:
                owner, ttl, type, data = line.split(None, 3)
                section.append(dns.rrset.from_text(self.name if owner == "@" else owner, int(ttl), "IN", type, data))
        return response.to_wire(max_size=65535)

    def truncated(self) -> bytes:
        return self.reply(flags="TC")


def address(of: str = "192.0.2.1", ttl: int = 60) -> Answer:
    """Every name has this address."""
    return lambda asked: asked.reply(f"@ {ttl} A {of}")


def failing(code: int) -> Answer:
    return lambda asked: asked.reply(code=code)


def silent(asked: Asked) -> None:
    return None


class Played:
    """An upstream at an address of loopback; ``asked`` is what came so far."""

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        self.host, self.port, self.answer = host, port, answer
        self.asked: list[Asked] = []
        self.connections = 0
        self._came = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def until_asked(self, count: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.asked) < count:
                self._came.clear()
                await self._came.wait()

    async def answer_late(self, asked: Asked, reply: bytes) -> None:
        """Over UDP, to who asked that."""
        await self._stream.send(reply, (self.host, asked.port))

    def answers(self, data: bytes, tcp: bool, port: int) -> list[bytes]:
        asked = Asked(data, tcp, port)
        self.asked.append(asked)
        self._came.set()
        said = self.answer(asked)
        if said is None:
            return []
        return [said] if isinstance(said, bytes) else list(said)

    async def datagrams(self, stream: Any) -> None:
        self._stream = stream
        while True:
            data, sender = await stream.recv()
            for reply in self.answers(data, False, sender[1]):
                await stream.send(reply, sender)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
                while True:
                    size = struct.unpack(">H", await reader.readexactly(2))[0]
                    port = writer.get_extra_info("peername")[1]
                    for reply in self.answers(await reader.readexactly(size), True, port):
                        if not reply:  # the end of the connection
                            return
                        writer.write(struct.pack(">H", len(reply)) + reply)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


def _same_port(hosts: Iterable[str]) -> tuple[int, list[tuple[socket.socket, socket.socket]]]:
    """A port that is free at all *hosts*, UDP and TCP, and the sockets."""
    for _ in range(50):
        port, pairs, made = 0, list[tuple[socket.socket, socket.socket]](), list[socket.socket]()
        try:
            for host in hosts:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    sock = socket.socket(family, kind)
                    made.append(sock)
                    sock.setblocking(False)
                    sock.bind((host, port))
                    port = sock.getsockname()[1]
                made[-1].listen()
                pairs.append((made[-2], made[-1]))
            return port, pairs
        except OSError:
            for sock in made:
                sock.close()
    raise AssertionError("no port is free")


@contextlib.asynccontextmanager
async def playing(*answers: Answer, hosts: Iterable[str] = ()) -> AsyncGenerator[list[Played]]:
    """Upstreams at 127.0.0.1, 127.0.0.2, ... (or *hosts*), all at one port."""
    at = list(hosts) or [f"127.0.0.{number}" for number in range(1, len(answers) + 1)]
    port, pairs = _same_port(at)
    async with contextlib.AsyncExitStack() as stack:
        found: list[Played] = []
        for host, answer, (udp, tcp) in zip(at, answers, pairs, strict=True):
            played = Played(host, port, answer)
            found.append(played)
            stream = await asyncio_dgram.from_socket(udp)
            stack.callback(stream.close)
            task = asyncio.create_task(played.datagrams(stream))
            stack.push_async_callback(asyncio.wait, [task])
            stack.callback(task.cancel)
            server = await asyncio.start_server(played.stream, sock=tcp)
            stack.callback(server.close)
            stack.callback(played.close)
        yield found
        for played in found:
            played.close()
