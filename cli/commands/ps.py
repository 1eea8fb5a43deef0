"""``pynet ps``: containers as a table.

The engine is asked first; what shows its answer is loaded while it works on it.
"""

from __future__ import annotations

from ..client import Client
from ..output import add_listing, filters, show_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run


def ps(parser: Parser) -> Run:
    parser.flag("-a", "--all", help="also those that do not run")
    parser.option("-n", "--last", metavar="N", type=int, help="the N created last, in any state")
    parser.flag("-l", "--latest", help="the one created last, in any state")
    parser.flag("-s", "--size", help="show sizes")
    add_listing(parser, "ids")
    return run


def run(args: Arguments) -> int:
    limit = 1 if args.latest else args.last
    query = {"all": args.all, "limit": limit, "size": args.size, "filters": filters(args.filter)}
    containers: list[dict[str, Any]] = Client(args.settings).get("/containers/json", query, meanwhile=_load)
    from ..shown import COLUMNS, row

    rows = [row(container, full=args.no_trunc) for container in containers]
    columns = [*COLUMNS, ("Size", "SIZE")] if args.size else COLUMNS
    show_list(args, containers, rows, columns)
    return 0


def _load() -> None:
    from .. import shown

    del shown
