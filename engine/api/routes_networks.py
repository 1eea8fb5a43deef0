"""Handlers for networks."""

from __future__ import annotations

from aiohttp import web

from ...netlib.errors import NotFound
from ..times import until
from .call import Call
from .server import Route


async def list_networks(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(call.engine.networks.list, call.filters()))


async def inspect_network(call: Call) -> web.StreamResponse:
    scope = call.text("scope")
    if scope and scope != "local":
        raise NotFound(f"network {call['id']} not found")
    return call.reply(await call.work(call.engine.networks.inspect, call["id"]))


async def create_network(call: Call) -> web.StreamResponse:
    body = await call.json()
    if call.flag("dry-run"):
        return call.reply(await call.change(call.engine.networks.planned_create, body, call.version))
    return call.reply(await call.change(call.engine.networks.create, body, call.version), 201)


async def connect(call: Call) -> web.StreamResponse:
    body = await call.json()
    if call.flag("dry-run"):
        return call.reply(await call.change(call.engine.networks.planned_connect, call["id"], body))
    await call.change(call.engine.networks.connect, call["id"], body)
    return call.empty(200)


async def disconnect(call: Call) -> web.StreamResponse:
    body = await call.json()
    if call.flag("dry-run"):
        return call.reply(await call.change(call.engine.networks.planned_disconnect, call["id"], body))
    await call.change(call.engine.networks.disconnect, call["id"], body)
    return call.empty(200)


async def limit(call: Call) -> web.StreamResponse:
    body = await call.json()
    dry = call.flag("dry-run")
    answer = await call.change(call.engine.networks.limit, call["id"], body, dry=dry)
    return call.reply(answer) if dry else call.empty()


async def statistics(call: Call) -> web.StreamResponse:
    return call.reply(await call.wait(call.engine.networks.statistics, call.text("network")))


async def remove_network(call: Call) -> web.StreamResponse:
    await call.change(call.engine.networks.remove, call["id"])
    return call.empty()


async def prune_networks(call: Call) -> web.StreamResponse:
    return call.reply(await call.wait(call.engine.networks.prune, call.filters(), until))


ROUTES: list[Route] = [
    ("GET", "/networks", list_networks),
    ("GET", "/networks/", list_networks),
    ("POST", "/networks/create", create_network),
    ("POST", "/networks/prune", prune_networks),
    ("GET", "/networks/{id}", inspect_network),
    ("POST", "/networks/{id}/connect", connect),
    ("POST", "/networks/{id}/disconnect", disconnect),
    ("GET", "/pynet/networks/stats", statistics),
    ("POST", "/pynet/networks/{id}/limit", limit),
    ("DELETE", "/networks/{id}", remove_network),
]
