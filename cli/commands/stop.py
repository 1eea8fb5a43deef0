"""``pynet stop``, ``restart`` and ``kill``: the ways to signal a container."""

from __future__ import annotations

from ..client import Client
from ..units import parse_integer
from ._each import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser


def configure(parser: Parser) -> None:
    if parser.command == "kill":
        parser.option("-s", "--signal", metavar="SIGNAL", default="KILL", help="signal to send (KILL)")
    else:
        parser.option("-s", "--signal", metavar="SIGNAL", help="signal that asks it to stop (its stop signal)")
        parser.option("-t", "--timeout", "--time", metavar="SECONDS", type=parse_integer, help="time before KILL (10)")
    parser.argument("container", count="+")


def run(args: Arguments) -> int:
    client = Client(args.settings)
    query = {"signal": args.signal}
    if args.command != "kill":
        query["t"] = args.timeout
    return each(args.container, lambda name: client.post(f"{path(name)}/{args.command}", query))
