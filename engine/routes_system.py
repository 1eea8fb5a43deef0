"""/_ping, /version, /info, /system/df, /events."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from . import system
from .call import Call, base_headers
from .server import Route
from .times import parse_time


async def ping(call: Call) -> web.StreamResponse:
    headers = base_headers()
    headers.update(
        {
            "Builder-Version": "1",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
            "Swarm": "inactive",
        }
    )
    return web.Response(text="OK", headers=headers)


async def version(call: Call) -> web.StreamResponse:
    return call.reply(system.version())


async def info(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(system.info, call.engine))


async def disk_usage(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(system.disk_usage, call.engine, set(call.texts("type"))))


async def auth(call: Call) -> web.StreamResponse:
    await call.json()
    return call.reply({"message": "registries are not supported"}, status=501)


async def events(call: Call) -> web.StreamResponse:
    since, until = parse_time(call.text("since")), parse_time(call.text("until"))
    filters = call.filters()
    with call.engine.events.subscribe(filters, since=since) as subscription:
        response = await call.stream("application/json")
        async for event in subscription.until(until):
            await response.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
    await response.write_eof()
    return response


# -- ours --------------------------------------------------------------------------------------------------------


async def check(call: Call) -> web.StreamResponse:
    """How the kernel differs from what should be."""
    found = await call.engine.wait(call.engine.controller.check)
    return call.reply([{"state": d.state, "kind": d.kind, "name": d.name} for d in found])


async def repair(call: Call) -> web.StreamResponse:
    found = await call.engine.wait(call.engine.controller.repair)
    return call.reply([{"state": d.state, "kind": d.kind, "name": d.name} for d in found])


async def shutdown(call: Call) -> web.StreamResponse:
    """End the daemon; with ``all=1`` the containers and the other processes too, and answer when they have ended."""
    everything = call.flag("all")
    if everything:
        await call.engine.wait(call.engine.lifecycle.stop_all)
    asyncio.get_running_loop().call_later(0, call.engine.stopping, everything)
    return call.empty()


ROUTES: list[Route] = [
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
    ("POST", "/auth", auth),
    ("GET", "/system/df", disk_usage),
    ("GET", "/events", events),
    ("GET", "/pynet/check", check),
    ("POST", "/pynet/repair", repair),
    ("POST", "/pynet/shutdown", shutdown),
]
