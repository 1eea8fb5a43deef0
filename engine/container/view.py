"""Containers as they are now, for inspect and list: the record, the live part, the shapes.

No container's lock is taken: a start may hold one for long, and a list shows all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ...netlib.errors import NotFound
from ...netlib.handles import Endpoint
from ...netlib.kernel.tree import tree_size
from ...runtime.images.store import ImageStore
from ..core import Core
from ..filters import Filters
from ..volumes import Volumes
from .attachment import ContainerNetworks
from .execs import Execs
from .listing import LIST_FILTERS, Listing
from .mounts import inspect_mounts
from .ports import Ports
from .record import Container
from .registry import Registry
from .shapes import Look, NetworkLook, inspect_shape, summary_shape


class View:
    def __init__(
        self,
        core: Core,
        registry: Registry,
        *,
        networks: ContainerNetworks,
        ports: Ports,
        execs: Execs,
        volumes: Volumes,
        images: ImageStore,
    ) -> None:
        self._controller = core.controller
        self._registry = registry
        self._networks = networks
        self._ports = ports
        self._execs = execs
        self._volumes = volumes
        self._images = images

    def look(self, container: Container) -> Look:
        """The live part of a container."""
        sandbox = self._controller.registry.sandboxes.get(container.id)
        networks: dict[str, NetworkLook] = {}
        for name, entry in list(container.networks.items()):
            networks[name] = NetworkLook(entry["settings"], entry["network_id"])
            try:
                endpoint = self._networks.endpoint(entry)
                if endpoint is not None:
                    networks[name] = self._network(container, name, entry, endpoint)
            except NotFound:
                pass  # it left the network while we looked
        links = self._links(container)
        if sandbox is None:
            return Look(networks=networks, links=links)
        ports = [(p.proto, p.host_ip, p.host_port, p.container_port) for p in sandbox.ports]
        return Look(sandbox_id=sandbox.id, sandbox_key=sandbox.path, networks=networks, ports=ports, links=links)

    def _network(self, container: Container, name: str, entry: Mapping[str, Any], endpoint: Endpoint) -> NetworkLook:
        return NetworkLook(
            settings=entry["settings"],
            network_id=entry["network_id"],
            endpoint_id=endpoint.id,
            address=endpoint.address,
            address6=endpoint.address6,
            gateway=endpoint.gateway,
            gateway6=endpoint.gateway6,
            mac=endpoint.mac,
            dns_names=self._networks.names_on(container, name),
        )

    def _links(self, container: Container) -> list[str]:
        shown: list[str] = []
        for link in container.host_config["Links"] or ():
            id, _, alias = link.partition(":")
            other = self._registry.find_id(id)
            if other is not None:
                shown.append(f"/{other.name}:/{container.name}/{alias}")
        return shown

    def inspect(self, ref: str, *, size: bool = False) -> dict[str, Any]:
        container = self._registry.get(ref)
        shape = inspect_shape(
            container,
            self.look(container),
            directory=str(self._registry.directory(container)),
            mounts=inspect_mounts(container.mounts, self._volumes.path),
            execs=self._execs.ids_of(container.id),
        )
        shape["NetworkSettings"]["PortPaths"] = self._ports.show(container.id)
        return {**shape, **self._sizes(container)} if size else shape

    def summaries(
        self, *, all: bool = False, limit: int = 0, size: bool = False, filters: Filters | None = None
    ) -> list[dict[str, Any]]:
        """``GET /containers/json``: newest first."""
        filters = (filters or Filters()).allow(LIST_FILTERS)
        listing = Listing(
            filters,
            everything=all or limit > 0 or bool(filters.values("status")),
            registry=self._registry,
            images=self._images,
            published=self._published,
        )
        now, result = time.time(), list[dict[str, Any]]()
        for container in sorted(self._registry.all(), key=lambda c: c.created, reverse=True):
            if not listing.wants(container):
                continue
            mounts = inspect_mounts(container.mounts, self._volumes.path)
            entry = summary_shape(container, self.look(container), mounts=mounts, now=now)
            result.append({**entry, **self._sizes(container)} if size else entry)
            if 0 < limit <= len(result):
                break
        return result

    def _published(self, container: Container) -> set[str]:
        return {f"{port}/{proto}" for proto, _, port, _ in self.look(container).ports}

    def _sizes(self, container: Container) -> dict[str, int]:
        """Bytes written by the container, and with its image."""
        written = tree_size(container.rootfs["upper"])
        try:
            image = self._images.get(container.image_id).size
        except NotFound:
            image = 0
        return {"SizeRw": written, "SizeRootFs": written + image}
