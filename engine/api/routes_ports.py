"""Handlers for the published ports of a container that is there already (ours: Docker's API has no such call)."""

from __future__ import annotations

from aiohttp import web

from .call import Call
from .server import Route


async def show(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(call.engine.ports.show, call["id"]))


async def add(call: Call) -> web.StreamResponse:
    body = await call.json()
    dry = call.flag("dry-run")
    return call.reply(await call.change(call.engine.ports.add, call["id"], body, dry=dry), 200 if dry else 201)


async def remove(call: Call) -> web.StreamResponse:
    dry = call.flag("dry-run")
    return call.reply(await call.change(call.engine.ports.remove, call["id"], call.texts("port"), dry=dry))


ROUTES: list[Route] = [
    ("GET", "/pynet/containers/{id}/ports", show),
    ("POST", "/pynet/containers/{id}/ports", add),
    ("DELETE", "/pynet/containers/{id}/ports", remove),
]
