"""``pynet wait``: block until containers stop; their exit codes, one a line."""

from __future__ import annotations

from ..objects import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def wait(parser: Parser) -> Run:
    parser.argument("container", count="+")
    return run


def run(args: Arguments) -> int:
    return each(
        args,
        args.container,
        lambda name: ("POST", f"{path(name)}/wait", None),
        show=lambda name, answer: print(answer["StatusCode"], flush=True),
    )
