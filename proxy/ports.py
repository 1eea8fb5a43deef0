"""What is published, as values: a port's specification, and the checks on what arrives from outside.

Nothing here acts.  Everything that a control message says about a port goes through ``parse_*``, which answer with
values or with InvalidArgument; so the rest of the room meets only well-formed ports.
"""

from __future__ import annotations

import heapq
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..netlib.errors import InvalidArgument

MAX_DRAIN = 86400.0
"""Longest drain in seconds."""
MAX_ID = 256
MAX_WORKERS = 64
PAGE = 500
"""Ports in one frame: below what an unprivileged user may have on its way at one time, which is as many descriptors as
it may have open (unix(7), ETOOMANYREFS), 1024 by custom."""
MAX_PAGE = 10_000
DEFAULT_DRAIN = 10.0
"""Seconds that live connections have after a withdrawal that does not say: a server that has answered and gone must
still reach its client."""

Address = tuple[str, int] | tuple[str, int, int, int]
"""(ip, port) for AF_INET, (ip, port, 0, scope) for AF_INET6."""


class Target(NamedTuple):
    """Where a port leads."""

    ip: str
    port: int
    family: int
    address: Address


class PortSpec(NamedTuple):
    id: str
    proto: str
    """tcp, udp or sctp."""
    target: Target
    drain: float
    proxy_protocol: int = 0
    """Version of the header that the back end gets first; 0 for none."""
    transparent: bool = False
    """The back end sees the client's address (transparent.py)."""

    def entry(self) -> dict[str, Any]:
        """As ``listen`` wants it and ``fetch`` tells it."""
        return {
            "id": self.id,
            "proto": self.proto,
            "target": [self.target.ip, self.target.port],
            "drain": self.drain,
            "proxy_protocol": self.proxy_protocol,
            "transparent": self.transparent,
        }


def parse_target(value: Any) -> Target:
    """``[ip, port]``, where an IPv6 address may carry a %scope."""
    match value:
        case [str() as ip, int() as port] if not isinstance(port, bool):
            pass
        case _:
            raise InvalidArgument(f"target must be [ip, port], not {str(value)[:80]}")
    if not 1 <= port <= 65535:
        raise InvalidArgument(f"target port {port} is not between 1 and 65535")
    plain, _, scope = ip.partition("%")
    try:
        if ":" in plain:
            socket.inet_pton(socket.AF_INET6, plain)
            index = (
                0 if not scope else int(scope) if scope.isascii() and scope.isdigit() else socket.if_nametoindex(scope)
            )
            if not 0 <= index < 1 << 32:
                raise ValueError("scope")
            return Target(ip, port, socket.AF_INET6, (plain, port, 0, index))
        socket.inet_pton(socket.AF_INET, ip)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"target address {ip[:80]!r} is not an IP address of this host's families") from error
    return Target(ip, port, socket.AF_INET, (ip, port))


def parse_drain(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DRAIN:
        raise InvalidArgument(f"drain must be a number of seconds from 0 to {MAX_DRAIN:g}, not {str(value)[:40]}")
    return float(value)


def parse_id(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        raise InvalidArgument(f"port id must be a string of 1 to {MAX_ID} characters")
    return value


def parse_ids(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise InvalidArgument("ids must be a list")
    return [parse_id(item) for item in value]


def _entries(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidArgument("ports must be a list of objects")
    return value


def _parse_port(entry: dict[str, Any], default_drain: float) -> PortSpec:
    proto, version, transparent = entry.get("proto"), entry.get("proxy_protocol", 0), entry.get("transparent", False)
    if proto not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"proto must be tcp, udp or sctp, not {str(proto)[:40]!r}")
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version <= 2:
        raise InvalidArgument(f"proxy_protocol must be 0, 1 or 2, not {str(version)[:40]}")
    if not isinstance(transparent, bool):
        raise InvalidArgument(f"transparent must be true or false, not {str(transparent)[:40]}")
    if proto != "tcp" and (version or transparent):
        raise InvalidArgument(f"proxy_protocol and transparent are for tcp ports, not for {proto}")
    drain = parse_drain(entry.get("drain", default_drain))
    return PortSpec(parse_id(entry.get("id")), proto, parse_target(entry.get("target")), drain, version, transparent)


def check_ids(specs: list[PortSpec]) -> None:
    if len({spec.id for spec in specs}) != len(specs):
        raise InvalidArgument("a port id appears twice in one message")


def parse_listen(message: dict[str, Any], descriptors: int, default_drain: float = DEFAULT_DRAIN) -> list[PortSpec]:
    """The ports of a ``listen`` that came with so many *descriptors*."""
    specs = [_parse_port(entry, default_drain) for entry in _entries(message.get("ports"))]
    check_ids(specs)
    if len(specs) != descriptors:
        raise InvalidArgument(f"{len(specs)} ports came with {descriptors} descriptors")
    return specs


def parse_limit(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidArgument(f"limit must be a whole number from 1 to {most}, not {str(value)[:40]}")
    return value


def parse_page(message: dict[str, Any]) -> tuple[str, int | None]:
    """(after, limit) of a question for many ports: those behind the id *after*; None: all that are left."""
    limit, after = message.get("limit"), message.get("after", "")
    if after != "":
        parse_id(after)
    return after, None if limit is None else parse_limit(limit, MAX_PAGE)


def page_of_ids(ids: Iterable[str], after: str, limit: int | None) -> tuple[list[str], bool]:
    """The first *limit* of *ids* behind *after*, in order, and whether there are more."""
    if limit is None:
        return sorted(id for id in ids if id > after), False
    found = heapq.nsmallest(limit + 1, (id for id in ids if id > after))
    return found[:limit], len(found) > limit


def parse_retarget(message: dict[str, Any]) -> list[tuple[str, Target]]:
    return [(parse_id(entry.get("id")), parse_target(entry.get("target"))) for entry in _entries(message.get("ports"))]
