"""A container of GET /containers/json as Docker's client names and writes it: the rows of ``ps``.  Pure."""

from __future__ import annotations

from .format import ago, ellipsis, local_time, ports, short_id, size
from .textjson import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .output import Row

COLUMNS = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
]


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
