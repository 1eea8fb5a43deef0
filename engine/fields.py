"""Typed reading of a JSON object that a client sent: the right type or its zero value, else one clear InvalidArgument.

Go's decoder, which clients were made against, takes ``null`` for anything and gives the type's zero value; so does this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..netlib.errors import InvalidArgument


def is_word(text: str) -> bool:
    """Whether it stays one word where a file has words and lines, as /etc/hosts has: no blanks, no control characters, no
    comment, and no byte that is no text (which the file, and so those of the neighbours, could not be written with)."""
    return bool(text) and text.isprintable() and not any(character.isspace() or character == "#" for character in text)


class Fields:
    """An object of the request; ``where`` names it in errors ("HostConfig.")."""

    def __init__(self, body: Any, where: str = "") -> None:
        if body is None:
            body = {}
        if not isinstance(body, Mapping):
            raise InvalidArgument(f"invalid JSON: {where.rstrip('.') or 'the body'} must be an object")
        self.body: Mapping[str, Any] = body
        self.where = where

    def _wrong(self, name: str, wanted: str) -> InvalidArgument:
        return InvalidArgument(f"invalid JSON: {self.where}{name} must be {wanted}")

    def has(self, name: str) -> bool:
        return self.body.get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        value = self.body.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        if "\0" in value:
            raise self._wrong(name, "a string without NUL bytes")
        return value

    def integer(self, name: str, default: int = 0, *, least: int = -(1 << 63), most: int = (1 << 63) - 1) -> int:
        value = self.body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(name, "a whole number")
        if not -(1 << 63) <= value < 1 << 63:
            raise self._wrong(name, "a number of 64 bits")
        if not least <= value <= most:
            raise self._wrong(name, f"from {least} to {most}")
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self.body.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def strings(self, name: str) -> list[str]:
        value = self.body.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of strings")
        if any("\0" in item for item in value):
            raise self._wrong(name, "a list of strings without NUL bytes")
        return list(value)

    def words(self, name: str) -> list[str]:
        """``strings`` that go into a file of words and lines: each is printable, has no blank and begins no comment."""
        values = self.strings(name)
        for value in values:
            if not is_word(value):
                raise self._wrong(name, f"a list of names, which {value!r} is none of".replace("'", '"'))
        return values

    def command(self, name: str) -> list[str] | None:
        """A list of strings, one string (which is a list of one), or None when absent (strslice.StrSlice)."""
        value = self.body.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            return [self.text(name)]
        return self.strings(name)

    def string_map(self, name: str) -> dict[str, str]:
        value = self.body.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
            raise self._wrong(name, "an object of strings")
        if any("\0" in text for pair in value.items() for text in pair):
            raise self._wrong(name, "an object of strings without NUL bytes")
        return {str(key): str(item) for key, item in value.items()}

    def keys(self, name: str) -> list[str]:
        """The keys of an object whose values say nothing (Go's ``map[string]struct{}``)."""
        value = self.body.get(name)
        if value is None:
            return []
        if not isinstance(value, Mapping):
            raise self._wrong(name, "an object")
        if any("\0" in key for key in value):
            raise self._wrong(name, "an object whose keys have no NUL bytes")
        return [str(key) for key in value]

    def objects(self, name: str) -> list[Fields]:
        value = self.body.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "a list of objects")
        return [Fields(item, f"{self.where}{name}[{index}].") for index, item in enumerate(value)]

    def object(self, name: str) -> Fields:
        return Fields(self.body.get(name), f"{self.where}{name}.")
