"""The schema of the store, step by step, and how the records of an older pynet become today's.

Step n takes a file from version n to n + 1; one that was released is never edited.  All steps of an opening are one transaction.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

Body = dict[str, Any]


def _objects(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE objects (kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT, body TEXT NOT NULL,"
        " PRIMARY KEY (kind, id)) WITHOUT ROWID"
    )
    connection.execute("CREATE UNIQUE INDEX object_names ON objects (kind, name) WHERE name IS NOT NULL")


def _revisions(connection: sqlite3.Connection) -> None:
    """Objects get revisions, the store an identity; published ports move from endpoints to their sandboxes, and endpoints
    remember the next hops that their drivers offered."""
    connection.execute("ALTER TABLE objects ADD COLUMN revision INTEGER NOT NULL DEFAULT 1")
    connection.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
    connection.execute("INSERT INTO facts VALUES ('id', ?), ('revision', '1')", (secrets.token_hex(16),))
    networks, endpoints, sandboxes = (_bodies(connection, kind) for kind in ("network", "endpoint", "sandbox"))
    for network in networks.values():
        network["ipam_driver"] = "default" if network.get("ipam") else "null"
    for endpoint in endpoints.values():
        room = sandboxes.get(endpoint.get("sandbox", ""))
        ports = endpoint.pop("ports", [])
        if room is None:
            continue
        room["ports"] = [*room.get("ports", []), *ports]
        network = networks.get(endpoint["network"], {})
        if not network.get("internal"):
            for key, address in (("gateway", "address"), ("gateway6", "address6")):
                endpoint[key] = _hop(network, endpoint.get(address, ""))
    for kind, bodies in (("network", networks), ("endpoint", endpoints), ("sandbox", sandboxes)):
        for id, body in bodies.items():
            text = json.dumps(body, separators=(",", ":"))
            connection.execute("UPDATE objects SET body = ? WHERE kind = ? AND id = ?", (text, kind, id))


def _bodies(connection: sqlite3.Connection, kind: str) -> dict[str, Body]:
    rows = connection.execute("SELECT id, body FROM objects WHERE kind = ?", (kind,))
    return {id: json.loads(body) for id, body in rows}


def _hop(network: Body, address: str) -> str:
    """The gateway of the subnet that holds the address ("10.1.0.2/24")."""
    if not address:
        return ""
    value = ip_address(address.partition("/")[0])
    for config in network.get("ipam", []):
        if value in ip_network(config["subnet"]):
            return str(config.get("gateway", ""))
    return ""


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_objects, _revisions)
