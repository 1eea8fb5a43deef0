"""``pynet inspect``, and ``container``, ``network`` and ``image inspect``: objects as the engine knows them."""

from __future__ import annotations

from ...netlib.errors import NotFound, PynetError
from ..client import Client, DaemonError
from ..failure import report
from ..objects import path
from ..output import add_format, lines, unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

KINDS = {"container": "/json", "image": "/json", "network": ""}
"""Kind -> what follows the name in its path; also the order in which a bare ``inspect`` looks."""


def inspect(parser: Parser) -> Run:
    _declare(parser)
    parser.option("--type", metavar="KIND", help="only container, image or network")
    return lambda args: _show(args, args.type or "")


def inspect_container(parser: Parser) -> Run:
    _declare(parser)
    return lambda args: _show(args, "container")


def inspect_network(parser: Parser) -> Run:
    _declare(parser)
    return lambda args: _show(args, "network")


def inspect_image(parser: Parser) -> Run:
    _declare(parser)
    return lambda args: _show(args, "image")


def _declare(parser: Parser) -> None:
    add_format(parser, "-f")
    parser.flag("-s", "--size", help="show sizes of containers")
    parser.argument("name", count="+")


def _show(args: Arguments, group: str) -> int:
    if group and group not in KINDS:
        from ..parser import UsageError

        raise UsageError(f"{group!r} is not a valid --type: container, image or network")
    client = Client(args.settings)
    found: list[Any] = []
    failed = False
    for name in args.name:
        try:
            found.append(_find(client, name, group, size=args.size))
        except PynetError as error:
            failed = True
            report(error)
    if args.json or args.format == "json":
        lines(found)
    elif args.format:
        from ..template import Template

        template = Template(unescape(args.format))
        print("".join(template.render(value) + "\n" for value in found), end="")
    else:
        import json

        print(json.dumps(found, indent=4, ensure_ascii=False))
    return 1 if failed else 0


def _find(client: Client, name: str, kind: str, *, size: bool) -> Any:
    for candidate, suffix in KINDS.items():
        if kind in ("", candidate):
            try:
                return client.get(f"{path(name, candidate + 's')}{suffix}", {"size": size})
            except DaemonError as error:
                if error.http_status != 404 or kind:
                    raise
    raise NotFound(f"no such object: {name}", hint="`pynet ps -a`, `pynet images` and `pynet network ls` list them")
