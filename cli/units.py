"""Sizes, durations and counts as people write them on a command line -> numbers."""

from __future__ import annotations

import time

from ..netlib.errors import InvalidArgument

_SIZES = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class BadOption(InvalidArgument):
    """An option's value, or two options together, make no sense."""

    exit_code = 125


class InvalidValue(InvalidArgument):
    """An option's value can not be read."""

    exit_code = 125

    def __init__(self, what: str, text: str, hint: str) -> None:
        super().__init__(f"invalid {what}: {text!r}", hint=hint)


def parse_size(text: str) -> int:
    """``64m``, ``1.5g``, ``1GiB``, ``4096`` -> bytes; powers of 1024 (docker/go-units, RAMInBytes)."""
    number = text.strip().lower()
    digits = number.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = number[len(digits) :].strip()
    unit = unit.removesuffix("ib") if len(unit) == 3 else unit.removesuffix("b") if len(unit) == 2 else unit
    try:
        value = float(digits) * (1 << _SIZES[unit])
        if not 0 <= value < 1 << 63:
            raise ValueError
    except (ValueError, KeyError):
        raise InvalidValue("size", text, "write a number and b, k, m or g, for example 64m") from None
    return int(value)


def parse_cpus(text: str) -> int:
    """``1.5`` -> 1_500_000_000 (NanoCpus)."""
    whole, dot, part = text.partition(".")
    if not (whole + part).isdecimal() or not (whole + part).isascii() or len(part) > 9 or (dot and not part):
        raise InvalidValue("number of CPUs", text, "write a number such as 0.5 or 2")
    return int(whole or "0") * 10**9 + int(part.ljust(9, "0"))


def parse_duration(text: str) -> float:
    """``1m30s``, ``500ms``, ``1.5h`` -> seconds (Go's time.ParseDuration, without signs)."""
    import re

    parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidValue("duration", text, "write for example 30s, 10m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_moment(text: str, now: float | None = None) -> str:
    """``--since`` and ``--until``: a Unix time, a date (RFC 3339), or a duration ago -> Unix seconds as text."""
    try:
        return f"{float(text):.9f}".rstrip("0").rstrip(".")
    except ValueError:
        pass
    if text[4:5] == "-":
        from datetime import datetime

        try:
            return f"{datetime.fromisoformat(text).timestamp():.9f}".rstrip("0").rstrip(".")
        except ValueError:
            raise InvalidValue("time", text, "write for example 2026-01-31T12:00:00Z or 10m") from None
    moment = (time.time() if now is None else now) - parse_duration(text)
    return f"{moment:.9f}"
