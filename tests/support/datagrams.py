"""UDP peers in a test's own event loop, by asyncio-dgram: a call sends, a call receives, and nothing blocks the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import asyncio_dgram

HOST = "127.0.0.1"
Address = tuple[str, int]


@contextlib.asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncGenerator[Address]:
    """The address of a server that answers each datagram."""
    stream = await asyncio_dgram.bind((HOST, 0))

    async def serve() -> None:
        while True:
            data, sender = await stream.recv()
            await stream.send(answer(data), sender)

    task = asyncio.create_task(serve())
    try:
        yield stream.sockname
    finally:
        task.cancel()
        await asyncio.wait([task])
        stream.close()


@contextlib.asynccontextmanager
async def asking(address: Address) -> AsyncGenerator[Callable[[bytes], Awaitable[bytes]]]:
    """One client of *address*: what it is called with is sent, and the next datagram is the answer."""
    stream = await asyncio_dgram.connect(address)

    async def ask(question: bytes) -> bytes:
        await stream.send(question)
        data, _ = await asyncio.wait_for(stream.recv(), 20)
        return data

    try:
        yield ask
    finally:
        stream.close()
