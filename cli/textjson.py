"""JSON by the interpreter's own C scanner and encoder, without the package around them.

``import json`` brings re, enum, functools and more: 6 ms of a command that takes 15.  What it does with them is not
needed here: the scanner reads and the encoder writes by themselves.  Where an interpreter has no ``_json``, or one of
another shape, the package serves.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SPACE = " \t\n\r"  # RFC 8259, section 2


class NotJson(ValueError):
    """A text is no JSON, or (``position`` is then its end) not a whole one yet."""


class _Context:
    """What the scanner asks its caller for (json.JSONDecoder's attributes)."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    memo: dict[str, str] = {}

    @staticmethod
    def parse_constant(name: str) -> float:
        return float(name)  # NaN, Infinity and -Infinity, as the package reads them


def _readers() -> Callable[[str, int], tuple[Any, int]]:
    try:
        from _json import make_scanner
    except ImportError:
        from json import JSONDecoder

        return JSONDecoder().raw_decode
    return make_scanner(_Context())  # type: ignore[arg-type]


_scan = _readers()


def read_one(text: str, start: int = 0) -> tuple[Any, int]:
    """The value that begins at *start*, and where it ends; NotJson when there is none, or not all of it."""
    try:
        return _scan(text, start)
    except (StopIteration, ValueError):
        raise NotJson(f"not JSON: {text[start : start + 60]!r}") from None


def loads(data: bytes | str) -> Any:
    """The one value in *data* (UTF-8); NotJson, a ValueError, when it is anything else."""
    text = data if isinstance(data, str) else data.decode()
    value, end = read_one(text, len(text) - len(text.lstrip(_SPACE)))
    if text[end:].strip(_SPACE):
        raise NotJson(f"not JSON: {text[end : end + 60]!r} follows a value")
    return value


def dumps(value: object, *, ascii: bool = True) -> str:
    """*value* on one line without spaces; *ascii* escapes all other characters."""
    try:
        from _json import encode_basestring, encode_basestring_ascii, make_encoder

        quoted = encode_basestring_ascii if ascii else encode_basestring
        encode: Any = make_encoder(None, _unknown, quoted, None, ":", ",", False, False, True)
    except (ImportError, TypeError):
        from json import dumps as package

        return package(value, ensure_ascii=ascii, separators=(",", ":"))
    return "".join(encode(value, 0))


def _unknown(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} has no form in JSON")
