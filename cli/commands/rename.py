"""``pynet rename``."""

from __future__ import annotations

from ..client import Client
from ..objects import path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def rename(parser: Parser) -> Run:
    parser.argument("container")
    parser.argument("name", metavar="NEW_NAME")
    return run


def run(args: Arguments) -> int:
    Client(args.settings).post(f"{path(args.container)}/rename", {"name": args.name})
    return 0
