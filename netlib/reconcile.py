"""What should be, what is, and making the second like the first.

    should be    the plans of every network and every sandbox in the store (plans.py)
    is           what each kind of resource sees of the kernel (kinds/, sight.py)

``check`` compares and changes nothing; ``repair`` adds what is missing and removes what nobody asked for.  Both cost one dump of
each kind on the host and one look into each sandbox.  Used at start (a process or the whole host may have died half-way), after a
firewall was flushed, and on demand (``pynet check``, ``pynet repair``).

Nothing else changes meanwhile: the controller calls both with every turn in its hand (turns.py).

Networks whose drivers are away are told of, and nothing is taken for a stray then: only their drivers know what they have made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .applier import Attempts, step
from .core import Core
from .errors import PortInUse
from .kernel.netns import is_netns
from .kinds import builtin
from .kinds.kind import Kind, kinds
from .kinds.resource import Resource
from .kinds.sight import Sight
from .living import pin_again
from .model import PublishedPort

BUILTIN = builtin.MODULES
"""Strays of every kind are looked for, also of one that no plan has used yet."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    state: Literal["missing", "stray"]
    kind: str
    """link, netns, route, rule, port, sysctl, driver, lease; or what a kind of another package calls itself"""
    name: str

    def __str__(self) -> str:
        return f"{self.state} {self.kind} {self.name}"


_CAUSES = {"driver": 0, "netns": 1, "link": 2}
"""The cause is told before what follows from it: with an interface its routes, rules and parameters are missing."""


@dataclass(frozen=True)
class _Found:
    """What one kind has to say."""

    kind: Kind[Any]
    missing: Sequence[tuple[str, Resource]]
    strays: Sequence[str]


class _Survey:
    """Both sides, and their difference."""

    def __init__(self, core: Core) -> None:
        core.tools.reaper.settle()
        with core.lock:
            networks, rooms = list(core.registry.networks.values()), core.registry.rooms()
        plan, self.away = core.plans.whole(networks, rooms)
        self.sight = Sight(core.tools, plan, complete=not self.away)
        self.found: list[_Found] = []
        seen: set[tuple[str, str]] = set()
        for value, kind in kinds():
            missing = list(kind.missing(core.tools, self.sight, self.sight.wanted(value)))
            strays = [] if self.away else [n for n in kind.strays(core.tools, self.sight) if (kind.noun, n) not in seen]
            seen.update((kind.noun, name) for name in strays)  # all kinds of links see the same strays
            self.found.append(_Found(kind, missing, strays))

    @property
    def differences(self) -> list[Difference]:
        found = [Difference("missing", "driver", f"of network {name}") for name in self.away]
        found += [Difference("missing", one.kind.noun, name) for one in self.found for name, _ in one.missing]
        found += [Difference("stray", one.kind.noun, name) for one in self.found for name in one.strays]
        return sorted(found, key=lambda difference: (difference.state, _CAUSES.get(difference.kind, len(_CAUSES))))


def check(core: Core) -> list[Difference]:
    with step("read", "the kernel's state"):
        return _Survey(core).differences + lost_sockets(core) + lapsed_leases(core)


def repair(core: Core, lost_ports: Sequence[PublishedPort]) -> list[Difference]:
    """Strays go first: one may stand where a missing thing belongs.  Goes on after failures, raises them together.

    *lost_ports* are published ports whose sockets another program took.
    """
    attempt = Attempts("could not repair everything")
    with step("read", "the kernel's state"):
        pinned = _pin_again(core)
        survey = _Survey(core)
    for port in lost_ports:
        attempt.problems.append(PortInUse(port.host_ip, port.host_port, port.proto))
    with core.tools.visiting():
        for one in survey.found:
            if one.strays and not _mends(one.kind, survey.sight):
                attempt(_removing, one, core, survey.sight)
        _make_missing(core, survey, attempt)
        for one in survey.found:
            if (one.strays or one.missing) and _mends(one.kind, survey.sight):
                attempt(_mending, one.kind, core, survey.sight)
    attempt.finish()
    return pinned + survey.differences


def _mends(kind: Kind[Any], sight: Sight) -> bool:
    return sight.complete and type(kind).mend is not Kind.mend


def _make_missing(core: Core, survey: _Survey, attempt: Callable[..., None]) -> None:
    """In the plan's order; what comes by mending is left to that."""
    missing = {id(r) for one in survey.found if not _mends(one.kind, survey.sight) for _, r in one.missing}
    for resource in survey.sight.plan:
        if id(resource) in missing:
            attempt(core.applier.make, resource)


def _removing(found: _Found, core: Core, sight: Sight) -> None:
    with step("remove", f"stray {found.kind.noun} {', '.join(found.strays)}"):
        found.kind.remove(core.tools, sight, found.strays)


def _mending(kind: Kind[Any], core: Core, sight: Sight) -> None:
    with step("write", f"every {kind.noun}"):
        kind.mend(core.tools, sight)


def _pin_again(core: Core) -> list[Difference]:
    """Lost pins of namespaces in which somebody lives; what cuts nobody off is made anew later."""
    registry, tools = core.registry, core.tools
    lost = [room for room in registry.sandboxes.values() if room.path and not is_netns(room.path)]
    links = {link.name: link for link in tools.rtnl.links()} if lost else {}
    return [
        Difference("missing", "netns", room.path)
        for room in lost
        if pin_again(
            tools.netns,
            room.path,
            registry.endpoints_of_sandbox(room.id),
            links,
            home=tools.home,
            group=tools.instance.link_group,
        )
    ]


def lapsed_leases(core: Core) -> list[Difference]:
    """Addresses that nobody leases to their endpoints any more; the renewal asks for them again, and nothing else helps."""
    with core.lock:
        endpoints = [e for e in core.registry.endpoints.values() if e.lapsed]
    return [Difference("missing", "lease", f"{e.lapsed} of endpoint {e.name}") for e in endpoints]


def lost_sockets(core: Core) -> list[Difference]:
    """Published ports whose sockets another program took while nobody held them."""
    held = core.tools.ports.ids
    ports = (port for sandbox in core.registry.sandboxes.values() for port in sandbox.ports)
    return [Difference("missing", "port", port.id) for port in ports if port.host_port and port.id not in held]
