"""``pynet port``: the published ports of a container."""

from __future__ import annotations

from ...netlib.errors import NotFound
from ..client import Client
from ._each import path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser


def configure(parser: Parser) -> None:
    parser.argument("container")
    parser.argument("port", count="?", metavar="PORT[/PROTO]")


def run(args: Arguments) -> int:
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
