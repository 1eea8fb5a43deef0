"""Handlers for volumes."""

from __future__ import annotations

from aiohttp import web

from ..fields import Fields
from ..options import judge
from ..volumes import check_options
from .call import Call
from .server import Route


async def list_volumes(call: Call) -> web.StreamResponse:
    volumes = await call.work(call.engine.volumes.list, call.filters())
    return call.reply({"Volumes": volumes, "Warnings": None})


async def create_volume(call: Call) -> web.StreamResponse:
    body = Fields(await call.json())
    judge(body, "Volume", warn=False)
    check_options(body.string_map("DriverOpts"))
    made = await call.work(
        call.engine.volumes.create, body.text("Name"), body.string_map("Labels"), driver=body.text("Driver")
    )
    return call.reply(await call.work(call.engine.volumes.inspect, made["name"]), 201)


async def inspect_volume(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(call.engine.volumes.inspect, call["name"]))


async def remove_volume(call: Call) -> web.StreamResponse:
    await call.work(call.engine.volumes.remove, call["name"], force=call.flag("force"))
    return call.empty()


async def prune_volumes(call: Call) -> web.StreamResponse:
    filters = call.filters()
    if call.version < (1, 42):
        filters.fields.setdefault("all", ["true"])  # older clients mean every unused volume
    return call.reply(await call.wait(call.engine.volumes.prune, filters))


ROUTES: list[Route] = [
    ("GET", "/volumes", list_volumes),
    ("POST", "/volumes/create", create_volume),
    ("POST", "/volumes/prune", prune_volumes),
    ("GET", "/volumes/{name}", inspect_volume),
    ("DELETE", "/volumes/{name}", remove_volume),
]
