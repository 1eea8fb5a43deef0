"""Points in time as RFC 3339 writes them, the way Go does; every room may import it, and it imports nothing of ours.

Nanoseconds since 1970 as whole numbers: a float loses the last digits.
"""

from __future__ import annotations

import calendar
import re
import time

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))\Z")


def format_stamp(nanoseconds: int) -> str:
    """``2026-11-24T18:30:00.000000001Z``."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def parse_stamp(text: str) -> int | None:
    """RFC 3339, with up to nine digits of a fraction, to nanoseconds; None when it is none."""
    match = _RFC3339.match(text)
    if match is None:
        return None
    try:
        seconds = calendar.timegm(time.strptime(match[1].upper(), "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
    offset = (int(match[4]) * 60 + int(match[5])) * 60 if match[3] else 0
    seconds -= -offset if match[3] == "-" else offset
    return seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
