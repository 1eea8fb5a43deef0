"""What the library asks of a store: objects with revisions, transactions that compare before they write, and a watch.

    load      all objects of a kind, each with the revision that it has
    commit    put and delete, all or nothing; each names the revision that it expects, so nobody overwrites what they did not see
    watch     what others wrote, as it happens

A *scope* says how far a store reaches: "local" is one host's (sqlite.py), "global" one that several hosts share.  On one host
nobody else writes, so the watch is silent and no revision is ever another's; the registry relies on neither.

For a shared store (etcd): an object is a key <prefix>/<kind>/<id>, its revision the key's mod_revision, ``commit`` a transaction
that compares those, ``watch`` a watch of the prefix from the revision that ``load`` saw, listed again after it broke.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import Conflict

Body = dict[str, Any]


class Changed(Conflict):
    """Somebody else changed an object since it was read."""

    hint = "look again, and repeat the change if it still makes sense"

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"{kind} {id[:12]} was changed by somebody else meanwhile")
        self.kind, self.id = kind, id


class NameTaken(Conflict):
    """Another object of this kind has the name."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} with name {name} already exists", hint="remove it, or choose another name")
        self.kind, self.name = kind, name


@dataclass(frozen=True, slots=True)
class Stored:
    kind: str
    id: str
    body: Body | None
    """None: it was deleted."""
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    kind: str
    id: str
    body: Body
    name: str | None = None
    """Unique within the kind."""
    expected: int = 0
    """The revision that the object must have; 0: it must not be there."""


@dataclass(frozen=True, slots=True)
class Delete:
    kind: str
    id: str
    expected: int = 0
    """As in ``Put``; an object that is not there is deleted already."""


class Store(Protocol):
    scope: str
    """"local" or "global"."""

    def load(self, kind: str) -> Sequence[Stored]:
        """All objects of a kind, by id."""
        ...

    def commit(self, puts: Sequence[Put], deletes: Sequence[Delete]) -> int:
        """All of it or nothing; the revision that what was put has now.  Changed, NameTaken."""
        ...

    def watch(self, kinds: Sequence[str], tell: Callable[[Iterable[Stored]], None]) -> Callable[[], None]:
        """Have *tell* called, in whatever thread, with what others write; returns how to end that."""
        ...

    def close(self) -> None: ...
