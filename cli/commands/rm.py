"""``pynet rm``: remove containers."""

from __future__ import annotations

from ..objects import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def rm(parser: Parser) -> Run:
    parser.flag("-f", "--force", help="kill it first when it runs; do not complain when it is not there")
    parser.flag("-v", "--volumes", help="also remove its anonymous volumes")
    parser.argument("container", count="+")
    return run


def run(args: Arguments) -> int:
    query: dict[str, object] = {"force": args.force, "v": args.volumes}
    return each(args, args.container, lambda name: ("DELETE", path(name), query), missing_is_fine=args.force)
