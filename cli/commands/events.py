"""``pynet events``: what happens, as it happens."""

from __future__ import annotations

import sys
import time

from ..client import Client
from ..format import printable
from ..output import add_format, filters, lines, unescape
from ..units import parse_moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run


def events(parser: Parser) -> Run:
    parser.repeated("-f", "--filter", metavar="NAME=VALUE", help="show only what matches")
    parser.option("--since", metavar="TIME", help="also what happened since then: a date, a Unix time, or 10m")
    parser.option("--until", metavar="TIME", help="stop at that time")
    add_format(parser)
    return run


def run(args: Arguments) -> int:
    now = time.time()
    query = {
        "filters": filters(args.filter),
        "since": args.since and parse_moment(args.since, now),
        "until": args.until and parse_moment(args.until, now),
    }
    template = None
    if args.format and args.format != "json":
        from ..template import Template

        template = Template(unescape(args.format))
    for event in Client(args.settings).stream("GET", "/events", query).objects():
        if args.json or args.format == "json":
            lines([event])
        else:
            print(template.render(event) if template else text(event))
        sys.stdout.flush()
    return 0


def text(event: dict[str, Any]) -> str:
    """One event on one line, as Docker's client writes it."""
    nanoseconds = int(event.get("timeNano") or int(event.get("time", 0)) * 10**9)
    seconds, rest = divmod(nanoseconds, 10**9)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
    zone = time.strftime("%z", time.localtime(seconds))
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    head = f"{stamp}.{rest:09d}{zone[:3]}:{zone[3:]} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return printable(f"{head} ({attributes})" if attributes else head)
