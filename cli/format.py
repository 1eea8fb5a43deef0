"""Tables, sizes and times as people read them; the texts are those of Docker's client.  Pure."""

from __future__ import annotations

import time

from ..netlib.durations import human_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def printable(text: str) -> str:
    """*text* with what is no letter to print written out ("\\x1b", "\\n").

    Containers choose the names of their processes, images their labels: neither is to move the cursor of who looks at them, or
    to make two lines of one.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, three spaces apart; every line ends with a newline."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def size(count: float, *, binary: bool = False, digits: int = 3) -> str:
    """4096 -> "4.1kB" (docker/go-units, HumanSizeWithPrecision), or "4KiB"."""
    base, units = (1024.0, _BINARY) if binary else (1000.0, _DECIMAL)
    power = 0
    while count >= base and power < len(units) - 1:
        count /= base
        power += 1
    return f"{count:.{digits}g}{units[power]}" if count < 1000 else f"{count:.0f}{units[power]}"


def ago(moment: float, now: float | None = None) -> str:
    """Unix seconds -> "3 minutes ago"."""
    return human_duration(max(0.0, (time.time() if now is None else now) - moment)) + " ago"


def local_time(moment: float) -> str:
    """Unix seconds -> "2026-01-31 12:00:00 +0000 UTC", as Go prints times."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(moment))


def short_id(identifier: str) -> str:
    """The first twelve digits of an id, without its algorithm."""
    return identifier.removeprefix("sha256:")[:12]


def ellipsis(text: str, width: int) -> str:
    """*text* cut to *width* characters, the last of them an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def ports(entries: Sequence[Mapping[str, object]]) -> str:
    """The PORTS column: runs of ports are one entry (docker/cli, DisplayablePorts).

    [{IP, PrivatePort, PublicPort, Type}] -> "0.0.0.0:8000-8010->80-90/tcp, 9000/tcp"
    """
    groups: list[tuple[str, str, int, int, int]] = []  # address, protocol, private first, last, public first (0: none)
    ordered = sorted(
        entries,
        key=lambda e: (str(e.get("Type", "")), str(e.get("IP") or ""), _int(e, "PublicPort"), _int(e, "PrivatePort")),
    )
    for entry in ordered:
        address, proto = str(entry.get("IP") or ""), str(entry.get("Type", "tcp"))
        private, public = _int(entry, "PrivatePort"), _int(entry, "PublicPort")
        if groups:
            last_address, last_proto, first, last, first_public = groups[-1]
            follows = private == last + 1 and (public == first_public + private - first if public else not first_public)
            if (address, proto) == (last_address, last_proto) and follows:
                groups[-1] = (address, proto, first, private, first_public)
                continue
        groups.append((address, proto, private, private, public))
    groups.sort(key=lambda group: (group[4] == 0, group[1] == "udp", group[2], ":" in group[0]))
    return ", ".join(_port_group(*group) for group in groups)


def _int(entry: Mapping[str, object], key: str) -> int:
    value = entry.get(key) or 0
    return value if isinstance(value, int) else 0


def _port_group(address: str, proto: str, first: int, last: int, public: int) -> str:
    private = str(first) if first == last else f"{first}-{last}"
    if not public:
        return f"{private}/{proto}"
    host = str(public) if first == last else f"{public}-{public + last - first}"
    shown = f"[{address}]" if ":" in address else address
    return f"{shown}:{host}->{private}/{proto}"
