"""What a sandbox may resolve and what others know it by: told to who serves names (naming.py), in one message a change.

The view and the names of all its endpoints are one resource, because they change together: an endpoint that joins brings its
network into the view and its names to the network.  What takes place of what is told before what is taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..naming import Names, View
from ..tools import Tools
from .kind import Kind, register
from .resource import Key, Resource
from .sight import Sight


@dataclass(frozen=True)
class SandboxNames(Resource):
    view: View
    names: tuple[Names, ...] = ()

    @property
    def owner(self) -> str:
        return self.view.sandbox

    @property
    def key(self) -> Key:
        return ("names", self.owner)

    @property
    def title(self) -> str:
        return f"names of sandbox {self.owner[:12]}"

    @property
    def details(self) -> str:
        return "; ".join(_shown(one) for one in self.names)


class SandboxNamesKind(Kind[SandboxNames]):
    noun = "names"

    def make(self, tools: Tools, resource: SandboxNames) -> None:
        if tools.names is not None:
            tools.names.tell([resource.view], resource.names)

    def unmake(self, tools: Tools, resource: SandboxNames) -> None:
        if tools.names is not None:
            tools.names.tell(gone_views=[resource.owner], gone_endpoints=[one.endpoint for one in resource.names])

    def alter(self, tools: Tools, old: SandboxNames, new: SandboxNames) -> None:
        if tools.names is not None:
            known = set(old.names)
            there = {one.endpoint for one in new.names}
            tools.names.tell(
                [new.view] if new.view != old.view else (),
                [one for one in new.names if one not in known],
                gone_endpoints=[one.endpoint for one in old.names if one.endpoint not in there],
            )

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[SandboxNames]) -> Iterable[tuple[str, SandboxNames]]:
        views, names = sight.told
        for one in wanted:
            if views.get(one.owner) != one.view:
                yield f"view of sandbox {one.owner}", one
            for name in one.names:
                if names.get(name.endpoint) != name:
                    yield _shown(name), one

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        wanted = sight.wanted(SandboxNames)
        views, names = sight.told
        known = {one.endpoint for resource in wanted for one in resource.names}
        yield from sorted(f"view of sandbox {id}" for id in views.keys() - {one.owner for one in wanted})
        yield from sorted(f"of endpoint {id}" for id in names.keys() - known)

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        if tools.names is not None:
            tools.names.tell(
                gone_views=[name.removeprefix("view of sandbox ") for name in names if name.startswith("view")],
                gone_endpoints=[name.removeprefix("of endpoint ") for name in names if name.startswith("of endpoint")],
            )


def _shown(names: Names) -> str:
    return f"{', '.join(names.names)} on {names.network_name}: {', '.join(names.addresses) or 'no address'}"


register(SandboxNames, SandboxNamesKind())
