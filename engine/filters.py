"""The ``filters`` query parameter: a JSON object of name to values, in today's shape and in the one before 1.22.

    {"status": {"running": true}}    {"status": ["running"]}

A name that the object's list does not know is an error (``invalid filter 'x'``), so a misspelled filter never looks
like an empty result.  Values of one name are alternatives, names are all needed; labels are all needed too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from ..netlib.errors import InvalidArgument


class Filters:
    """Name to values, in the client's order."""

    def __init__(self, fields: Mapping[str, list[str]] | None = None) -> None:
        self.fields = dict(fields or {})

    @classmethod
    def parse(cls, text: str) -> Filters:
        if not text:
            return cls()
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidArgument(f"invalid filters: {text[:80]!r} is not JSON") from None
        if not isinstance(raw, dict):
            raise InvalidArgument("invalid filters: must be a JSON object")
        fields: dict[str, list[str]] = {}
        for name, values in raw.items():
            if isinstance(values, dict):
                chosen = [str(key) for key, on in values.items() if on]
            elif isinstance(values, list):
                chosen = [str(value) for value in values]
            else:
                raise InvalidArgument(f"invalid filter {name!r}: its values must be an object or a list")
            fields[str(name)] = chosen
        return cls(fields)

    def __bool__(self) -> bool:
        return any(self.fields.values())

    def allow(self, names: Iterable[str]) -> Filters:
        """Self, or InvalidArgument when a name is not among *names*."""
        known = set(names)
        for name in self.fields:
            if name not in known:
                raise InvalidArgument(f"invalid filter '{name}'", hint=f"known here: {', '.join(sorted(known))}")
        return self

    def values(self, name: str) -> list[str]:
        return self.fields.get(name, [])

    def exact(self, name: str, *candidates: str) -> bool:
        """No such filter, or one of its values equals a candidate."""
        values = self.values(name)
        return not values or any(candidate in values for candidate in candidates)

    def matches(self, name: str, test: Callable[[str], bool]) -> bool:
        """No such filter, or one of its values passes the test."""
        values = self.values(name)
        return not values or any(test(value) for value in values)

    def flag(self, name: str) -> bool | None:
        """A filter that is true or false; None when absent."""
        values = self.values(name)
        if not values:
            return None
        if len(values) == 1 and values[0].lower() in ("1", "true"):
            return True
        if len(values) == 1 and values[0].lower() in ("0", "false"):
            return False
        raise InvalidArgument(f"invalid filter '{name}={values}'", hint="it is true or false")

    def labels(self, labels: Mapping[str, str], name: str = "label") -> bool:
        """Every "key" or "key=value" of the filter holds for *labels*."""
        return all(label_holds(labels, wanted) for wanted in self.values(name))

    def not_labels(self, labels: Mapping[str, str]) -> bool:
        """None of the ``label!`` filter's values holds."""
        return not any(label_holds(labels, wanted) for wanted in self.values("label!"))


def label_holds(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
