"""What a resource is, and the one open table that says how each kind of it is made, unmade and looked at.

    driver, plans.py     yield values            Bridge("pb0123", ...)          this must exist
    applier.py           asks the table          kind_of(value).make(tools, value)
    reconcile.py         asks the table          kind.missing(...), kind.strays(...)

A *kind* is the code for one class of values (resource.py), in a module of its own here; a driver from another package brings its
own kind with ``register`` (docs/drivers.md).

The contract of a kind's verbs:

    make     of what is there already and like it succeeds; one that fails leaves nothing of what it did
    unmake   of what is not there succeeds; what is not ours stays
    alter    one value in the place of another with the same key; where the kernel can, without a moment in between
    forsake  in place of unmake when what the resource ``goes_with`` is unmade in the same change
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

from ..tools import Tools
from .resource import Resource
from .sight import Sight

R = TypeVar("R", bound=Resource)


class Kind(Generic[R]):
    """How one class of resources is made, unmade and looked at; see the module's text."""

    noun: str = "object"
    """What a difference of this kind is called: link, netns, route, rule, port, sysctl."""

    def make(self, tools: Tools, resource: R) -> None:
        raise NotImplementedError

    def unmake(self, tools: Tools, resource: R) -> None:
        raise NotImplementedError

    def alter(self, tools: Tools, old: R, new: R) -> None:
        self.unmake(tools, old)
        self.make(tools, new)

    def forsake(self, tools: Tools, resource: R) -> None:
        """What takes it along is going; by default there is nothing to do."""

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[R]) -> Iterable[tuple[str, R]]:
        """Of *wanted*, what is not there or not as it should be, each with the name that a user knows it by."""
        return ()

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        """Names of what is there under our mark, and in no plan."""
        return ()

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        """Take strays away."""

    def mend(self, tools: Tools, sight: Sight) -> None:
        """Make all that *sight* wants of this kind, and nothing else, be there in one step: for kinds that can.

        Where it is defined it stands for ``make`` and ``remove`` when something of the kind is missing or astray, unless
        the sight is not complete: what a driver that is away has made is in no plan, and would be taken away.
        """


_TABLE: dict[type[Resource], Kind[Any]] = {}


def register(value: type[R], kind: Kind[R]) -> None:
    """Have *kind* make, unmake and look at resources of the class *value*.  A second registration replaces the first."""
    _TABLE[value] = kind


def kind_of(resource: Resource) -> Kind[Any] | None:
    """The kind of this very class of values; None when nobody registered one."""
    return _TABLE.get(type(resource))


def kinds() -> tuple[tuple[type[Resource], Kind[Any]], ...]:
    """The whole table, in the order of registration."""
    return tuple(_TABLE.items())
