"""A change is one value, carried out by one function.

    verb       turn, leases, decision, plans -->  Change
    carry_out  1 store      what should be, in one transaction; from here on it holds, whatever happens to this process
               2 kernel     make, alter, unmake
               3 leases     what is no longer needed is given back

Something new is all or nothing: when a step fails, what was made is unmade, the store gets its records back, the leases that
were taken are given back, and the failure is raised, with whatever the undoing met added to it as notes.  A *removal* is never
held up: the object is gone, every step is tried, leases are given back in any case, and what failed is raised together at
the end; ``repair`` removes what stayed.  A process killed anywhere leaves a store that is ahead of the kernel, and ``repair``
makes the kernel follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from .applier import Applier, Attempts
from .errors import PynetError
from .kinds.resource import Key, Resource
from .model import EndpointRecord, NetworkRecord, PublishedPort, Record


@dataclass(frozen=True, slots=True)
class PoolLease:
    """The subnets of a network."""

    network: NetworkRecord


@dataclass(frozen=True, slots=True)
class AddressLease:
    """The addresses of an endpoint."""

    network: NetworkRecord
    endpoint: EndpointRecord


@dataclass(frozen=True, slots=True)
class HostPortLease:
    """Host ports, with their sockets, of a sandbox."""

    sandbox: str
    ports: tuple[PublishedPort, ...]


Lease = PoolLease | AddressLease | HostPortLease


@dataclass(frozen=True, slots=True)
class Step:
    """A line of a plan that is shown: what would be done to which resource."""

    verb: Literal["make", "alter", "unmake"]
    resource: Resource

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


@dataclass(frozen=True, slots=True)
class Change:
    save: tuple[Record, ...] = ()
    forget: tuple[Record, ...] = ()
    make: tuple[Resource, ...] = ()
    alter: tuple[tuple[Resource, Resource], ...] = ()
    """What is there, and what takes its place."""
    unmake: tuple[Resource, ...] = ()
    """In the order of making; undone backwards."""
    taken: tuple[Lease, ...] = ()
    """Leases that were taken for this, and are given back if it fails."""
    released: tuple[Lease, ...] = ()
    """Leases that are no longer needed after it."""
    problems: tuple[PynetError, ...] = ()
    """What kept a removal from knowing all that it should unmake."""
    removal: bool = False
    """Whether it holds even when a step fails."""
    of: str = ""
    """What is removed, as a user knows it: "endpoint web"."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """In the order in which they are carried out."""
        return tuple(self._steps())

    def _steps(self) -> Iterator[Step]:
        for resource in self.make:
            yield Step("make", resource)
        for _, resource in self.alter:
            yield Step("alter", resource)
        taken_along = self.taken_along()
        for resource in reversed(self.unmake):
            if resource.key not in taken_along:
                yield Step("unmake", resource)

    def taken_along(self) -> frozenset[Key]:
        """Keys of what is to be unmade and goes by itself, with something else that is unmade."""
        going = {key for resource in self.unmake for key in resource.holds}
        return frozenset(resource.key for resource in self.unmake if going.intersection(resource.goes_with))


class Records(Protocol):
    """What carry_out needs of the registry."""

    def save(self, *records: Record, forget: tuple[Record, ...] = ()) -> None: ...
    def known(self, record: Record) -> Record | None: ...


def carry_out(change: Change, records: Records, applier: Applier, give_back: Callable[[Lease], None]) -> None:
    """See the module's text."""
    before = [(record, records.known(record)) for record in (*change.save, *change.forget)]
    try:
        records.save(*change.save, forget=change.forget)
    except BaseException:
        _give_back(change.taken, give_back)
        raise
    with applier.tools.visiting():
        if change.removal:
            _remove(change, applier, give_back)
            return
        try:
            applier.apply(change.make, change.alter)
        except BaseException as error:
            undo = Attempts("could not undo everything")
            undo(
                records.save,
                *(old for _, old in before if old is not None),
                forget=tuple(new for new, old in before if old is None),
            )
            for lease in change.taken:
                undo(give_back, lease)
            for problem in undo.problems:
                error.add_note(f"while undoing: {problem}")
            raise
        _remove(change, applier, give_back)


def _remove(change: Change, applier: Applier, give_back: Callable[[Lease], None]) -> None:
    attempt = Attempts("could not remove everything" + (f" of {change.of}" if change.of else ""))
    attempt.problems += change.problems
    if change.removal:
        for resource in change.make:
            attempt(applier.make, resource)
        for old, new in change.alter:
            attempt(applier.alter, old, new)
    taken_along = change.taken_along()
    for resource in reversed(change.unmake):
        attempt(applier.forsake if resource.key in taken_along else applier.unmake, resource)
    for lease in change.released:
        attempt(give_back, lease)
    attempt.finish()


def _give_back(leases: tuple[Lease, ...], give_back: Callable[[Lease], None]) -> None:
    for lease in leases:
        give_back(lease)
