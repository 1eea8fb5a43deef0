"""``pynet network limit`` and ``pynet network stats``: how fast containers may talk, and how much they did."""

from __future__ import annotations

import sys
import time

from ...netlib.errors import InvalidArgument
from ..client import Client
from ..format import size
from ..objects import path
from ..output import Row, add_format, lines, show_plan, show_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

    Sample = tuple[float, dict[str, dict[str, Any]]]
    """When (seconds of a steady clock), and the rows by endpoint."""

COLUMNS = [
    *(("Network", "NETWORK"), ("Container", "CONTAINER"), ("Interface", "INTERFACE")),
    *(("NetIO", "RECEIVED / SENT"), ("Rate", "RATE"), ("Packets", "PACKETS"), ("Dropped", "DROPPED")),
    *(("Errors", "ERRORS"), ("Limit", "LIMIT")),
]
PACE = 1.0
"""Seconds between two looks."""


# -- limit --------------------------------------------------------------------------------------------------------


def limit(parser: Parser) -> Run:
    parser.option(
        "--rate-in", metavar="RATE", help="what the container may receive: 10mbit, 2mbps (bytes); 0 is no limit"
    )
    parser.option("--rate-out", metavar="RATE", help="what it may send; 0 is no limit")
    parser.option("--burst", metavar="SIZE", help="what may pass at once after a pause, for example 64k")
    parser.dry_run()
    parser.argument("network")
    parser.argument("container")
    return run_limit


def run_limit(args: Arguments) -> int:
    asked = {"rate_in": args.rate_in, "rate_out": args.rate_out, "burst": args.burst}
    options = {name: text for name, text in asked.items() if text is not None}
    if not options:
        raise InvalidArgument("nothing to change", hint="give --rate-in, --rate-out or --burst")
    body = {"Container": args.container, "DriverOpts": options}
    where = f"/pynet{path(args.network, 'networks')}/limit"
    answer = Client(args.settings).post(where, {"dry-run": args.dry_run}, body)
    if args.dry_run:
        show_plan(args, answer["Plan"])
    return 0


# -- stats --------------------------------------------------------------------------------------------------------


def stats(parser: Parser) -> Run:
    parser.flag("--no-stream", help="print once")
    add_format(parser)
    parser.argument("network", count="?")
    return run_stats


def run_stats(args: Arguments) -> int:
    client = Client(args.settings)
    screen = sys.stdout.isatty() and not args.no_stream and not args.format and not args.json
    before: Sample | None = None
    while True:
        query = {"network": args.network} if args.network else {}
        found: list[dict[str, Any]] = client.get("/pynet/networks/stats", query)
        now: Sample = time.monotonic(), {one["EndpointID"]: one for one in found}
        if screen:
            print("\033[H\033[J", end="")
        if args.json:
            lines(found)
        else:
            show_rows(args.format, [row(one, now[0], before) for one in found], COLUMNS)
        sys.stdout.flush()
        if args.no_stream or not found:
            return 0
        before = now
        time.sleep(PACE)


def row(sample: dict[str, Any], now: float, before: Sample | None) -> Row:
    """One entry of GET /pynet/networks/stats as a line; the rate is of the time since the look *before*."""
    counted, limits = sample["Counters"], sample["Limits"]
    last = before[1].get(sample["EndpointID"]) if before is not None else None
    rate = "-"
    if before is not None and last is not None and now > before[0]:
        gone = {key: max(counted[key] - last["Counters"][key], 0) for key in ("rx_bytes", "tx_bytes")}
        rate = " / ".join(f"{size(int(gone[key] / (now - before[0])))}/s" for key in ("rx_bytes", "tx_bytes"))
    return {
        "Network": sample["Network"],
        "Container": sample["Container"],
        "Interface": sample["Interface"],
        "NetIO": f"{size(counted['rx_bytes'])} / {size(counted['tx_bytes'])}",
        "Rate": rate,
        "Packets": f"{counted['rx_packets']} / {counted['tx_packets']}",
        "Dropped": f"{counted['rx_dropped']} / {counted['tx_dropped']}",
        "Errors": f"{counted['rx_errors']} / {counted['tx_errors']}",
        "Limit": " / ".join(bits(limits[key]) for key in ("rate_in", "rate_out")) if _limited(limits) else "-",
    }


def _limited(limits: dict[str, int]) -> bool:
    return bool(limits["rate_in"] or limits["rate_out"])


def bits(rate: int) -> str:
    """Bytes a second -> as it is asked for: "10mbit"; "-" is no limit."""
    if not rate:
        return "-"
    value, unit = rate * 8.0, "bit"
    for larger in ("kbit", "mbit", "gbit", "tbit"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:g}{unit}"
