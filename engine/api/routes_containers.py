"""Handlers for containers, without the streams (routes_streams.py)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from ...netlib.errors import Conflict, InvalidArgument
from ...runtime.client import StartFailed
from ..container import usage
from ..container.config import parse_signal
from ..container.hostconfig import resource_update
from ..container.record import Container
from ..container.rename import rename as rename_container
from ..container.run import start_error
from ..grammar.detach import parse_keys
from ..times import until
from .call import Call
from .server import Route

WAIT_CONDITIONS = ("not-running", "next-exit", "removed")


def find(call: Call) -> Container:
    return call.engine.registry.get(call["id"])


async def list_containers(call: Call) -> web.StreamResponse:
    return call.reply(
        await call.work(
            call.engine.view.summaries,
            all=call.flag("all"),
            limit=call.integer("limit") or 0,
            size=call.flag("size"),
            filters=call.filters(),
        )
    )


async def create(call: Call) -> web.StreamResponse:
    body = await call.json()
    platform = call.text("platform")
    if platform and platform.partition("/")[0] != "linux":
        raise InvalidArgument(f"platform {platform} is not supported: this engine runs linux containers")
    if call.flag("dry-run"):
        return call.reply(await call.change(call.engine.create.planned, call.text("name"), body))
    container, warnings = await call.change(call.engine.create.create, call.text("name"), body)
    return call.reply({"Id": container.id, "Warnings": warnings}, 201)


async def inspect(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(call.engine.view.inspect, call["id"], size=call.flag("size")))


async def start(call: Call) -> web.StreamResponse:
    await call.raw_body()  # clients before 1.24 sent a HostConfig here
    parse_keys(call.text("detachKeys"))
    try:
        await call.change(call.engine.run.start, find(call))
    except StartFailed as error:
        raise start_error(error) from error
    return call.empty()


def _stop_options(call: Call) -> dict[str, Any]:
    signal = call.text("signal")
    return {"signal": parse_signal(signal) if signal else None, "timeout": call.integer("t")}


async def stop(call: Call) -> web.StreamResponse:
    await call.wait(call.engine.stop.stop, find(call), **_stop_options(call))
    return call.empty()


async def restart(call: Call) -> web.StreamResponse:
    try:
        await call.wait(call.engine.run.restart, find(call), **_stop_options(call))
    except StartFailed as error:
        raise start_error(error) from error
    return call.empty()


async def kill(call: Call) -> web.StreamResponse:
    signal = call.text("signal")
    await call.change(call.engine.stop.kill, find(call), parse_signal(signal) if signal else 9)
    return call.empty()


async def pause(call: Call) -> web.StreamResponse:
    await call.change(call.engine.run.pause, find(call))
    return call.empty()


async def unpause(call: Call) -> web.StreamResponse:
    await call.change(call.engine.run.unpause, find(call))
    return call.empty()


async def rename(call: Call) -> web.StreamResponse:
    engine = call.engine
    await call.change(rename_container, engine.core, engine.registry, engine.hosts, call["id"], call.text("name"))
    return call.empty()


async def remove(call: Call) -> web.StreamResponse:
    if call.flag("link"):
        raise InvalidArgument(
            "a link can not be removed by itself: it is part of the container that has it",
            hint="make that container anew without --link",
        )
    await call.wait(call.engine.remove.remove, call["id"], force=call.flag("force"), volumes=call.flag("v"))
    return call.empty()


async def wait(call: Call) -> web.StreamResponse:
    """The head is sent at once, so that a client knows that the wait has begun before it starts the container."""
    container = find(call)
    condition = call.text("condition") or "not-running"
    if condition not in WAIT_CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    what = "removed" if condition == "removed" else "exit"
    future = container.expect(what)
    over = condition == "not-running" and not container.ends_later
    try:
        response = await call.stream("application/json")
        code = container.state.exit_code if over else await asyncio.wrap_future(future)
        answer: dict[str, Any] = {"StatusCode": code}
        if what == "removed" and container.removal_error:
            answer["Error"] = {"Message": container.removal_error}
        await response.write(json.dumps(answer).encode() + b"\n")
        await response.write_eof()
        return response
    finally:
        container.forget(what, future)


async def update(call: Call) -> web.StreamResponse:
    changes, warnings = resource_update(await call.json())
    container = find(call)
    await call.change(call.engine.run.update, container, changes)
    if container.running and changes.keys() - {"RestartPolicy"}:
        warnings.append("The new limits take effect at the container's next start.")
    return call.reply({"Warnings": warnings or None})


async def prune(call: Call) -> web.StreamResponse:
    return call.reply(await call.wait(call.engine.remove.prune, call.filters(), until))


async def top(call: Call) -> web.StreamResponse:
    container = find(call)
    if not container.running:
        raise Conflict(
            f"container {container.id} is not running", hint="`pynet start` it first; `pynet ps -a` shows its state"
        )
    pids = await call.work(call.engine.supervisor.processes, container.id)
    return call.reply(await call.work(usage.top, pids, call.text("ps_args")))


async def stats(call: Call) -> web.StreamResponse:
    """One sample, or one a second.  Without ``one-shot`` the first has the sample of a second before in ``precpu_stats``."""
    container = find(call)
    stream, one_shot = call.flag("stream", True), call.flag("one-shot")
    if stream and one_shot:
        raise InvalidArgument("cannot have stream=true and one-shot=true")

    async def sample() -> usage.Sample:
        return await call.work(usage.sample, call.engine.supervisor, container)

    if not stream:
        before = await sample()
        if one_shot or not container.running:
            return call.reply(usage.stats_shape(container, before, None))
        await asyncio.sleep(1)
        return call.reply(usage.stats_shape(container, await sample(), before))
    response = await call.stream("application/json")
    previous: usage.Sample | None = None
    while True:
        current = await sample()
        shape = usage.stats_shape(container, current, previous)
        await response.write(json.dumps(shape, separators=(",", ":")).encode() + b"\n")
        previous = current
        if container.state.status == "removing" or call.engine.registry.find_id(container.id) is None:
            break
        await asyncio.sleep(1)
    await response.write_eof()
    return response


ROUTES: list[Route] = [
    ("GET", "/containers/json", list_containers),
    ("POST", "/containers/create", create),
    ("POST", "/containers/prune", prune),
    ("GET", "/containers/{id}/json", inspect),
    ("GET", "/containers/{id}/top", top),
    ("GET", "/containers/{id}/stats", stats),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/restart", restart),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/pause", pause),
    ("POST", "/containers/{id}/unpause", unpause),
    ("POST", "/containers/{id}/rename", rename),
    ("POST", "/containers/{id}/update", update),
    ("POST", "/containers/{id}/wait", wait),
    ("DELETE", "/containers/{id}", remove),
]
