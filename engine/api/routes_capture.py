"""A container's packets as a stream of pcapng: pynet's own.

Between two batches the handler waits for the sockets in the loop, and no thread waits with it; a batch is read in a thread of
the pool.  A client that reads slowly holds up the next batch: what does not fit the kernel's buffers meanwhile is dropped there
and counted.  A client that leaves ends the capture.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from ...netlib.capture import LOOK, Capture
from .call import Call
from .server import Route

PCAPNG = "application/x-pcapng"


async def capture(call: Call) -> web.StreamResponse:
    captures = call.engine.captures
    opened = await call.acquire(
        captures.open,
        call["id"],
        call.texts("interface"),
        call.integer("snaplen") or 0,
        call.text("filter"),
        call.integer("count") or 0,
        release=captures.close,
    )
    try:
        response = await call.stream(PCAPNG)
        await response.write(opened.header)
        while not opened.ended:
            await _readable(opened)
            if blocks := await call.work(opened.read):
                await response.write(blocks)
        await response.write_eof()
        return response
    finally:
        captures.close(opened)


async def _readable(opened: Capture) -> None:
    """Return when there is something to read, or it is time for a look."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(opened.fileno(), readable.set)
    try:
        await asyncio.wait_for(readable.wait(), LOOK)
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(opened.fileno())


ROUTES: list[Route] = [("GET", "/pynet/containers/{id}/capture", capture)]
