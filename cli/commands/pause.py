"""``pynet pause`` and ``unpause``."""

from __future__ import annotations

from ..client import Client
from ._each import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser


def configure(parser: Parser) -> None:
    parser.argument("container", count="+")


def run(args: Arguments) -> int:
    client = Client(args.settings)
    return each(args.container, lambda name: client.post(f"{path(name)}/{args.command}"))
