"""``pynet attach``: this terminal, connected to a running container."""

from __future__ import annotations

import os

from ...netlib.errors import Conflict, InvalidArgument
from ..client import Client, checked, upgraded
from ._each import path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser


def configure(parser: Parser) -> None:
    parser.flag("--no-stdin", help="do not attach to its stdin")
    parser.flag("--sig-proxy", default=True, help="hand signals on to the container")
    parser.option("--detach-keys", metavar="KEYS", help="keys that leave the terminal (ctrl-p,ctrl-q)")
    parser.argument("container")


def run(args: Arguments) -> int:
    from ..streams import Interrupted
    from .run import session_for, status_of

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
    query = {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": args.detach_keys}
    attaching = client.send("POST", f"{where}/attach", query, headers={"Connection": "Upgrade", "Upgrade": "tcp"})
    waiting = client.send("POST", f"{where}/wait", {"condition": "not-running"})
    sock, first = upgraded(attaching)
    exited = checked(waiting.receive())
    session = session_for(client, where, args, tty=tty, stdin=stdin)
    try:
        with session:
            session.resize()
            if not session.run(sock, first):
                return 0
    except Interrupted as signal:
        return 128 + signal.number
    return status_of(exited)
