"""``pynet port``: the published ports of a container; ``pynet port stats``: what the proxy counted on all of them.

A container that is called "stats" is reached by its id.
"""

from __future__ import annotations

from ...netlib.errors import NotFound
from ..client import Client
from ..format import size
from ..objects import path
from ..output import Row, add_format, lines, show_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

COLUMNS = [
    *(("Container", "CONTAINER"), ("Host", "HOST"), ("Port", "PORT"), ("Connections", "CONNECTIONS")),
    *(("Active", "ACTIVE"), ("Received", "RECEIVED"), ("Sent", "SENT"), ("Errors", "ERRORS"), ("Refused", "REFUSED")),
    ("Connect", "CONNECT MEAN / MAX"),
]


def port(parser: Parser) -> Run:
    add_format(parser)
    parser.argument("container", help='a container, or "stats" for what the proxy counted on every port')
    parser.argument("port", count="?", metavar="PORT[/PROTO]")
    return run


def run(args: Arguments) -> int:
    if args.container == "stats":
        return _stats(args)
    details = Client(args.settings).get(f"{path(args.container)}/json")
    ports: dict[str, list[dict[str, str]] | None] = details["NetworkSettings"].get("Ports") or {}
    if args.port:
        wanted = args.port if "/" in args.port else f"{args.port}/tcp"
        if not ports.get(wanted):
            raise NotFound(
                f"no public port {wanted!r} published for {args.container}", hint=f"`pynet port {args.container}`"
            )
        print("".join(f"{_shown(binding)}\n" for binding in ports[wanted] or ()), end="")
        return 0
    for port in sorted(ports, key=lambda text: (int(text.partition("/")[0]), text)):
        print("".join(f"{port} -> {_shown(binding)}\n" for binding in ports[port] or ()), end="")
    return 0


def _shown(binding: dict[str, str]) -> str:
    address = binding["HostIp"]
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


def _stats(args: Arguments) -> int:
    ports = Client(args.settings).get("/pynet/ports")
    if args.json:
        lines(ports)
    else:
        show_rows(args.format, [_row(port) for port in ports if args.port in (None, port["Container"])], COLUMNS)
    return 0


def _row(port: dict[str, Any]) -> Row:
    counted: dict[str, Any] = port["Proxy"]
    times: dict[str, Any] = counted.get("connect") or {}
    mean = times["seconds"] / times["count"] if times.get("count") else 0.0
    return {
        "Container": port["Container"],
        "Host": _shown({"HostIp": port["HostIp"], "HostPort": str(port["HostPort"])}),
        "Port": port["Port"],
        "Connections": counted.get("connections", 0),
        "Active": counted.get("active", 0),
        "Received": size(counted.get("bytes_in", 0)),
        "Sent": size(counted.get("bytes_out", 0)),
        "Errors": counted.get("errors", 0),
        "Refused": counted.get("refused", 0),
        "Connect": f"{mean * 1e3:.1f} / {times.get('longest', 0.0) * 1e3:.1f} ms" if times.get("count") else "-",
    }
