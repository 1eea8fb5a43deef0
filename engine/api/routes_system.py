"""/_ping, /version, /info, /system/df, /events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from .. import system
from ..times import parse_time
from .call import Call, base_headers
from .server import Route


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
    return call.reply(await call.work(call.engine.system.info))


async def disk_usage(call: Call) -> web.StreamResponse:
    return call.reply(await call.wait(call.engine.system.disk_usage, set(call.texts("type"))))


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
    found = await call.wait(call.engine.controller.check)
    return call.reply([{"state": d.state, "kind": d.kind, "name": d.name} for d in found])


async def repair(call: Call) -> web.StreamResponse:
    found = await call.wait(call.engine.controller.repair)
    return call.reply([{"state": d.state, "kind": d.kind, "name": d.name} for d in found])


async def ports(call: Call) -> web.StreamResponse:
    """Every published port with what the forwarder counted on it, and the connections that NAT led past that (null: not
    counted)."""

    def collect() -> list[dict[str, Any]]:
        controller = call.engine.controller
        proxy = controller.tools.proxy
        counted: Mapping[str, Any] = proxy.stats()["ports"] if proxy is not None else {}
        led = controller.nat_connections()
        with controller.lock:
            sandboxes = [sandbox for sandbox in controller.registry.sandboxes.values() if sandbox.ports]
        found: list[dict[str, Any]] = []
        for sandbox in sandboxes:
            container = call.engine.registry.find_id(sandbox.id)
            for port in sandbox.ports:
                counters = counted.get(port.id, {})
                found.append(
                    {
                        "Container": container.name if container else sandbox.id,
                        "ContainerID": sandbox.id,
                        "HostIp": port.host_ip,
                        "HostPort": port.host_port,
                        "Port": f"{port.container_port}/{port.proto}",
                        "Proxy": counters,
                        "NatConnections": led.get(port.id),
                    }
                )
        return sorted(found, key=lambda one: (one["Container"], one["HostPort"], one["HostIp"]))

    return call.reply(await call.wait(collect))


async def shutdown(call: Call) -> web.StreamResponse:
    """End the daemon; with ``all=1`` the containers and the other processes too, and answer when they have ended."""
    everything = call.flag("all")
    if everything:
        await call.wait(call.engine.stop.stop_all)
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
    ("GET", "/pynet/ports", ports),
    ("POST", "/pynet/shutdown", shutdown),
]
