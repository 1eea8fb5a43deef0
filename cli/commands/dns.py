"""``pynet dns``: what containers resolve, and why: one question asked as a container would, all its names, its query log."""

from __future__ import annotations

import json
import sys
import time

from ..client import Client
from ..objects import path
from ..output import add_format, lines, show_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..output import Row
    from ..parser import Arguments, Parser, Run

ANSWERS = [
    *(("Container", "CONTAINER"), ("Question", "NAME"), ("Answer", "ANSWER"), ("Source", "FROM"), ("Time", "TIME")),
]
NAMES = [("Name", "NAME"), ("Addresses", "ADDRESSES"), ("Source", "FROM"), ("Container", "CONTAINER")]


# -- query ---------------------------------------------------------------------------------------------------------


def query(parser: Parser) -> Run:
    parser.option("--from", metavar="CONTAINER", help="ask as this container would (all that run, each as itself)")
    parser.option("-t", "--type", metavar="RECORD", default="A", help="what to ask for: A, AAAA, PTR, SRV, ... (A)")
    parser.flag("--tcp", help="ask over TCP")
    add_format(parser)
    parser.argument("name", metavar="NAME")
    return run_query


def run_query(args: Arguments) -> int:
    container = getattr(args, "from")
    asked = {"name": args.name, "type": args.type, **({"tcp": 1} if args.tcp else {})}
    client = Client(args.settings)
    where = f"/pynet{path(container)}/names/query" if container else "/pynet/names/query"
    answer = client.get(where, asked)
    found: list[dict[str, Any]] = [answer] if container else answer
    if args.json:
        lines(found)
    else:
        show_rows(args.format, [answered(one) for one in found], ANSWERS)
    return 0 if any(one["Answer"] for one in found) else 1


def answered(found: dict[str, Any]) -> Row:
    """One answer as a line: data of its records without their owner, time and class, or the code where there are none."""
    records = [" ".join(line.split()[3:]) for line in found["Answer"]]
    return {
        "Container": found["Container"],
        "Question": found["Question"],
        "Answer": ", ".join(records) or (found["Code"] if found["Code"] != "NOERROR" else "none of this type"),
        "Code": found["Code"],
        "Source": found["Source"],
        "Time": f"{found['Seconds'] * 1000:.1f} ms",
    }


# -- ls ------------------------------------------------------------------------------------------------------------


def ls(parser: Parser) -> Run:
    parser.option("--from", metavar="CONTAINER", help="what this container may resolve (all networks' names)")
    add_format(parser)
    return run_ls


def run_ls(args: Arguments) -> int:
    container = getattr(args, "from")
    found: list[dict[str, Any]] = Client(args.settings).get(
        "/pynet/names", {"container": container} if container else {}
    )
    if args.json:
        lines(found)
    else:
        show_rows(args.format, [{**one, "Addresses": ", ".join(one["Addresses"])} for one in found], NAMES)
    return 0


# -- log -----------------------------------------------------------------------------------------------------------


def log(parser: Parser) -> Run:
    parser.flag("--json", help="print the name server's lines as they are")
    parser.argument("container")
    return run_log


def run_log(args: Arguments) -> int:
    """Until Ctrl-C."""
    where = f"/pynet{path(args.container)}/names/log"
    for entry in Client(args.settings).stream("GET", where).objects():
        print(json.dumps(entry) if args.json else logged(entry))
        sys.stdout.flush()
    return 0


def logged(entry: dict[str, Any]) -> str:
    """``10:31:02.123 A web. NOERROR network net 0.1 ms``"""
    seconds = float(entry["time"])
    moment = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03d}"
    what = f"{entry['type']} {entry['name']}" if entry["name"] else "malformed"
    words = [moment, what, "tcp" if entry["tcp"] else "", entry["code"] or "no answer", entry["source"]]
    missed = f"({entry['missed']} more were not read in time)" if entry.get("missed") else ""
    return " ".join(filter(None, [*words, f"{float(entry['seconds']) * 1000:.1f} ms", missed]))
