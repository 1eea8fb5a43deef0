"""Streams that take over the connection: attach and exec.

    client                                       pynetd
    POST .../attach  Upgrade: tcp    ----->
                                     <-----      101 UPGRADED          (200 OK when no upgrade was asked for)
    stdin, raw                       ----->
                                     <-----      a terminal's output raw, else frames (logs.py)
    half-close: end of stdin         ----->
                                     <-----      the end: the process ended, or was detached from

After the answer's head the connection is no HTTP any more.  The transport gets a new protocol, ours; aiohttp's, which still owns
the handler's task, is told when the connection is lost, as if it had seen it itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from ...netlib.errors import InvalidArgument
from .call import Call

BUFFER = 256 << 10
RAW, MULTIPLEXED = "application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream"


class Hijacked(web.StreamResponse):
    """What the handler returns to aiohttp: an answer that was given already."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        return None


class Stream(asyncio.Protocol):
    """The connection after the take-over.  ``read`` gives b"" at the client's half-close."""

    def __init__(self, transport: asyncio.Transport, before: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._before = before
        self._data = bytearray()
        self._eof = False
        self._lost = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # -- what the transport tells ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._readable.set()
        if len(self._data) > BUFFER:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        self._readable.set()
        return True  # keep our half open: output goes on after the end of stdin

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = self._lost = True
        self._readable.set()
        self._writable.set()
        self._before.connection_lost(exc)

    # -- what the handler does -------------------------------------------------------------------------------

    async def read(self) -> bytes:
        while not self._data and not self._eof:
            self._readable.clear()
            await self._readable.wait()
        data = bytes(self._data)
        self._data.clear()
        if not self._lost:
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        if self._lost:
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await self._writable.wait()

    def close(self) -> None:
        self._transport.close()


def take_over(call: Call, *, framed: bool) -> Stream:
    """Answer the head and take the connection.  Everything that can fail must have been done before."""
    transport = call.http.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    stream = Stream(transport, transport.get_protocol())
    kind = MULTIPLEXED if framed and call.version >= (1, 42) else RAW
    if call.http.headers.get("Upgrade", "").lower() == "tcp":
        head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    else:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n"
    transport.set_protocol(stream)
    transport.resume_reading()
    transport.write(head.encode())
    return stream


# -- descriptors -------------------------------------------------------------------------------------------------


async def _ready(fd: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    """Wait until *fd* is ready; the descriptor is watched only meanwhile."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    add(fd, ready)
    try:
        await future
    finally:
        remove(fd)


async def readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    await _ready(fd, loop.add_reader, loop.remove_reader)


async def write_all(fd: int, data: bytes) -> None:
    """Write to a non-blocking pipe or terminal, waiting when it is full."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _ready(fd, loop.add_writer, loop.remove_writer)


async def pump(fd: int, sink: Callable[[bytes], Any], over: asyncio.Event) -> None:
    """Pass everything from a non-blocking *fd* to *sink* until its end; or, once *over* is set, until it has no more.

    The second end is for a child in the background that keeps the pipe of an ended command open.
    """
    while True:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            if over.is_set():
                return
            tasks: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(readable(fd)),
                asyncio.ensure_future(over.wait()),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            continue
        except OSError:
            return  # EIO: the last process of the terminal is gone (pty(7))
        if not data:
            return
        await sink(data)


# -- detach keys -------------------------------------------------------------------------------------------------

_CONTROL = {chr(ord("a") + n): bytes([n + 1]) for n in range(26)} | {
    "@": b"\0", "[": b"\x1b", "\\": b"\x1c", "]": b"\x1d", "^": b"\x1e", "_": b"\x1f",
}  # fmt: skip
DEFAULT_KEYS = "ctrl-p,ctrl-q"


def parse_keys(text: str) -> bytes:
    """ "ctrl-p,ctrl-q" to the bytes that a terminal sends (moby, pkg/term ToBytes)."""
    keys = b""
    for word in (text or DEFAULT_KEYS).split(","):
        if len(word) == 1:
            keys += word.encode()
        elif word.startswith("ctrl-") and word[5:] in _CONTROL:
            keys += _CONTROL[word[5:]]
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return keys


class DetachScanner:
    """Finds the detach keys in what is typed; keys that turn out not to be a detach are passed on late, none are lost."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What to pass on."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self.detached = True
                    return bytes(out)
                continue
            out += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0] and len(self._keys) > 1:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out)
