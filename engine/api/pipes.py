"""Bytes between a client's stream and a container's pipes and terminals, in the event loop.

Every step gives the loop a turn, also when neither side has to be waited for: a container that writes without end must not
keep other clients from being served, nor the loss of its own client from being seen.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..grammar.detach import DetachScanner

if TYPE_CHECKING:
    from .hijack import Stream

BLOCK = 64 << 10


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
            data = os.read(fd, BLOCK)
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
        await asyncio.sleep(0)  # a sink may take everything at once


async def forward_input(stream: Stream, fd: int, keys: bytes) -> bool:
    """Client to *fd*, until the client's end, the reader's end, or the detach keys (then True; b"" is none)."""
    os.set_blocking(fd, False)
    scanner = DetachScanner(keys) if keys else None
    while data := await stream.read():
        if scanner is not None:
            data = scanner.feed(data)
        try:
            await write_all(fd, data)
        except OSError:
            return False  # nobody reads any more: the process closed its stdin or ended
        if scanner is not None and scanner.detached:
            return True
    return False


async def until_first(output: Any, typed: Any) -> None:
    """Until the output ends, or the client detached (*typed* says True)."""
    tasks = [asyncio.ensure_future(output), asyncio.ensure_future(typed)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done() and not (tasks[1].done() and not tasks[1].exception() and tasks[1].result()):
            await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, ConnectionError):
            raise result
