"""What a check sees of the kernel: each dump is made once, when the first kind asks for it, and shared by all of them.

In the host's namespace that is one dump of links and one of addresses, however many networks there are.  Into each sandbox
it takes one look (a socket and three dumps, some 0.3 ms): addresses can be flushed and routes deleted in there, and nothing
outside shows it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from ..firewall.intents import NetworkRules, PortRule
from ..kernel.netns import is_netns
from ..kernel.rtnl_links import LinkInfo
from ..kernel.rtnl_routes import AddressInfo, RouteInfo
from ..kernel.traffic import QueueInfo
from ..naming import Names, View
from ..tools import Tools
from .resource import Key, Resource

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True)
class Interior:
    """What is inside a sandbox."""

    links: dict[str, LinkInfo]
    addresses: frozenset[tuple[int, str]]
    """(index of the link, "10.1.0.2/24")"""
    routes: tuple[RouteInfo, ...]


class Sight:
    def __init__(self, tools: Tools, plan: Sequence[Resource], *, complete: bool = True) -> None:
        self.tools = tools
        self.plan = tuple(plan)
        self.complete = complete
        """Whether the plan is all that there should be: not while the driver of some network is away."""
        self._interiors: dict[str, Interior | None] = {}
        self._queues: dict[str, dict[int, QueueInfo]] = {}

    def wanted(self, value: type[R]) -> list[R]:
        """The plan's resources of this class."""
        return [resource for resource in self.plan if type(resource) is value]

    @cached_property
    def keys(self) -> frozenset[Key]:
        return frozenset(key for resource in self.plan for key in resource.holds)

    @cached_property
    def links(self) -> dict[str, LinkInfo]:
        """The host's, by name."""
        return {link.name: link for link in self.tools.rtnl.links()}

    @cached_property
    def addresses(self) -> frozenset[tuple[int, str]]:
        return frozenset(_address(a) for a in self.tools.rtnl.addresses())

    @cached_property
    def pins(self) -> dict[str, bool]:
        """Paths in the directory of pins, and whether a namespace is pinned there."""
        directory = self.tools.instance.netns_dir
        paths = [str(directory / name) for name in os.listdir(directory)] if directory.exists() else []
        return {path: is_netns(path) for path in paths}

    @cached_property
    def _firewall(self) -> tuple[frozenset[NetworkRules], frozenset[PortRule]]:
        needed = any(key[0] in ("firewall-network", "firewall-ports") for key in self.keys)
        networks, ports = self.tools.firewall_state(needed=needed)
        return frozenset(networks), frozenset(ports)

    @property
    def network_rules(self) -> frozenset[NetworkRules]:
        return self._firewall[0]

    @property
    def port_rules(self) -> frozenset[PortRule]:
        return self._firewall[1]

    @cached_property
    def proxied(self) -> frozenset[str]:
        """Ids of the ports that the proxy serves."""
        return frozenset(self.tools.proxy.stats()["ports"]) if self.tools.proxy else frozenset()

    @cached_property
    def served(self) -> frozenset[str]:
        """Ids of the sandboxes in which names are served."""
        return self.tools.names.served if self.tools.names else frozenset()

    @cached_property
    def told(self) -> tuple[dict[str, View], dict[str, Names]]:
        """By what names are served: views by sandbox, names by endpoint."""
        views, names = self.tools.names.told() if self.tools.names else ((), ())
        return {view.sandbox: view for view in views}, {one.endpoint: one for one in names}

    def inside(self, path: str) -> Interior | None:
        """What is inside the sandbox that is pinned at *path*; None when nothing is pinned there."""
        if path not in self._interiors:
            self._interiors[path] = self._look(path) if is_netns(path) else None
        return self._interiors[path]

    def queues(self, path: str) -> dict[int, QueueInfo]:
        """The root queues of the interfaces in a sandbox, or ("") of the host's, by index."""
        if path not in self._queues:
            if path:
                with self.tools.inside(path) as inside:
                    self._queues[path] = inside.rtnl.queues()
            else:
                self._queues[path] = self.tools.rtnl.queues()
        return self._queues[path]

    def _look(self, path: str) -> Interior:
        with self.tools.inside(path) as inside:
            return Interior(
                {link.name: link for link in inside.rtnl.links()},
                frozenset(_address(a) for a in inside.rtnl.addresses()),
                tuple(route for version in (4, 6) for route in inside.rtnl.routes(version)),
            )


def _address(info: AddressInfo) -> tuple[int, str]:
    return info.index, f"{info.address}/{info.prefix}"
