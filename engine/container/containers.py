"""The containers: which there are, making them, finding them, showing them, removing them.  Starting is lifecycle.py's.

A container is there from the moment its record is in the store until its record is deleted there, which is the last step of
its removal: whatever a kill interrupts, the next start sees the record and finishes (recovery.py).

    name taken in memory -> root file system -> record in the store        create
    record "removing" -> process, network, directories -> record gone      remove
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...netlib.errors import Conflict, InvalidArgument, MultipleErrors, NotFound, PynetError
from ...netlib.kernel.tree import discard_tree, tree_size
from ..api.shapes import Attachment, Look, inspect_shape, summary_shape
from ..fields import Fields
from ..filters import Filters
from ..reserve import is_full
from . import mounts as mounting
from .attachment import requested_networks
from .config import check_name, complete_config
from .hostconfig import complete_host_config, discarded_limits
from .listing import LIST_FILTERS, Listing
from .mounts import MountPoint
from .names import random_name
from .record import Container

if TYPE_CHECKING:
    from ...netlib.endpoint import Endpoint
    from ...netlib.ports.portspec import PortBinding
    from ..service import Engine

log = logging.getLogger(__name__)
KIND = "container"
PRUNE_FILTERS = frozenset({"until", "label", "label!"})


def port_bindings(container_config: Mapping[str, Any], host_config: Mapping[str, Any]) -> list[PortBinding]:
    """What to publish: PortBindings, and with PublishAllPorts an ephemeral port for each other exposed one."""
    from ...netlib.ports.portspec import parse_port_bindings

    wanted: dict[str, object] = dict(host_config["PortBindings"])
    if host_config["PublishAllPorts"]:
        for key in container_config.get("ExposedPorts", {}):
            wanted.setdefault(key, [{"HostIp": "", "HostPort": ""}])
    return parse_port_bindings(wanted)


class Containers:
    """All containers of this engine.  Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, str] = {}
        """Name to id; a name is here from before its container is made until after it is gone."""
        for body in engine.store.list(KIND):
            container = Container.from_body(body)
            self._by_id[container.id] = container
            self._by_name[container.name] = container.id

    # -- finding ---------------------------------------------------------------------------------------------

    def get(self, ref: str) -> Container:
        """By exact id, exact name, or a prefix of the id."""
        with self._lock:
            found = self._by_id.get(ref) or self._by_id.get(self._by_name.get(ref.removeprefix("/"), ""))
            if found is not None:
                return found
            matches = [id for id in self._by_id if id.startswith(ref)] if ref else []
            if len(matches) == 1:
                return self._by_id[matches[0]]
        if matches:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        raise NotFound(f"No such container: {ref}", hint="`pynet ps -a` lists all containers")

    def all(self) -> list[Container]:
        with self._lock:
            return list(self._by_id.values())

    def find_id(self, id: str) -> Container | None:
        with self._lock:
            return self._by_id.get(id)

    def count_by_status(self) -> Counter[str]:
        return Counter(container.state.status for container in self.all())

    def save(self, container: Container) -> None:
        self._engine.store.put(KIND, container.id, container.to_body(), container.name)

    def save_end(self, container: Container) -> None:
        """``save`` for what has happened and must be on record even when the disk is full: starts, ends, removals."""
        self._engine.reserve.spend(self.save, container)

    def directory(self, container: Container) -> Path:
        return self._engine.instance.root / "containers" / container.id

    def log_path(self, container: Container) -> Path:
        return self.directory(container) / "log.json"

    # -- making ----------------------------------------------------------------------------------------------

    def create(self, name: str, body: Mapping[str, Any]) -> tuple[Container, list[str]]:
        """Make a container from a create request; returns it and warnings."""
        engine = self._engine
        fields = Fields(body)
        if name:
            name = check_name(name)
        if not fields.text("Image"):
            raise InvalidArgument("no image specified")
        host_config, warnings = complete_host_config(body.get("HostConfig"))
        warnings += discarded_limits(host_config, engine.limit_controllers)
        image = engine.images.store.get(fields.text("Image"))
        id = secrets.token_hex(32)
        mode = self._network_mode(host_config["NetworkMode"])
        hostname = os.uname().nodename if mode == "host" else id[:12]
        config = complete_config(body, image.defaults, hostname)
        host_config["NetworkMode"] = mode
        port_bindings(config, host_config)
        if mode == "host" and host_config["PortBindings"]:
            warnings.append("Published ports are discarded when using host network mode")
        networks = requested_networks(mode, body.get("NetworkingConfig"), config.get("MacAddress", ""))
        points = mounting.parse_all(
            host_config["Binds"] or [],
            Fields(host_config).objects("Mounts"),
            Fields(host_config).string_map("Tmpfs"),
            config["Volumes"] or {},
        )
        name = self._take_name(name, id)
        directory = engine.instance.root / "containers" / id
        made: list[str] = []
        try:
            points = [self._make_source(point, made) for point in points]
            rootfs = engine.images.store.rootfs(image, str(directory))
            container = Container(
                id=id,
                name=name,
                created=time.time(),
                image_id=image.id,
                config=config,
                host_config=host_config,
                rootfs=dict(rootfs),
                mounts=points,
                networks={
                    self._network_name(network): {"settings": settings, "network_id": "", "endpoint_id": ""}
                    for network, settings in networks.items()
                },
            )
            self.save(container)
        except BaseException:
            discard_tree(directory, log.warning)
            with self._lock:
                del self._by_name[name]
            for volume in made:
                engine.volumes.discard(volume)
            raise
        with self._lock:
            self._by_id[id] = container
        engine.events.publish("container", "create", id, container.attributes())
        return container, warnings

    def _take_name(self, name: str, id: str) -> str:
        with self._lock:
            name = name or random_name(self._by_name.__contains__)
            holder = self._by_name.setdefault(name, id)
        if holder != id:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
                "You have to remove (or rename) that container to be able to reuse that name.",
                hint=f"remove it with: pynet rm -f {name}",
            )
        return name

    def ensure_sources(self, container: Container) -> None:
        """Before a start: sources that were removed since the create are made again, or told."""
        for point in container.mounts:
            if point.kind != "tmpfs":
                self._make_source(point, [])

    def _make_source(self, point: MountPoint, made: list[str]) -> MountPoint:
        """See that what is mounted exists; names anonymous volumes."""
        if point.kind == "volume":
            body = self._engine.volumes.create(point.name)
            if not point.name:
                made.append(body["name"])
            return replace(point, name=body["name"])
        if point.kind == "bind" and not os.path.lexists(point.source):
            if not point.create:
                raise InvalidArgument(
                    f'invalid mount config for type "bind": bind source path does not exist: {point.source}',
                    hint="make it first, or use -v, which makes a directory",
                )
            try:
                os.makedirs(point.source, exist_ok=True)
            except OSError as error:
                raise InvalidArgument(f"error while creating mount source path '{point.source}': {error}") from error
        return point

    def _network_mode(self, mode: str) -> str:
        if mode.startswith("container:"):
            try:
                return f"container:{self.get(mode.partition(':')[2]).id}"
            except NotFound:
                pass  # told at the start, as for a network that is not there
        return mode

    def _network_name(self, ref: str) -> str:
        """The name of a network that exists; a reference to none stays as it is until the start (Docker's way)."""
        try:
            return self._engine.controller.network(ref).name
        except NotFound:
            return ref

    # -- showing ---------------------------------------------------------------------------------------------

    def look(self, container: Container) -> Look:
        """The live part of a container; without its lock, which a start may hold for long."""
        registry = self._engine.controller.registry
        sandbox = registry.sandboxes.get(container.id)
        ports: list[tuple[str, str, int, int]] = []
        networks: dict[str, Attachment] = {}
        for name, entry in list(container.networks.items()):
            networks[name] = Attachment(entry["settings"], entry["network_id"])
            try:
                endpoint = self._engine.container_networks.endpoint(entry)
                if endpoint is not None:
                    networks[name] = self._attachment(container, name, entry, endpoint)
                    ports += [(p.proto, p.host_ip, p.host_port, p.container_port) for p in endpoint.ports]
            except NotFound:
                pass  # it left the network while we looked
        if sandbox is None:
            return Look(networks=networks)
        return Look(sandbox_id=sandbox.id, sandbox_key=sandbox.path, networks=networks, ports=ports)

    def _attachment(self, container: Container, name: str, entry: Mapping[str, Any], endpoint: Endpoint) -> Attachment:
        return Attachment(
            settings=entry["settings"],
            network_id=entry["network_id"],
            endpoint_id=endpoint.id,
            address=endpoint.address,
            address6=endpoint.address6,
            gateway=endpoint.gateway,
            gateway6=endpoint.gateway6,
            mac=endpoint.mac,
            dns_names=self._engine.hosts.names_on(container, name),
        )

    def inspect(self, ref: str, *, size: bool = False) -> dict[str, Any]:
        container = self.get(ref)
        shape = inspect_shape(
            container,
            self.look(container),
            directory=str(self.directory(container)),
            mounts=mounting.inspect_mounts(container.mounts, self._engine.volumes.path),
            execs=self._engine.execs.ids_of(container.id),
        )
        if size:
            shape["SizeRw"], shape["SizeRootFs"] = self.sizes(container)
        return shape

    def sizes(self, container: Container) -> tuple[int, int]:
        """Bytes written by the container, and with its image."""
        written = tree_size(container.rootfs["upper"])
        try:
            return written, written + self._engine.images.store.get(container.image_id).size
        except NotFound:
            return written, written

    def summaries(
        self, *, all: bool = False, limit: int = 0, size: bool = False, filters: Filters | None = None
    ) -> list[dict[str, Any]]:
        """``GET /containers/json``: newest first."""
        filters = (filters or Filters()).allow(LIST_FILTERS)
        listing = Listing(self._engine, filters, everything=all or limit > 0 or bool(filters.values("status")))
        now, result = time.time(), list[dict[str, Any]]()
        for container in sorted(self.all(), key=lambda c: c.created, reverse=True):
            if not listing.wants(container):
                continue
            shown = mounting.inspect_mounts(container.mounts, self._engine.volumes.path)
            entry = summary_shape(container, self.look(container), mounts=shown, now=now)
            if size:
                entry["SizeRw"], entry["SizeRootFs"] = self.sizes(container)
            result.append(entry)
            if 0 < limit <= len(result):
                break
        return result

    # -- changing --------------------------------------------------------------------------------------------

    def rename(self, ref: str, new: str) -> None:
        container = self.get(ref)
        if not new:
            raise InvalidArgument("Neither old nor new names may be empty")
        new = check_name(new)
        with container.lock:
            old = container.name
            if new == old:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            try:
                self._take_name(new, container.id)
            except Conflict as error:
                raise Conflict(f"Error when allocating new name: {error}", hint=error.hint) from None
            container.name = new
            try:
                self.save(container)
            except BaseException:
                container.name = old
                new, old = old, new
                raise
            finally:
                with self._lock:
                    del self._by_name[old]
        self._engine.hosts.follow(container)
        self._engine.events.publish("container", "rename", container.id, container.attributes(oldName=f"/{old}"))

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container; a running one only with *force*, which kills it."""
        container = self.get(ref)
        if container.running:
            if not force:
                what = "paused" if container.state.status == "paused" else container.state.status
                advice = "Stop the container before attempting removal or force remove"
                raise Conflict(
                    f'cannot remove container "{container.name}": container is {what}: '
                    f"{'Unpause and then stop' if what == 'paused' else 'stop'} the container before removing or force remove"
                    if what in ("running", "paused", "restarting")
                    else advice,
                    hint="`pynet stop` it first, or use `pynet rm -f`",
                )
            self._engine.lifecycle.kill_and_wait(container)
        with container.lock:
            if container.running:
                raise Conflict(
                    f'cannot remove container "{container.name}": container was started again',
                    hint="`pynet stop` it first, or use `pynet rm -f`",
                )
            if container.removal:
                raise Conflict(f"removal of container {ref} is already in progress")
            container.removal = True
            container.state.status = "removing"
        try:
            self.save_end(container)
            self.finish_removal(container, volumes=volumes)
        finally:
            container.removal = False  # one that failed can be tried again

    def finish_removal(self, container: Container, *, volumes: bool = False) -> None:
        """From "removing" to gone; may be done again after a crash."""
        engine = self._engine
        errors: list[PynetError | OSError] = []
        steps: tuple[Callable[[Container], None], ...] = (engine.lifecycle.forget, engine.container_networks.detach)
        for step in steps:
            try:
                engine.reserve.spend(step, container)
            except (PynetError, OSError) as error:
                if isinstance(error, MultipleErrors) and is_full(error):
                    raise  # not all could be written down: to be done again
                errors.append(error)
        self._discard(container)
        if volumes:
            for point in container.mounts:
                if point.anonymous and not self.volume_users(point.name, but=container.id):
                    engine.volumes.discard(point.name, but=container.id)
        with container.lock:
            engine.reserve.spend(engine.store.delete, KIND, container.id)
            with self._lock:
                self._by_id.pop(container.id, None)
                if self._by_name.get(container.name) == container.id:
                    del self._by_name[container.name]
            container.announce("exit")
            container.announce("removed")
        engine.execs.drop(container.id)
        engine.events.publish("container", "destroy", container.id, container.attributes())
        if errors:
            raise errors[0]

    def _discard(self, container: Container) -> None:
        """Take the directory away at once and delete it when nobody waits: overlayfs makes that slow."""
        trash = self._engine.instance.root / "trash"
        target = trash / f"{container.id}.{secrets.token_hex(4)}"
        try:
            trash.mkdir(exist_ok=True, mode=0o700)
            self.directory(container).rename(target)
        except FileNotFoundError:
            return  # a removal that was interrupted got this far
        except OSError as error:
            if not is_full(error):
                raise
            discard_tree(self.directory(container), log.warning)
            return
        self._engine.submit(self._delete, target)

    def _delete(self, target: Path) -> None:
        discard_tree(target, log.warning)
        self._engine.reserve.make()

    def empty_trash(self) -> None:
        """What a kill left of removals."""
        discard_tree(self._engine.instance.root / "trash", log.warning)

    def prune(self, filters: Filters, until: Callable[[str], float]) -> dict[str, Any]:
        """Remove every container that does not run."""
        filters.allow(PRUNE_FILTERS)
        before = min((until(text) for text in filters.values("until")), default=float("inf"))
        removed: list[str] = []
        space = 0
        for container in self.all():
            if container.running or container.created > before:
                continue
            if filters.labels(container.labels) and filters.not_labels(container.labels):
                written, _ = self.sizes(container)
                try:
                    self.remove(container.id)
                except (NotFound, Conflict):
                    continue  # somebody else removed or started it meanwhile
                removed.append(container.id)
                space += written
        return {"ContainersDeleted": removed or None, "SpaceReclaimed": space}

    # -- who uses what ---------------------------------------------------------------------------------------

    def volume_users(self, name: str, but: str = "") -> list[str]:
        return [
            container.id
            for container in self.all()
            if container.id != but and any(p.kind == "volume" and p.name == name for p in container.mounts)
        ]

    def image_users(self) -> list[tuple[str, str, bool]]:
        """(container id, image id, running)."""
        return [(container.id, container.image_id, container.running) for container in self.all()]
