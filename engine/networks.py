"""The networks of the Engine API: the controller's, with Docker's rules about names, filters and who is attached."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from typing import Any

from ..netlib import shaping
from ..netlib.driver import driver_names
from ..netlib.errors import Conflict, Forbidden, InvalidArgument, NotFound, PynetError
from ..netlib.handles import Endpoint, Network
from ..netlib.model import EndpointRecord, NetworkRecord
from ..netlib.statistics import Meter
from .container.attachment import ContainerNetworks
from .container.endpoints import PREDEFINED, endpoint_settings
from .container.etc_files import HostFiles
from .container.record import Container
from .container.registry import Registry
from .core import Core
from .fields import Fields
from .filters import Filters
from .network_shapes import containers_shape, create_arguments, network_shape, statistics_shape, status_shape
from .options import judge
from .patterns import matcher
from .plan_shapes import plan_shape
from .versions import Version

log = logging.getLogger(__name__)

LIST_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
PRUNE_FILTERS = frozenset({"until", "label", "label!"})
UNSEEN = frozenset({"default"}) | PREDEFINED
"""Names that nobody may give to a network."""


def _create_request(
    body: Mapping[str, Any], version: Version, defaults: Mapping[str, Mapping[str, str]]
) -> tuple[list[str], str, dict[str, Any]]:
    """Warnings, name and arguments of a create request."""
    warnings = judge(Fields(body), "Network")
    name, arguments = create_arguments(body, version, defaults)
    if name in UNSEEN:
        raise Forbidden(
            f"operation is not permitted on predefined {name} network",
            hint="bridge, host and none are always there; choose another name",
        )
    return warnings, name, arguments


class Networks:
    def __init__(self, core: Core, registry: Registry, attachments: ContainerNetworks, hosts: HostFiles) -> None:
        self._core = core
        self._controller = core.controller
        self._registry = registry
        self._attachments = attachments
        self._hosts = hosts
        self._pruning = threading.Lock()

    def drivers(self) -> list[str]:
        return driver_names()

    def firewall(self) -> str:
        """Name of the firewall back end; "" before the first network needed one."""
        tools = self._controller.tools
        return tools.firewall.name if tools.has_firewall else ""

    # -- looking ---------------------------------------------------------------------------------------------

    def list(self, filters: Filters) -> list[dict[str, Any]]:
        filters.allow(LIST_FILTERS)
        dangling = filters.flag("dangling")
        for kind in filters.values("type"):
            if kind not in ("custom", "builtin"):
                raise InvalidArgument(f"invalid filter: 'type'='{kind}'", hint="builtin or custom")
        is_named = matcher(filters.values("name"))
        shown: list[dict[str, Any]] = []
        for network in self._controller.networks():
            try:
                record = network.record
            except NotFound:
                continue  # deleted since it was listed
            builtin = record.name in PREDEFINED
            if dangling is not None and (builtin or dangling == self._is_used(network)):
                continue
            if (
                filters.exact("driver", record.driver)
                and filters.exact("scope", record.scope)
                and filters.exact("type", "builtin" if builtin else "custom")
                and filters.matches("id", record.id.startswith)
                and is_named(record.name)
                and filters.labels(record.labels)
            ):
                shown.append(network_shape(record))
        return shown

    def inspect(self, ref: str) -> dict[str, Any]:
        network = self._controller.network(ref)
        shape = network_shape(network.record)
        shape["Containers"] = containers_shape(self._endpoints(network))
        if usage := network.usage():
            shape["Status"] = status_shape(usage)
        return shape

    def statistics(self, ref: str = "") -> Sequence[dict[str, Any]]:
        """pynet's own: what the endpoints of one network, or of all, have counted, as their containers see it."""
        meter = Meter(self._controller.tools)
        networks = [self._controller.network(ref)] if ref else self._controller.networks()
        found: list[dict[str, Any]] = []
        for network in networks:
            try:
                name = network.name
                for endpoint in network.endpoints():
                    record = endpoint.record
                    if record.sandbox and record.ifname:
                        found.append(statistics_shape(name, record, endpoint.statistics(meter), endpoint.limits))
            except NotFound:
                continue  # it went while we looked
        return sorted(found, key=lambda one: (one["Network"], one["Container"]))

    # -- changing --------------------------------------------------------------------------------------------

    def create(self, body: Mapping[str, Any], version: Version) -> dict[str, str]:
        warnings, name, arguments = _create_request(body, version, self._core.network_opts)
        network = self._controller.create_network(name, **arguments)
        if any(config.subnet for config in arguments["ipam"]):
            warnings += self._controller.routes_in_the_way(network)
        self._core.publish_network("create", network.name, network.id)
        return {"Id": network.id, "Warning": "; ".join(warnings)}

    def planned_create(self, body: Mapping[str, Any], version: Version) -> dict[str, Any]:
        """What ``create`` would do, or its error."""
        warnings, name, arguments = _create_request(body, version, self._core.network_opts)
        steps = self._controller.planned(self._controller.create_network, name, **arguments)
        return {"Plan": plan_shape(steps), "Warning": "; ".join(warnings)}

    def remove(self, ref: str) -> None:
        network = self._controller.network(ref)
        record = network.record
        name = record.name
        if name in PREDEFINED:
            raise Forbidden(
                f"{name} is a pre-defined network and cannot be removed", hint="bridge, host and none are always there"
            )
        self._attachments.release_kept(network, self._registry.all())
        network.delete()
        self._core.publish_network("destroy", name, record.id, driver=record.driver)

    def planned_connect(self, ref: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What ``connect`` would do, or its error; nothing while the container does not run."""
        container, network, settings = self._connecting(ref, body)
        with container.lock:
            self._check_stays(container)
            return {"Plan": plan_shape(self._attachments.planned_connect(container, network, settings))}

    def _connecting(self, ref: str, body: Mapping[str, Any]) -> tuple[Container, Network, dict[str, Any]]:
        judge(Fields(body), "Connect", warn=False)
        container = self._registry.get(self._container_ref(body))
        return container, self._controller.network(ref), endpoint_settings(body.get("EndpointConfig"))

    @staticmethod
    def _check_stays(container: Container) -> None:
        if container.state.status == "removing":
            raise Conflict(f"container {container.id} is marked for removal and cannot be connected to a network")

    def connect(self, ref: str, body: Mapping[str, Any]) -> None:
        container, network, settings = self._connecting(ref, body)
        with container.lock:
            self._check_stays(container)
            self._attachments.connect(container, network, settings)
            try:
                self._registry.save(container)
            except BaseException:
                self._attachments.forget(container, [network.name])
                raise
            running = container.running
        if running:
            try:
                self._hosts.follow(container)
            finally:  # a file that can not be written keeps no one from hearing of it
                self._core.publish_network("connect", network.name, network.id, container=container.id)

    def planned_disconnect(self, ref: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What ``disconnect`` would do, or its error; nothing while the container does not run."""
        judge(Fields(body), "Disconnect", warn=False)
        try:
            container = self._registry.get(self._container_ref(body))
        except NotFound:
            if not Fields(body).boolean("Force"):
                raise
            endpoint = self._stray(self._controller.network(ref), self._container_ref(body))
            return {"Plan": plan_shape(self._controller.planned(endpoint.delete))}
        name, _ = self._name_for(ref, container)
        with container.lock:
            return {"Plan": plan_shape(self._attachments.planned_disconnect(container, name))}

    def disconnect(self, ref: str, body: Mapping[str, Any]) -> None:
        judge(Fields(body), "Disconnect", warn=False)
        try:
            container = self._registry.get(self._container_ref(body))
        except NotFound:
            if not Fields(body).boolean("Force"):
                raise
            self._force_off(ref, self._container_ref(body))
            return
        name, id = self._name_for(ref, container)
        with container.lock:
            if container.state.status == "removing":
                raise Conflict(
                    f"container {container.id} is marked for removal and cannot be disconnected from a network"
                )
            running, connected = container.running, name in container.networks
            if name == "bridge":
                self._hosts.links.end(container)
            try:
                self._attachments.disconnect(container, name)
            except BaseException:
                self._hosts.links.follow(container)
                raise
            finally:
                # what stayed of it in the kernel is told, and left to repair
                if connected and name not in container.networks:
                    self._registry.save(container)
                    if running:
                        self._core.publish_network("disconnect", name, id, container=container.id)
        if running:
            self._hosts.follow(container)

    def limit(self, ref: str, body: Mapping[str, Any], *, dry: bool = False) -> dict[str, Any]:
        """pynet's own: change the rates of a container's connection; with *dry* only say how, or the error."""
        judge(Fields(body), "Limit", warn=False)
        container = self._registry.get(self._container_ref(body))
        name, _ = self._name_for(ref, container)
        options = Fields(body).string_map("DriverOpts")
        shaping.parse({option: text for option, text in options.items() if text})
        with container.lock:
            if dry:
                return {"Plan": plan_shape(self._attachments.planned_limit(container, name, options))}
            self._attachments.limit(container, name, options)
            self._registry.save(container)
        return {}

    def _force_off(self, ref: str, name: str) -> None:
        """Remove an endpoint whose container nobody knows: of a program that used the library on this root, say."""
        network = self._controller.network(ref)
        endpoint = self._stray(network, name)
        sandbox = endpoint.record.sandbox
        endpoint.delete()
        self._core.publish_network("disconnect", network.name, network.id, container=sandbox or name)

    def _stray(self, network: Network, name: str) -> Endpoint:
        found = self._controller.registry.endpoint_named(network.id, name)
        if found is None:
            raise NotFound(f"endpoint {name} not found in network {network.name}")
        return self._controller.endpoint(found.id)

    def _name_for(self, ref: str, container: Container) -> tuple[str, str]:
        """Name and id; also of a network that is gone and stands on the container's record still, which could else not start."""
        try:
            network = self._controller.network(ref)
            return network.name, network.id
        except NotFound:
            for name, entry in list(container.networks.items()):
                if ref in (name, entry["network_id"]) and ref:
                    return name, entry["network_id"]
            raise

    @staticmethod
    def _container_ref(body: Mapping[str, Any]) -> str:
        ref = Fields(body).text("Container")
        if not ref:
            raise InvalidArgument("no container specified: Container must name one")
        return ref

    def prune(self, filters: Filters, until: Callable[[str], float]) -> dict[str, Any]:
        filters.allow(PRUNE_FILTERS)
        if not self._pruning.acquire(blocking=False):
            raise Conflict("a prune operation is already running")
        try:
            before = min((until(text) for text in filters.values("until")), default=float("inf"))
            used = {name for container in self._registry.all() for name in container.networks}
            removed: list[str] = []
            problems: list[str] = []
            for network in self._controller.networks():
                try:
                    record = network.record
                    if (
                        record.name in PREDEFINED
                        or record.config_only
                        or record.name in used
                        or record.created > before
                    ):
                        continue
                    if (
                        filters.labels(record.labels)
                        and filters.not_labels(record.labels)
                        and not self._is_used(network)
                    ):
                        self._prune(record, removed, problems)
                except (NotFound, Forbidden):
                    continue  # somebody joined or deleted it meanwhile
            self._core.events.publish("network", "prune", "", {"reclaimed": "0"})
            return {"NetworksDeleted": removed or None, **({"Warnings": problems} if problems else {})}
        finally:
            self._pruning.release()

    def _prune(self, record: NetworkRecord, removed: MutableSequence[str], problems: MutableSequence[str]) -> None:
        try:
            self.remove(record.id)
        except (NotFound, Forbidden):
            raise
        except (PynetError, OSError) as error:  # the others go all the same
            problems.append(f"network {record.name}: {error}")
            log.error("prune: %s", problems[-1])
            if record.id in self._controller.registry.networks:
                return
        removed.append(record.name)

    def _endpoints(self, network: Network) -> Sequence[EndpointRecord]:
        """In one look: between two of them one may go."""
        return self._controller.registry.endpoints_of_network(network.id)

    def _is_used(self, network: Network) -> bool:
        """Whether a container that runs is on it."""
        return any(endpoint.sandbox for endpoint in self._endpoints(network))
