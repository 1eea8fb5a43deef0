"""Handlers for names: pynet's own.  What a container would be answered, what it may ask for, its query log as a stream."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from .call import Call
from .pipes import BLOCK, readable
from .server import Route


async def query(call: Call) -> web.StreamResponse:
    lookups = call.engine.lookups
    name, kind, tcp = call.text("name"), call.text("type"), call.flag("tcp")
    return call.reply(await call.work(lookups.query, call["id"], name, kind, tcp=tcp))


async def query_everywhere(call: Call) -> web.StreamResponse:
    lookups = call.engine.lookups
    return call.reply(await call.work(lookups.queries, call.text("name"), call.text("type"), tcp=call.flag("tcp")))


async def ls(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(call.engine.lookups.ls, call.text("container")))


async def log(call: Call) -> web.StreamResponse:
    """Ends when the client leaves, or the name server does."""
    fd = await call.acquire(call.engine.lookups.log, call["id"], release=os.close)
    try:
        response = await call.stream("application/x-ndjson")
        while True:
            await readable(fd)
            try:
                lines = os.read(fd, BLOCK)
            except BlockingIOError:
                continue
            if not lines:
                break
            await response.write(lines)
            await asyncio.sleep(0)
        await response.write_eof()
        return response
    finally:
        os.close(fd)


ROUTES: list[Route] = [
    ("GET", "/pynet/names", ls),
    ("GET", "/pynet/names/query", query_everywhere),
    ("GET", "/pynet/containers/{id}/names/query", query),
    ("GET", "/pynet/containers/{id}/names/log", log),
]
