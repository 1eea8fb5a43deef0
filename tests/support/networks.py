"""Networks by the Engine API, as tests ask for them and look at them."""

from __future__ import annotations

import json
from typing import Any

from support.engine import Daemon


def create(daemon: Daemon, name: str, **body: Any) -> str:
    reply = daemon.post("/networks/create", {"Name": name, **body})
    assert reply.status == 201, reply
    return str(reply.body["Id"])


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    reply = daemon.get(f"/networks/{name}")
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.body
    return found


def warnings(daemon: Daemon) -> list[str]:
    return list(daemon.get("/info").body["Warnings"])


def names(daemon: Daemon, **filters: list[str]) -> list[str]:
    reply = daemon.get("/networks", filters=json.dumps(filters))
    assert reply.status == 200, reply
    return sorted(network["Name"] for network in reply.body)


def box(daemon: Daemon, name: str, network: str, **ipam: str) -> tuple[int, str]:
    """Create and start a container on *network*; the status of the start, and its address or the error."""
    made = daemon.post(
        "/containers/create",
        {
            "Image": "busybox",
            "Cmd": ["sleep", "1000"],
            "HostConfig": {"NetworkMode": network},
            "NetworkingConfig": {"EndpointsConfig": {network: {"IPAMConfig": ipam or None}}},
        },
        name=name,
    )
    if made.status != 201:
        return made.status, str(made.body["message"])
    start = daemon.post(f"/containers/{name}/start")
    if start.status != 204:
        return start.status, str(start.body["message"])
    settings = daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["Networks"][network]
    return 204, str(settings["IPAddress"] or settings["GlobalIPv6Address"])
