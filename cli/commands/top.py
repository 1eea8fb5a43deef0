"""``pynet top``: the processes of a container."""

from __future__ import annotations

from ..client import Client
from ..format import table
from ..objects import path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def top(parser: Parser) -> Run:
    parser.stops_at_first_argument = True
    parser.argument("container")
    parser.rest("words", metavar="OPTION", help="options of ps(1)")
    return run


def run(args: Arguments) -> int:
    answer = Client(args.settings).get(f"{path(args.container)}/top", {"ps_args": " ".join(args.words)})
    print(table(answer["Titles"], answer["Processes"] or []), end="")
    return 0
