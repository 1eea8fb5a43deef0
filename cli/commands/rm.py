"""``pynet rm``: remove containers."""

from __future__ import annotations

from ..client import Client, DaemonError
from ._each import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser


def configure(parser: Parser) -> None:
    parser.flag("-f", "--force", help="kill it first when it runs; do not complain when it is not there")
    parser.flag("-v", "--volumes", help="also remove its anonymous volumes")
    parser.argument("container", count="+")


def run(args: Arguments) -> int:
    client = Client(args.settings)

    def remove(name: str) -> None:
        try:
            client.delete(path(name), {"force": args.force, "v": args.volumes})
        except DaemonError as error:
            if not (args.force and error.http_status == 404):
                raise

    return each(args.container, remove)
