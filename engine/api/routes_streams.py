"""Handlers whose answer is a stream of a process: logs, attach, exec start, and the terminals' sizes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ...netlib.errors import Conflict, InvalidArgument, PynetError
from ...runtime.client import StartFailed
from ..container.execs import Exec, console_size
from ..container.lifecycle import exec_error
from ..container.logs import STDERR, STDOUT, LogFile, Selection, frame, send
from ..container.record import Container
from ..fields import Fields
from ..times import parse_time
from .call import Call
from .hijack import (
    MULTIPLEXED,
    RAW,
    DetachScanner,
    Hijacked,
    Stream,
    parse_keys,
    pump,
    take_over,
    write_all,
)
from .server import Route


def tail_count(text: str) -> int | None:
    """``tail``: "all", "" and what is no number mean everything (moby does the same)."""
    try:
        return max(int(text), 0) if text and text != "all" else None
    except ValueError:
        return None


async def logs(call: Call) -> web.StreamResponse:
    container = call.engine.containers.get(call["id"])
    if not (call.flag("stdout") or call.flag("stderr")):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    if container.host_config["LogConfig"]["Type"] == "none":
        raise InvalidArgument("configured logging driver does not support reading")
    selection = Selection(
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        since=parse_time(call.text("since")),
        until=parse_time(call.text("until")),
        timestamps=call.flag("timestamps"),
        tail=tail_count(call.text("tail")),
    )
    framed = not container.tty
    with container.lock:
        ended = container.expect("exit") if call.flag("follow") and container.running else None
    log = LogFile(str(call.engine.containers.log_path(container)))
    try:
        response = await call.stream(MULTIPLEXED if framed and call.version >= (1, 42) else RAW)
        inotify = call.engine.inotify() if ended else None
        await send(log, selection, response.write, framed=framed, inotify=inotify, ended=ended)
        await response.write_eof()
        return response
    finally:
        log.close()
        if ended is not None:
            container.forget("exit", ended)


# -- attach ------------------------------------------------------------------------------------------------------


async def attach(call: Call) -> web.StreamResponse:
    engine = call.engine
    container = engine.containers.get(call["id"])
    keys = parse_keys(call.text("detachKeys"))
    with container.lock:
        status = container.state.status
        if status == "paused":
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        if status == "restarting":
            raise Conflict(f"container {container.id} is restarting, wait until the container is running")
        ended = container.expect("exit") if call.flag("stream") else None
        started = container.expect("started") if status != "running" else None
        log = LogFile(str(engine.containers.log_path(container)), at_end=not call.flag("logs"))
    selection = Selection(stdout=call.flag("stdout"), stderr=call.flag("stderr"))
    try:
        framed = not container.tty
        stream = take_over(call, framed=framed)
        try:
            engine.events.publish("container", "attach", container.id, container.attributes())
            inotify = engine.inotify() if ended else None
            output = send(log, selection, stream.write, framed=framed, inotify=inotify, ended=ended)
            if ended is not None and call.flag("stdin") and container.config["OpenStdin"]:
                await _until_first(output, _attach_input(call, container, stream, started, keys))
            else:
                await output
        finally:
            stream.close()
        return Hijacked()
    finally:
        log.close()
        if ended is not None:
            container.forget("exit", ended)
        if started is not None:
            container.forget("started", started)


async def _until_first(output: Any, typed: Any) -> None:
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


async def _attach_input(call: Call, container: Container, stream: Stream, started: Any, keys: bytes) -> bool:
    """Client to stdin, once the container runs; True when the client detached."""
    if started is not None:
        await asyncio.wrap_future(started)
    fds = await call.work(call.engine.supervisor.attach, container.id)
    try:
        if not fds:
            return False
        detached = await forward_input(stream, fds[0], keys if container.tty else b"", tty=container.tty)
        if detached:
            call.engine.events.publish("container", "detach", container.id, container.attributes())
        return detached
    finally:
        for fd in fds:
            os.close(fd)


async def forward_input(stream: Stream, fd: int, keys: bytes, *, tty: bool) -> bool:
    """Until the client's end, the reader's end, or the detach keys (then True)."""
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


# -- exec --------------------------------------------------------------------------------------------------------


async def exec_start(call: Call) -> web.StreamResponse:
    body = Fields(await call.json())
    made = call.engine.execs.get(call["id"])
    if console_size(body.body.get("ConsoleSize")):
        made.console = console_size(body.body["ConsoleSize"])
    keys = parse_keys(made.detach_keys)
    fds: list[int] | None = None
    if body.boolean("Detach"):
        try:
            fds = await call.work(call.engine.execs.start, made)
        except StartFailed as error:
            raise exec_error(error) from error
        call.engine.background(ExecStreams(made, fds).discard())
        return call.empty(200)
    call.engine.execs.check(made)
    if call.text("errors") == "status":  # pynet's own: the client wants to hear before it has a stream
        try:
            fds = await call.work(call.engine.execs.start, made)
        except StartFailed as error:
            raise exec_error(error) from error
    try:
        stream = take_over(call, framed=not made.tty)
    except BaseException:
        if fds is not None:
            call.engine.background(ExecStreams(made, fds).discard())
        raise
    try:
        try:
            if fds is None:
                fds = await call.work(call.engine.execs.start, made)
        except PynetError as error:
            # the client has its stream already: the reason goes there, the exit code into the inspect (as moby does)
            text = f"{exec_error(error) if isinstance(error, StartFailed) else error}\r\n".encode()
            await stream.write(text if made.tty else frame(STDOUT, text))
            return Hijacked()
        streams = ExecStreams(made, fds)
        try:
            await streams.carry(stream, keys)
        finally:
            if not made.ended.done():
                # the client left or detached: the command goes on, and must not be stopped by a pipe that nobody reads
                call.engine.background(streams.discard())
            else:
                streams.close()
    finally:
        stream.close()
    return Hijacked()


class ExecStreams:
    """The descriptors of a command, which we own: a terminal's master, or up to three pipes."""

    def __init__(self, made: Exec, fds: list[int]) -> None:
        self._made = made
        for fd in fds:
            os.set_blocking(fd, False)
        self._input = fds[0] if made.tty or made.stdin else -1
        self._outputs = fds[:1] if made.tty else fds[1:] if made.stdin else fds
        self._over = asyncio.Event()
        loop = asyncio.get_running_loop()
        made.ended.add_done_callback(lambda _: loop.call_soon_threadsafe(self._over.set))

    async def carry(self, stream: Stream, keys: bytes) -> None:
        """Between the client and the command, until it has ended, or the client has left or detached."""
        made = self._made
        wanted = [made.stdout or made.stderr] if made.tty else [made.stdout, made.stderr]

        def sink(number: int, want: bool) -> Callable[[bytes], Awaitable[None]]:
            async def write(data: bytes) -> None:
                if want:
                    await stream.write(data if made.tty else frame(number, data))

            return write

        async def typed() -> bool:
            detached = await forward_input(stream, self._input, keys if made.tty else b"", tty=made.tty)
            self._close_input()
            return detached

        output = self._read([sink(number, want) for number, want in zip((STDOUT, STDERR), wanted)])
        try:
            if made.stdin:
                await _until_first(output, typed())
            else:
                self._close_input()
                await output
        except ConnectionError:
            pass  # the client is gone

    async def discard(self) -> None:
        """Read and drop the output until the command has ended."""

        async def drop(data: bytes) -> None:
            pass

        try:
            self._close_input()
            await self._read([drop] * len(self._outputs))
        finally:
            self.close()

    async def _read(self, sinks: list[Callable[[bytes], Awaitable[None]]]) -> None:
        await asyncio.gather(*(pump(fd, sink, self._over) for fd, sink in zip(self._outputs, sinks)))
        await self._over.wait()

    def _close_input(self) -> None:
        """End of input for a pipe; a terminal's end is its hang-up, which comes with ``close``."""
        if self._input >= 0 and not self._made.tty:
            os.close(self._input)
            self._input = -1

    def close(self) -> None:
        self._close_input()
        for fd in self._outputs:
            os.close(fd)
        self._outputs = []


