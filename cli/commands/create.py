"""``pynet create``: a container that is not started yet."""

from __future__ import annotations

from ...netlib.errors import PynetError
from ..client import Client
from ..main import report
from ..options import configure as configure_container
from .run import create, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser


def configure(parser: Parser) -> None:
    configure_container(parser)


def run(args: Arguments) -> int:
    try:
        print(create(Client(args.settings), args))
    except PynetError as error:
        return report(error, exit_code(error))
    return 0
