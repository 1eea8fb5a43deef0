"""Links over a default bridge whose containers are apart (``--icc=false``): the exposed ports of a container that was linked to
are open to the one that has the link (moby, libnetwork/drivers/bridge: link.go).

    box --link db        box's endpoint    way to db's addresses, db's exposed ports open to box's
                         db's endpoint     way back to box's addresses

Followed when either of the two starts, ends, or comes and goes on the network.  What a container that ends was linked with is
closed before its addresses are anybody else's.  Of names, and where containers are not apart of everything, etc_files.py takes
care; environment variables of the other container are not set (Docker left them off in 29).
"""

from __future__ import annotations

import threading

from ...drivers.bridge import parse_options
from ...netlib.errors import NotFound
from ...netlib.model import Link
from ..core import Core
from .attachment import ContainerNetworks
from .record import Container
from .registry import Registry

NETWORK = "bridge"


def links_of(container: Container) -> list[tuple[str, str]]:
    """Links over the default bridge: (id of a container, alias)."""
    return [(id, alias) for id, _, alias in (link.partition(":") for link in container.host_config["Links"] or ())]


class Links:
    def __init__(self, core: Core, registry: Registry, networks: ContainerNetworks) -> None:
        self._controller = core.controller
        self._registry = registry
        self._networks = networks
        self._lock = threading.Lock()
        """Who looks which containers are there also tells their endpoints, before another one does."""

    def parents(self, container: Container) -> list[Container]:
        """Those that have a link to a container."""
        return [
            other
            for other in self._registry.all()
            if other is not container and any(id == container.id for id, _ in links_of(other))
        ]

    def follow(self, container: Container) -> None:
        """Have the container's endpoint, and those of the ones that it is linked with, say what is so now."""
        if self._are_apart():
            with self._lock:
                container.unlinked = False
                for one in (container, *self._peers(container)):
                    self._tell(one)

    def end(self, container: Container) -> None:
        """Close what is open to the container, and to others at its addresses, while they are its own."""
        if self._are_apart():
            with self._lock:
                container.unlinked = True
                for other in self._peers(container):
                    self._tell(other)

    def _are_apart(self) -> bool:
        try:
            return not parse_options(self._controller.network(NETWORK).record.options).icc
        except NotFound:
            return False

    def _peers(self, container: Container) -> list[Container]:
        children = [self._registry.find_id(id) for id, _ in links_of(container)]
        return [*(child for child in children if child is not None), *self.parents(container)]

    def _tell(self, container: Container) -> None:
        endpoint = self._networks.endpoint(container.networks.get(NETWORK) or {})
        if endpoint is None:
            return
        wanted: list[Link] = []
        for id, _ in links_of(container):
            child = self._registry.find_id(id)
            if child is not None:
                bound = (f"{binding.container_port}/{binding.proto}" for binding in child.bindings)
                wanted += self._to(child, tuple(dict.fromkeys([*child.config.get("ExposedPorts", {}), *bound])))
        for parent in self.parents(container):
            wanted += self._to(parent, ())
        try:
            endpoint.link(list(dict.fromkeys(wanted)))
        except NotFound:
            pass  # it leaves just now

    def _to(self, other: Container, ports: tuple[str, ...]) -> list[Link]:
        entry = other.networks.get(NETWORK) or {}
        endpoint = self._controller.registry.endpoints.get(entry.get("endpoint_id", ""))
        if endpoint is None or not endpoint.sandbox or other.unlinked:
            return []
        return [Link(endpoint.ip, endpoint.ip6, ports)]
