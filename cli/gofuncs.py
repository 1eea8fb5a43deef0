"""The functions of ``--format`` templates, and how values are printed: text/template's and docker/cli's own."""

from __future__ import annotations

import json
import re
from typing import Any

from ..netlib.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class TemplateError(InvalidArgument):
    """A --format template can not be read, or asks for what is not there."""

    hint = "templates have fields, range, if, with, and the functions json, join, lower, upper, title, split, println, index, len"


def show(value: Any) -> str:
    """As Go's fmt prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(map(show, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(item)}" for key, item in sorted(value.items())) + "]"
    return str(value)


def _json(value: Any) -> str:
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if not callable(item)}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _upper(text: Any) -> str:
    return show(text).upper()


def _lower(text: Any) -> str:
    return show(text).lower()


def _title(text: Any) -> str:
    return show(text)[:1].upper() + show(text)[1:]


def _join(values: Any, glue: Any) -> str:
    return str(glue).join(map(show, values or []))


def _split(text: Any, glue: Any) -> list[str]:
    return str(text).split(str(glue))


def _println(*values: Any) -> str:
    return " ".join(map(show, values)) + "\n"


def _print(*values: Any) -> str:
    return "".join(map(show, values))


def _printf(text: Any, *values: Any) -> str:
    """Go's verbs %v and %q, and those that Python shares."""
    left = list(values)

    def verb(match: re.Match[str]) -> str:
        flags, letter = match[1], match[2]
        if letter == "%":
            return "%"
        if not left:
            raise TemplateError("error calling printf: too few values")
        value = left.pop(0)
        if letter == "q":
            return json.dumps(show(value), ensure_ascii=False)
        if letter in "vs":
            return f"%{flags}s" % show(value)
        return str(f"%{flags}{letter}" % value)

    return re.sub(r"%([-+ 0-9.]*)([a-zA-Z%])", verb, str(text))


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, "")
        elif isinstance(value, list):
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise TemplateError(f"error calling index: index out of range: {show(key)}")
            value = value[key]
        else:
            raise TemplateError(f"error calling index: can't index item of {show(value)}")
    return value


def _slice(value: Any, start: int = 0, end: int | None = None) -> Any:
    return value[start:end]


def _len(value: Any) -> int:
    return len(value or ())


def _eq(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _ne(one: Any, other: Any) -> bool:
    return bool(one != other)


def _lt(one: Any, other: Any) -> bool:
    return bool(one < other)


def _le(one: Any, other: Any) -> bool:
    return bool(one <= other)


def _gt(one: Any, other: Any) -> bool:
    return bool(one > other)


def _ge(one: Any, other: Any) -> bool:
    return bool(one >= other)


def _and(*values: Any) -> Any:
    return next((value for value in values if not value), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if value), values[-1])


def _not(value: Any) -> bool:
    return not value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "upper": _upper,
    "lower": _lower,
    "title": _title,
    "join": _join,
    "split": _split,
    "println": _println,
    "print": _print,
    "printf": _printf,
    "index": _index,
    "slice": _slice,
    "len": _len,
    "eq": _eq,
    "ne": _ne,
    "lt": _lt,
    "le": _le,
    "gt": _gt,
    "ge": _ge,
    "and": _and,
    "or": _or,
    "not": _not,
}
