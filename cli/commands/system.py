"""``pynet system prune``, ``container prune`` and ``network prune``: away with what nothing uses."""

from __future__ import annotations

import os
import sys

from ...netlib.errors import InvalidArgument
from ..client import Client
from ..format import size
from ..output import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

CONTAINERS = ("/containers/prune", "Deleted Containers", "ContainersDeleted", "all stopped containers")
NETWORKS = ("/networks/prune", "Deleted Networks", "NetworksDeleted", "all networks not used by at least one container")


def prune(parser: Parser) -> Run:
    _declare(parser)
    return lambda args: _prune(args, [CONTAINERS, NETWORKS])


def prune_containers(parser: Parser) -> Run:
    _declare(parser)
    return lambda args: _prune(args, [CONTAINERS])


def prune_networks(parser: Parser) -> Run:
    _declare(parser)
    return lambda args: _prune(args, [NETWORKS])


def _declare(parser: Parser) -> None:
    parser.flag("-f", "--force", help="do not ask")
    parser.repeated("--filter", metavar="NAME=VALUE", help="only what matches: until=..., label=...")


def _agreed() -> bool:
    try:
        return input("Are you sure you want to continue? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False


def _prune(args: Arguments, steps: list[tuple[str, str, str, str]]) -> int:
    if not args.force:
        if not os.isatty(0):
            raise InvalidArgument("prune asks before it removes, and stdin is no terminal", hint="use -f")
        print("WARNING! This will remove:\n" + "".join(f"  - {what}\n" for *_, what in steps))
        if not _agreed():
            return 1
    client = Client(args.settings)
    query = {"filters": filters(args.filter)}
    space, warned = 0, False
    for where, title, key, _ in steps:
        answer: dict[str, Any] = client.post(where, query) or {}
        deleted: list[str] = answer.get(key) or []
        if deleted:
            print(f"{title}:\n" + "".join(f"{name}\n" for name in deleted))
        for warning in answer.get("Warnings") or []:
            print(f"WARNING: {warning}", file=sys.stderr)
            warned = True
        space += int(answer.get("SpaceReclaimed") or 0)
    if CONTAINERS in steps:
        print(f"Total reclaimed space: {size(space)}")
    return int(warned)
