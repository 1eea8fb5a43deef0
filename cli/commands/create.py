"""``pynet create``: a container that is not started yet."""

from __future__ import annotations

from ...netlib.errors import PynetError
from ..client import Client
from ..creation import create as create_container
from ..creation import exit_code, show_planned
from ..failure import report
from ..options import declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def create(parser: Parser) -> Run:
    declare(parser)
    return run


def run(args: Arguments) -> int:
    try:
        if args.dry_run:
            return show_planned(Client(args.settings), args)
        print(create_container(Client(args.settings), args))
    except PynetError as error:
        return report(error, exit_code(error))
    return 0
