"""Handlers whose answer is a stream of a process: logs, attach, exec start, and the terminals' sizes."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future

from aiohttp import web

from ...netlib.errors import Conflict, InvalidArgument, NotFound, PynetError
from ...runtime.client import ExecStarted, StartFailed
from ..container.execs import Exec
from ..container.hostconfig import console_size
from ..container.logs import STDOUT, LogFile, Selection, frame, send
from ..container.record import Container
from ..container.run import exec_error
from ..fields import Fields
from ..grammar.detach import parse_keys
from ..options import judge
from ..times import parse_time
from .call import Call, quoted, whole_number
from .exec_streams import ExecStreams
from .hijack import MULTIPLEXED, RAW, Hijacked, Stream, take_over
from .pipes import forward_input, until_first
from .server import Route


def tail_count(text: str) -> int | None:
    """``tail``: "all", "", what is no number and a negative one mean everything (moby does the same)."""
    try:
        count = int(text)
    except ValueError:
        return None
    return count if count >= 0 else None


def _log_of(call: Call, container: Container, *, at_end: bool = False) -> LogFile:
    """NotFound when its directory is gone already: it is being removed."""
    try:
        return LogFile(str(call.engine.registry.log_path(container)), at_end=at_end)
    except FileNotFoundError:
        raise NotFound(f"No such container: {container.id}") from None


async def logs(call: Call) -> web.StreamResponse:
    container = call.engine.registry.get(call["id"])
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
    log = _log_of(call, container)
    ended = container.expect("exit") if call.flag("follow") else None
    if ended is not None and not container.ends_later:
        container.forget("exit", ended)
        ended = None
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
    container = engine.registry.get(call["id"])
    keys = parse_keys(call.text("detachKeys"))
    # first the expectations, then the look: what happens in between is expected already, and no lock is needed
    ended = container.expect("exit")
    started = container.expect("started")
    try:
        status = container.state.status
        if status == "paused":
            raise Conflict(
                f"container {container.id} is paused, unpause the container before attach",
                hint="`pynet unpause` it first",
            )
        if status == "restarting":
            raise Conflict(
                f"container {container.id} is restarting, wait until the container is running",
                hint="wait until it runs, or `pynet stop` it",
            )
        await _attach(call, container, keys, started if status != "running" else None, ended)
    finally:
        container.forget("exit", ended)
        container.forget("started", started)
    return Hijacked()


async def _attach(
    call: Call, container: Container, keys: bytes, started: Future[int] | None, ended: Future[int]
) -> None:
    """Carry a container's output, and its input once it has *started* (None: it has), until it has *ended*."""
    engine = call.engine
    selection = Selection(stdout=call.flag("stdout"), stderr=call.flag("stderr"))
    framed, follow = not container.tty, call.flag("stream")
    log = _log_of(call, container, at_end=not call.flag("logs"))
    try:
        stream = take_over(call, framed=framed)
        try:
            engine.events.publish("container", "attach", container.id, container.attributes())
            inotify = engine.inotify() if follow else None
            until = ended if follow else None
            output = send(log, selection, stream.write, framed=framed, inotify=inotify, ended=until, joined=True)
            if follow and call.flag("stdin") and container.config["OpenStdin"]:
                await until_first(output, _attach_input(call, container, stream, started, keys))
            else:
                await output
        finally:
            stream.close()
    finally:
        log.close()


async def _attach_input(
    call: Call, container: Container, stream: Stream, started: Future[int] | None, keys: bytes
) -> bool:
    """Client to stdin, once the container runs; True when the client detached."""
    if started is not None:
        await asyncio.wrap_future(started)
    fds = await call.acquire(call.engine.supervisor.attach, container.id, release=close_all)
    try:
        if not fds:
            return False
        detached = await forward_input(stream, fds[0], keys if container.tty else b"")
        if detached:
            call.engine.events.publish("container", "detach", container.id, container.attributes())
        return detached
    finally:
        close_all(fds)


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


# -- exec --------------------------------------------------------------------------------------------------------


async def _start(call: Call, made: Exec) -> ExecStreams:
    """Run the command.  It goes on when its client leaves, even while it starts: then somebody else must read its output."""
    engine = call.engine
    loop = asyncio.get_running_loop()

    def discard(started: ExecStarted) -> None:
        engine.pools.background(ExecStreams(made, started).discard())

    def unclaimed(started: ExecStarted) -> None:
        loop.call_soon_threadsafe(discard, started)

    return ExecStreams(made, await call.acquire(engine.execs.start, made, release=unclaimed))


async def exec_start(call: Call) -> web.StreamResponse:
    body = Fields(await call.json())
    judge(body, "ExecStart", warn=False)
    made = call.engine.execs.get(call["id"])
    if console_size(body.body.get("ConsoleSize")):
        made.console = console_size(body.body["ConsoleSize"])
    keys = parse_keys(made.detach_keys)
    detach = body.boolean("Detach")
    streams: ExecStreams | None = None
    if detach or call.text("errors") == "status":  # pynet's own: the client wants to hear before it has a stream
        try:
            streams = await _start(call, made)
        except StartFailed as error:
            raise exec_error(error) from error
    else:
        call.engine.execs.check(made)
    if detach and streams is not None:
        call.engine.pools.background(streams.discard())
        return call.empty(200)
    try:
        stream = take_over(call, framed=not made.tty)
        try:
            if streams is None:
                streams = await _start(call, made)
            await streams.carry(stream, keys)
        except PynetError as error:
            # the client has its stream already: the reason goes there, the exit code into the inspect (as moby does)
            text = f"{exec_error(error) if isinstance(error, StartFailed) else error}\r\n".encode()
            await stream.write(text if made.tty else frame(STDOUT, text))
        finally:
            stream.close()
    finally:
        if streams is not None:
            if made.ended.done():
                streams.close()
            else:
                # the client left or detached: the command goes on, and must not be stopped by a pipe that nobody reads
                call.engine.pools.background(streams.discard())
    return Hijacked()


async def exec_create(call: Call) -> web.StreamResponse:
    body = await call.json()
    made = await call.work(call.engine.execs.create, call["id"], body)
    return call.reply({"Id": made.id}, 201)


async def exec_inspect(call: Call) -> web.StreamResponse:
    return call.reply(call.engine.execs.inspect(call["id"]))


def _size(call: Call) -> tuple[int, int]:
    """winsize of ioctl_tty(2) has 16 bits for each; the words are moby's."""
    found: list[int] = []
    for name, what in (("h", "height"), ("w", "width")):
        prefix = f"invalid resize {what} {quoted(call.text(name))}: "
        found.append(whole_number(call.text(name), least=0, most=65535, prefix=prefix))
    return found[0], found[1]


async def exec_resize(call: Call) -> web.StreamResponse:
    made = call.engine.execs.get(call["id"])
    height, width = _size(call)
    if made.running and made.tty:
        await call.work(call.engine.supervisor.resize, made.container_id, height, width, exec_id=made.id)
    elif not made.started:
        made.console = height, width
    return call.empty(200)


async def resize(call: Call) -> web.StreamResponse:
    container = call.engine.registry.get(call["id"])
    height, width = _size(call)
    if not container.running:
        raise Conflict(
            f"cannot resize a stopped container: container {container.id} is not running",
            hint="`pynet start` it first; `pynet ps -a` shows its state",
        )
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
