"""Handlers for networks and volumes, and for what Docker has and this engine has not."""

from __future__ import annotations

from aiohttp import web

from ...netlib.errors import NotFound, NotSupported, Unavailable
from ..fields import Fields
from ..times import until
from ..volumes import check_options
from .call import Call
from .server import Handler, Route

# -- networks ----------------------------------------------------------------------------------------------------


async def list_networks(call: Call) -> web.StreamResponse:
    return call.reply(await call.work(call.engine.networks.list, call.filters()))


async def inspect_network(call: Call) -> web.StreamResponse:
    scope = call.text("scope")
    if scope and scope != "local":
        raise NotFound(f"network {call['id']} not found")
    return call.reply(await call.work(call.engine.networks.inspect, call["id"]))


async def create_network(call: Call) -> web.StreamResponse:
    body = await call.json()
    return call.reply(await call.work(call.engine.networks.create, body, call.version), 201)


async def connect(call: Call) -> web.StreamResponse:
    body = await call.json()
    await call.work(call.engine.networks.connect, call["id"], body)
    return call.empty(200)


async def disconnect(call: Call) -> web.StreamResponse:
    body = await call.json()
    await call.work(call.engine.networks.disconnect, call["id"], body)
    return call.empty(200)


async def remove_network(call: Call) -> web.StreamResponse:
    await call.work(call.engine.networks.remove, call["id"])
    return call.empty()


async def prune_networks(call: Call) -> web.StreamResponse:
    return call.reply(await call.engine.wait(call.engine.networks.prune, call.filters(), until))


# -- volumes -----------------------------------------------------------------------------------------------------


async def list_volumes(call: Call) -> web.StreamResponse:
    volumes = await call.work(call.engine.volumes.list, call.filters())
    return call.reply({"Volumes": volumes, "Warnings": None})


async def create_volume(call: Call) -> web.StreamResponse:
    body = Fields(await call.json())
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
    return call.reply(await call.engine.wait(call.engine.volumes.prune, filters))


# -- what is not here --------------------------------------------------------------------------------------------


def unsupported(what: str) -> Handler:
    async def handler(call: Call) -> web.StreamResponse:
        raise NotSupported(f"{what} is not supported by this engine yet")

    return handler


async def no_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
        "swarm and try again.",
        hint="this engine has no swarm mode",
    )


async def no_plugins(call: Call) -> web.StreamResponse:
    return call.reply([])


ROUTES: list[Route] = [
    ("GET", "/networks", list_networks),
    ("GET", "/networks/", list_networks),
    ("POST", "/networks/create", create_network),
    ("POST", "/networks/prune", prune_networks),
    ("GET", "/networks/{id}", inspect_network),
    ("POST", "/networks/{id}/connect", connect),
    ("POST", "/networks/{id}/disconnect", disconnect),
    ("DELETE", "/networks/{id}", remove_network),
    ("GET", "/volumes", list_volumes),
    ("POST", "/volumes/create", create_volume),
    ("POST", "/volumes/prune", prune_volumes),
    ("GET", "/volumes/{name}", inspect_volume),
    ("DELETE", "/volumes/{name}", remove_volume),
    ("GET", "/plugins", no_plugins),
    ("POST", "/build", unsupported("building images")),
    ("POST", "/build/prune", unsupported("building images")),
    ("POST", "/commit", unsupported("committing a container")),
    ("GET", "/containers/{id}/changes", unsupported("listing a container's changes")),
    ("GET", "/containers/{id}/export", unsupported("exporting a container")),
    ("GET", "/containers/{id}/attach/ws", unsupported("attaching by websocket")),
    ("GET", "/containers/{id}/archive", unsupported("copying files")),
    ("HEAD", "/containers/{id}/archive", unsupported("copying files")),
    ("PUT", "/containers/{id}/archive", unsupported("copying files")),
    ("POST", "/images/{name:path}/push", unsupported("pushing images")),
    ("GET", "/images/search", unsupported("searching a registry")),
    ("GET", "/swarm", no_swarm),
    ("GET", "/nodes", no_swarm),
    ("GET", "/services", no_swarm),
    ("GET", "/tasks", no_swarm),
    ("GET", "/secrets", no_swarm),
    ("GET", "/configs", no_swarm),
]
