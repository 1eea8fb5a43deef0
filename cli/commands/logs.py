"""``pynet logs``: what a container printed, stdout on stdout and stderr on stderr."""

from __future__ import annotations

import time

from ...netlib.errors import InvalidArgument
from ..client import Client
from ..frames import Demultiplexer
from ..objects import path
from ..streams import write_all
from ..units import parse_moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def logs(parser: Parser) -> Run:
    parser.flag("-f", "--follow", help="go on until the container ends")
    parser.flag("-t", "--timestamps", help="show when each line was printed")
    parser.flag("--details", help="accepted; there are no extra attributes")
    parser.option("-n", "--tail", metavar="N", default="all", help="only the last N lines")
    parser.option("--since", metavar="TIME", help="only what is newer: a date, a Unix time, or for example 10m")
    parser.option("--until", metavar="TIME", help="only what is older")
    parser.argument("container")
    return run


def run(args: Arguments) -> int:
    if args.tail != "all" and not args.tail.removeprefix("-").isdecimal():
        raise InvalidArgument(f"invalid --tail: {args.tail!r}", hint="write a number of lines, or all")
    client = Client(args.settings)
    where = path(args.container)
    tty = bool(client.get(f"{where}/json")["Config"].get("Tty"))
    now = time.time()
    query = {
        "stdout": True,
        "stderr": True,
        "follow": args.follow,
        "timestamps": args.timestamps,
        "tail": args.tail,
        "since": args.since and parse_moment(args.since, now),
        "until": args.until and parse_moment(args.until, now),
    }
    demultiplexer = Demultiplexer()
    for chunk in client.stream("GET", f"{where}/logs", query).chunks():
        for stream, piece in [(1, chunk)] if tty else demultiplexer.feed(chunk):
            write_all(2 if stream == 2 else 1, piece)
    return 0
