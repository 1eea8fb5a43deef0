"""``pynet stats``: what containers use, once or as it changes."""

from __future__ import annotations

import sys

from ..client import Client, DaemonError
from ..format import short_id, size
from ..objects import path
from ..output import Row, add_format, lines, show_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

COLUMNS = [
    *(("ID", "CONTAINER ID"), ("Name", "NAME"), ("CPUPerc", "CPU %"), ("MemUsage", "MEM USAGE / LIMIT")),
    *(("MemPerc", "MEM %"), ("NetIO", "NET I/O"), ("BlockIO", "BLOCK I/O"), ("PIDs", "PIDS")),
]


def stats(parser: Parser) -> Run:
    parser.flag("-a", "--all", help="also those that do not run")
    parser.flag("--no-stream", help="print once")
    parser.flag("--no-trunc", help="do not shorten ids")
    add_format(parser)
    parser.argument("container", count="*")
    return run


def run(args: Arguments) -> int:
    client = Client(args.settings)
    screen = sys.stdout.isatty() and not args.no_stream and not args.format and not args.json
    while True:
        # the engine takes two samples a second apart for each answer (unless one-shot): that is the pace
        samples = _samples(client, args)
        if screen:
            print("\033[H\033[J", end="")
        if args.json:
            lines(samples)
        else:
            show_rows(args.format, [row(one, full=args.no_trunc) for one in samples], COLUMNS)
        sys.stdout.flush()
        if args.no_stream or not samples:
            return 0


def _samples(client: Client, args: Arguments) -> list[dict[str, Any]]:
    names: list[str] = args.container or [one["Id"] for one in client.get("/containers/json", {"all": args.all})]
    found: list[dict[str, Any]] = []
    waiting = [(name, client.send("GET", f"{path(name)}/stats", {"stream": "0"})) for name in names]
    for name, connection in waiting:
        from ..client import checked

        try:
            found.append(checked(connection.receive()).json())
        except DaemonError as error:
            if error.http_status != 404 or name in args.container:
                raise
        finally:
            connection.close()
    return found


def row(sample: dict[str, Any], *, full: bool = False) -> Row:
    """One answer of GET /containers/{id}/stats as Docker's client names and writes it."""
    memory: dict[str, Any] = sample.get("memory_stats") or {}
    stats: dict[str, Any] = memory.get("stats") or {}
    cache = stats.get("total_inactive_file") or stats.get("inactive_file") or 0
    used, limit = max(0, (memory.get("usage") or 0) - cache), memory.get("limit") or 0
    networks = list((sample.get("networks") or {}).values())
    disk = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    read = sum(entry["value"] for entry in disk if str(entry.get("op")).lower() == "read")
    written = sum(entry["value"] for entry in disk if str(entry.get("op")).lower() == "write")
    identifier = str(sample.get("id", ""))
    return {
        "ID": identifier if full else short_id(identifier),
        "Container": identifier if full else short_id(identifier),
        "Name": str(sample.get("name", "")).lstrip("/"),
        "CPUPerc": f"{cpu_percent(sample):.2f}%",
        "MemUsage": f"{size(used, binary=True, digits=4)} / {size(limit, binary=True, digits=4)}",
        "MemPerc": f"{100.0 * used / limit if limit else 0.0:.2f}%",
        "NetIO": " / ".join(size(sum(one.get(key, 0) for one in networks)) for key in ("rx_bytes", "tx_bytes")),
        "BlockIO": f"{size(read)} / {size(written)}",
        "PIDs": str((sample.get("pids_stats") or {}).get("current") or 0),
    }


def cpu_percent(sample: dict[str, Any]) -> float:
    """Share of one CPU between the two samples, in percent (docker/cli, calculateCPUPercentUnix)."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    used = (now.get("cpu_usage") or {}).get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    passed = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    cpus = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or ()) or 1
    return used / passed * cpus * 100.0 if used > 0 and passed > 0 else 0.0
