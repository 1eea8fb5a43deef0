"""Handlers for images.  Archives stream both ways: the store reads and writes in a thread, the loop moves the bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader, web

from ...netlib.errors import InvalidArgument, NotSupported
from ..times import until
from .call import Call
from .server import Route


class BodyReader:
    """A request's body as a file for a thread; every read waits for the loop to receive."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._rest:
            self._rest = asyncio.run_coroutine_threadsafe(self._content.readany(), self._loop).result()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class ResponseWriter:
    """An answer's body as a file for a thread, which waits until the client takes what it writes, SENT bytes at a time.

    No file of io's: when a client leaves, what is buffered is dropped with us.  One of io's would be flushed when it is
    collected, on the loop's own thread as likely as not, which would wait for itself and with it every client.
    """

    SENT = 1 << 20

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._kept = bytearray()

    def write(self, data: bytes, /) -> int:
        self._kept += data
        if len(self._kept) >= self.SENT:
            self.flush()
        return len(data)

    def flush(self) -> None:
        block = bytes(self._kept)
        self._kept.clear()
        asyncio.run_coroutine_threadsafe(self._response.write(block), self._loop).result()


async def progress(call: Call, work: Callable[[], list[dict[str, Any]]]) -> web.StreamResponse:
    """JSON lines of what *work* did.  It fails before anything is sent, so the failure has its own status."""
    lines = await call.wait(work)
    response = await call.stream("application/json")
    for line in lines:
        await response.write(json.dumps(line).encode() + b"\r\n")
    await response.write_eof()
    return response


async def list_images(call: Call) -> web.StreamResponse:
    filters = call.filters()
    if call.text("filter"):  # before API 1.28
        filters.fields.setdefault("reference", []).append(call.text("filter"))
    return call.reply(await call.work(call.engine.images.summaries, all=call.flag("all"), filters=filters, until=until))


async def inspect(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(call.engine.images.inspect, call["name"]))


async def history(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(call.engine.images.history, call["name"]))


async def remove(call: Call) -> web.StreamResponse:
    removed = await call.wait(call.engine.images.remove, call["name"], force=call.flag("force"))
    return call.reply(removed)


async def tag(call: Call) -> web.StreamResponse:
    if not call.text("repo"):
        raise InvalidArgument("invalid reference format: repository name must not be empty")
    await call.work(call.engine.images.tag, call["name"], call.text("repo"), call.text("tag"))
    return call.empty(201)


async def prune(call: Call) -> web.StreamResponse:
    return call.reply(await call.wait(call.engine.images.prune, call.filters(), until))


async def create(call: Call) -> web.StreamResponse:
    """A pull (``fromImage``), which finds only what is here, or an import (``fromSrc=-``)."""
    images = call.engine.images
    name = call.text("fromImage")
    if name:
        mark = call.text("tag")
        reference = f"{name}@{mark}" if ":" in mark else f"{name}:{mark}" if mark else name
        return await progress(call, lambda: list(images.pull(reference)))
    source = call.text("fromSrc")
    if source != "-":
        raise NotSupported("importing from a URL is not supported", hint="download it and send it: fromSrc=-")
    repo, mark = call.text("repo"), call.text("tag")
    reference = f"{repo}:{mark}" if repo and mark else repo
    body = BodyReader(call.http.content)
    return await progress(
        call, lambda: images.import_rootfs(body, reference, call.texts("changes"), call.text("message"))
    )


async def load(call: Call) -> web.StreamResponse:
    body = BodyReader(call.http.content)
    return await progress(call, lambda: call.engine.images.load(body))


async def bootstrap(call: Call) -> web.StreamResponse:
    """Ours: make an image from the host's static busybox."""
    body = await call.json()
    reference = str(body.get("Reference") or call.text("reference"))
    return call.reply(await call.wait(call.engine.images.bootstrap, reference), 201)


async def save(call: Call) -> web.StreamResponse:
    names = [call["name"]] if "name" in call.params else call.texts("names")
    if not names:
        raise InvalidArgument("no image named: names must name one")
    store = call.engine.images.store
    for name in names:
        await call.work(store.get, name)
    response = await call.stream("application/x-tar")
    writer = ResponseWriter(response)

    def write() -> None:
        store.save(names, writer)
        writer.flush()

    await call.wait(write)
    await response.write_eof()
    return response


ROUTES: list[Route] = [
    ("GET", "/images/json", list_images),
    ("POST", "/images/create", create),
    ("POST", "/images/load", load),
    ("GET", "/images/get", save),
    ("POST", "/images/prune", prune),
    ("POST", "/pynet/images/bootstrap", bootstrap),
    ("GET", "/images/{name:path}/json", inspect),
    ("GET", "/images/{name:path}/history", history),
    ("GET", "/images/{name:path}/get", save),
    ("POST", "/images/{name:path}/tag", tag),
    ("DELETE", "/images/{name:path}", remove),
]
