"""Points in time as the Engine API writes and reads them.

Nanoseconds since 1970 as whole numbers wherever two are compared: a float loses the last digits, and a client that asks for
what came ``since`` the last line it saw would lose or repeat lines.
"""

from __future__ import annotations

import re
import time

from ..netlib.errors import InvalidArgument
from ..netlib.timestamps import format_stamp, parse_stamp

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which clients compare with."""

_UNIX = re.compile(r"(-?\d{1,12})(?:\.(\d{1,9}))?\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|ns|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def parse_time(text: str) -> int | None:
    """``since`` and ``until``: Unix seconds with fraction, or RFC 3339, to nanoseconds.  None when empty."""
    if not text:
        return None
    match = _UNIX.match(text)
    if match is not None:
        whole, fraction = int(match[1]) * 1_000_000_000, int((match[2] or "").ljust(9, "0"))
        return whole - fraction if text.startswith("-") else whole + fraction
    moment = parse_stamp(text)
    if moment is None:
        raise InvalidArgument(f"invalid time {text!r}: must be Unix seconds or RFC 3339")
    return moment


def parse_age(text: str) -> float | None:
    """Go's notation of a positive duration ("10m", "1h30m") to seconds; None when it is none."""
    if not text or _DURATION.sub("", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))


def until(text: str) -> float:
    """``until`` of a prune, an age or a point in time, to Unix seconds."""
    age = parse_age(text)
    if age is not None:
        return time.time() - age
    moment = parse_time(text)
    return time.time() if moment is None else moment / 1e9


def rfc3339(moment: float, *, seconds: bool = False) -> str:
    """Unix seconds to UTC with nanoseconds' places, as Go writes it; 0 is "never"."""
    if moment <= 0:
        return NEVER
    stamp = format_stamp(round(moment * 1e6) * 1000)
    return f"{stamp[:19]}Z" if seconds else stamp
