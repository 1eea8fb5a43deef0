"""``pynet rename``."""

from __future__ import annotations

from ..client import Client
from ._each import path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser


def configure(parser: Parser) -> None:
    parser.argument("container")
    parser.argument("name", metavar="NEW_NAME")


def run(args: Arguments) -> int:
    Client(args.settings).post(f"{path(args.container)}/rename", {"name": args.name})
    return 0
