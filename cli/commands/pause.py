"""``pynet pause`` and ``unpause``."""

from __future__ import annotations

from ..objects import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def pause(parser: Parser) -> Run:
    parser.argument("container", count="+")
    return lambda args: _all(args, "pause")


def unpause(parser: Parser) -> Run:
    parser.argument("container", count="+")
    return lambda args: _all(args, "unpause")


def _all(args: Arguments, verb: str) -> int:
    return each(args, args.container, lambda name: ("POST", f"{path(name)}/{verb}", None))
