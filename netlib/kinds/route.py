"""Routes inside a sandbox: the default routes, and those that a driver's join answered."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..kernel.netlink import NetlinkError
from ..kernel.rtnl_routes import RouteInfo
from ..tools import Inside, Tools
from .kind import Kind, register
from .resource import Key, Resource
from .sight import Sight

DEFAULT = "default"
ON_LINK = ("0.0.0.0", "::")
"""Next hops that are none: all is reached through the interface itself (ipvlan's l3), as route(8) shows it."""


@dataclass(frozen=True)
class Route(Resource):
    netns: str
    ifname: str
    gateway: str
    """The next hop; "" or one of ON_LINK for what the link reaches itself."""
    destination: str = DEFAULT
    """"default", or a CIDR."""

    @property
    def hop(self) -> str:
        """The next hop; "" for what the link reaches itself."""
        return "" if self.gateway in ON_LINK else self.gateway

    @property
    def version(self) -> int:
        return 6 if ":" in self.gateway or ":" in self.destination else 4

    @property
    def key(self) -> Key:
        return ("route", self.netns, self.destination, str(self.version))

    @property
    def goes_with(self) -> tuple[Key, ...]:
        return (("netns", self.netns), ("interface", self.netns, self.ifname))

    @property
    def title(self) -> str:
        what = "default route" if self.destination == DEFAULT else f"route to {self.destination}"
        return f"{what} in {self.netns}"

    @property
    def details(self) -> str:
        return f"{self.hop} on {self.ifname}" if self.hop else self.ifname


class RouteKind(Kind[Route]):
    noun = "route"

    def make(self, tools: Tools, resource: Route) -> None:
        with tools.inside(resource.netns) as inside:
            inside.rtnl.add_route(_info(inside, resource), replace=True)

    def alter(self, tools: Tools, old: Route, new: Route) -> None:
        self.make(tools, new)  # the kernel replaces the one with this destination

    def unmake(self, tools: Tools, resource: Route) -> None:
        try:
            with tools.inside(resource.netns) as inside:
                inside.rtnl.delete_route(_info(inside, resource))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise  # without its interface there is no route either

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Route]) -> Iterable[tuple[str, Route]]:
        for route in wanted:
            interior = sight.inside(route.netns)
            link = interior.links.get(route.ifname) if interior is not None else None
            there = interior is not None and link is not None and any(
                (found.version, found.destination, found.gateway, found.device)
                == (route.version, route.destination, route.hop, link.index)
                for found in interior.routes
            )  # fmt: skip
            if not there:
                yield f"{route.gateway or route.destination} in {route.netns}", route


def _info(inside: Inside, route: Route) -> RouteInfo:
    index = inside.rtnl.index(route.ifname)
    if not index:
        raise NetlinkError(errno.ENODEV, f"find interface {route.ifname}")
    return RouteInfo(destination=route.destination, gateway=route.hop, device=index, version=route.version)


register(Route, RouteKind())
