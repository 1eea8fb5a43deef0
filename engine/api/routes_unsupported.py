"""What Docker has and this engine has not: 501, and 503 for what only a node of a swarm could do."""

from __future__ import annotations

from aiohttp import web

from ...netlib.errors import NotSupported, Unavailable
from .call import Call
from .server import Handler, Route


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
