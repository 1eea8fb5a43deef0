"""``pynet playground``: a shell, or a command, in which a host and its LAN live; nothing outside changes.

It becomes the program that plays the host (plugins/playground.py), as ``pynet daemon`` becomes the engine.
"""

from __future__ import annotations

import os
import sys

from ...netlib.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run

WELCOME = """\
This shell is a host at 192.0.2.1 and 2001:db8::1 with a client on its LAN; the machine is not touched, all ends with it.
Try: pynet image bootstrap; pynet run -d -p 8080:80 busybox httpd -f -p 80 -h /etc; \
pynet playground --lan -- wget -qO- http://192.0.2.1:8080/hosts
"""


def playground(parser: Parser) -> Run:
    parser.stops_at_first_argument = True
    parser.flag("--lan", help="inside a playground: run the command on the LAN's client")
    parser.flag("--join", help="run the command in the playground that you started last")
    parser.rest("words", metavar="COMMAND", help="command and its arguments (your shell)")
    return run


def run(args: Arguments) -> int:
    command: list[str] = args.words or [os.environ.get("SHELL") or "/bin/sh"]
    if args.lan and args.join:
        raise InvalidArgument("--lan and --join together", hint="join, and use --lan inside")
    if not (args.words or args.lan or args.join) and os.isatty(0):
        print(WELCOME, end="", file=sys.stderr, flush=True)
    option = ["--lan"] if args.lan else ["--join"] if args.join else []
    program = [sys.executable, "-I", "-m", "pynet.plugins.playground", *option, *command]
    os.execv(program[0], program)
