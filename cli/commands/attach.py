"""``pynet attach``: this terminal, connected to a running container."""

from __future__ import annotations

import os

from ...netlib.errors import Conflict, InvalidArgument
from ..attached import follow
from ..client import Client
from ..objects import path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def attach(parser: Parser) -> Run:
    parser.flag("--no-stdin", help="do not attach to its stdin")
    parser.flag("--sig-proxy", default=True, help="hand signals on to the container")
    parser.option("--detach-keys", metavar="KEYS", help="keys that leave the terminal (ctrl-p,ctrl-q)")
    parser.argument("container")
    return run


def run(args: Arguments) -> int:
    client = Client(args.settings)
    where = path(args.container)
    details = client.get(f"{where}/json")
    state = details["State"]
    if not state.get("Running"):
        raise Conflict("you cannot attach to a stopped container", hint=f"`pynet start -a {args.container}` starts it")
    if state.get("Paused"):
        raise Conflict("you cannot attach to a paused container", hint=f"`pynet unpause {args.container}` goes on")
    tty = bool(details["Config"].get("Tty"))
    stdin = not args.no_stdin and bool(details["Config"].get("OpenStdin"))
    if tty and stdin and not os.isatty(0):
        raise InvalidArgument("the input device is not a TTY", hint="use --no-stdin")
    return follow(client, where, args, condition="not-running", tty=tty, stdin=stdin)
