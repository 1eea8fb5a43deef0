"""Streams that take over the connection: attach and exec.

    client                                       pynetd
    POST .../attach  Upgrade: tcp    ----->
                                     <-----      101 UPGRADED          (200 OK when no upgrade was asked for)
    stdin, raw                       ----->
                                     <-----      a terminal's output raw, else frames (logs.py)
    half-close: end of stdin         ----->
                                     <-----      the end: the process ended, or was detached from

After the answer's head the connection is no HTTP any more.  The transport gets a new protocol, ours; aiohttp's, which still owns
the handler's task, is told when the connection is lost, as if it had seen it itself: that cancels the handler.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from .call import Call
from .hangup import Hangup

BUFFER = 256 << 10
RAW, MULTIPLEXED = "application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream"


class Hijacked(web.StreamResponse):
    """What the handler returns to aiohttp: an answer that was given already, or that nobody waits for."""

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
        self._eof: bool = getattr(before, "half_closed", False)
        """A client that has nothing to type may have closed its half with the request."""
        self._lost = False
        self._hangup = Hangup(transport)
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
        return self._hangup.half_closed()  # keep our half open: output goes on after the end of stdin

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = self._lost = True
        self._hangup.close()
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
        """Send, and wait until there is room for more.  Others have a turn in any case.

        Without that turn the loop would neither serve them nor see that this client left: a transport tells both from
        the loop, and takes everything without a wait meanwhile.
        """
        if self._lost:
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await asyncio.sleep(0)
        await self._writable.wait()

    def close(self) -> None:
        self._transport.close()


def take_over(call: Call, *, framed: bool) -> Stream:
    """Answer the head and take the connection.  Everything that can fail must have been done before."""
    transport = call.http.transport
    if transport is None or transport.is_closing():
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
