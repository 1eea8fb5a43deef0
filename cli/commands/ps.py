"""``pynet ps``: containers as a table."""

from __future__ import annotations

from ..client import Client
from ..format import ago, ellipsis, local_time, ports, short_id, size
from ..output import Row, add_listing, filters, show_list
from ..textjson import dumps
from ..units import parse_integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

COLUMNS = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
]


def ps(parser: Parser) -> Run:
    parser.flag("-a", "--all", help="also those that do not run")
    parser.option("-n", "--last", metavar="N", type=parse_integer, help="the N created last, in any state")
    parser.flag("-l", "--latest", help="the one created last, in any state")
    parser.flag("-s", "--size", help="show sizes")
    add_listing(parser, "ids")
    return run


def run(args: Arguments) -> int:
    limit = 1 if args.latest else args.last
    query = {"all": args.all, "limit": limit, "size": args.size, "filters": filters(args.filter)}
    containers: list[dict[str, Any]] = Client(args.settings).get("/containers/json", query)
    rows = [row(container, full=args.no_trunc) for container in containers]
    columns = [*COLUMNS, ("Size", "SIZE")] if args.size else COLUMNS
    show_list(args, containers, rows, columns)
    return 0


def row(container: dict[str, Any], *, full: bool = False, now: float | None = None) -> Row:
    """One container of GET /containers/json as Docker's client names and writes it."""
    labels: dict[str, str] = container.get("Labels") or {}

    def lookup(label: str) -> str:
        return labels.get(label, "")

    names = [str(name).lstrip("/") for name in container.get("Names") or ()]
    command = str(container.get("Command", ""))
    mounts = [m.get("Name") or m.get("Source", "") for m in container.get("Mounts") or ()]
    created = float(container.get("Created", 0))
    written = size(container.get("SizeRw") or 0)
    virtual = size(container.get("SizeRootFs") or 0)
    return {
        "ID": container["Id"] if full else short_id(container["Id"]),
        "Names": ",".join(names if full else [name for name in names if "/" not in name] or names),
        "Image": container.get("Image", "") if full else _image(str(container.get("Image", ""))),
        "Command": dumps(command if full else ellipsis(command, 20), ascii=False),
        "CreatedAt": local_time(created),
        "RunningFor": ago(created, now),
        "Ports": ports(container.get("Ports") or []),
        "State": container.get("State", ""),
        "Status": container.get("Status", ""),
        "Size": f"{written} (virtual {virtual})" if container.get("SizeRootFs") else written,
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Mounts": ",".join(mounts if full else [ellipsis(mount, 15) for mount in mounts]),
        "Networks": ",".join(sorted((container.get("NetworkSettings") or {}).get("Networks") or {})),
        "Label": lookup,
    }


def _image(name: str) -> str:
    return short_id(name) if name.startswith("sha256:") else name
