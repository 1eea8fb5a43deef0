"""``pynet wait``: block until containers stop; their exit codes, one a line."""

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

    def wait(name: str) -> None:
        print(client.post(f"{path(name)}/wait")["StatusCode"], flush=True)

    return each(args.container, wait, show=lambda name: None)