async def exec_create(call: Call) -> web.StreamResponse:
    body = await call.json()
    made = await call.work(call.engine.execs.create, call["id"], body)
    return call.reply({"Id": made.id}, 201)


async def exec_inspect(call: Call) -> web.StreamResponse:
    return call.reply(call.engine.execs.inspect(call["id"]))


def _size(call: Call) -> tuple[int, int]:
    height, width = call.integer("h"), call.integer("w")
    if height is None or width is None or not (0 <= height < 65536 and 0 <= width < 65536):
        raise InvalidArgument("invalid resize: h and w must be numbers from 0 to 65535")
    return height, width


async def exec_resize(call: Call) -> web.StreamResponse:
    made = call.engine.execs.get(call["id"])
    height, width = _size(call)
    if made.running and made.tty:
        await call.work(call.engine.supervisor.resize, made.container_id, height, width, exec_id=made.id)
    elif not made.started:
        made.console = height, width
    return call.empty(200)


async def resize(call: Call) -> web.StreamResponse:
    container = call.engine.containers.get(call["id"])
    height, width = _size(call)
    if not container.running:
        raise Conflict(f"cannot resize a stopped container: container {container.id} is not running")
    try:
        await call.work(call.engine.supervisor.resize, container.id, height, width)
    except PynetError:
        if container.running and container.tty:
            raise  # else it ended meanwhile, or has no terminal: nothing to size
    return call.empty(200)


ROUTES: list[Route] = [
    ("GET", "/containers/{id}/logs", logs),
    ("POST", "/containers/{id}/attach", attach),
    ("POST", "/containers/{id}/resize", resize),
    ("POST", "/containers/{id}/exec", exec_create),
    ("POST", "/exec/{id}/start", exec_start),
    ("POST", "/exec/{id}/resize", exec_resize),
    ("GET", "/exec/{id}/json", exec_inspect),
]
