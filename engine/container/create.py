"""Making a container from a create request: judge all of it, take a name, make what it stands on, write it down.

judge      the request becomes a ``Design``; nothing was made, so an error leaves nothing
make       name -> volumes -> root file system -> record      a failure undoes what was done before it
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...netlib.errors import InvalidArgument, NotFound, PynetError
from ...netlib.ports.portspec import PortBinding
from ...runtime.images.model import Image
from ...runtime.images.store import ImageStore
from ..core import Core
from ..fields import Fields
from ..options import judge
from ..plan_shapes import plan_shape
from ..volumes import Volumes
from . import mounts as mounting
from .attachment import ContainerNetworks
from .config import check_name, complete_config
from .endpoints import check_mode, parse_link, requested_networks
from .hostconfig import HostConfig, complete_host_config, discarded_limits, port_bindings
from .mounts import MountPoint
from .record import Body, Container
from .registry import Registry
from .remove import Remove
from .sources import make_source
from .specs import keeps_output


@dataclass(frozen=True)
class Design:
    """A create request that makes sense."""

    id: str
    name: str
    image: Image
    config: Body
    host: HostConfig
    networks: dict[str, Body]
    mounts: list[MountPoint]
    bindings: list[PortBinding]
    warnings: list[str]


class Create:
    def __init__(
        self,
        core: Core,
        registry: Registry,
        images: ImageStore,
        volumes: Volumes,
        *,
        networks: ContainerNetworks,
        remove: Remove,
    ) -> None:
        self._core = core
        self._registry = registry
        self._images = images
        self._volumes = volumes
        self._networks = networks
        self._remove = remove

    def create(self, name: str, body: Mapping[str, Any]) -> tuple[Container, list[str]]:
        """Make a container; returns it and warnings."""
        design = self._judge(check_name(name) if name else "", body)
        container = self._make(design)
        self._core.events.publish("container", "create", container.id, container.attributes())
        return container, [*design.warnings, *self._discarded(design)]

    def planned(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the network of this container would be made of when it is started, or the error; nothing is made."""
        design = self._judge(check_name(name) if name else "", body)
        # the name is taken for as long as this lasts: a conflict is found, and a container without one is called as it would be
        taken = self._registry.take_name(design.name, design.id)
        try:
            steps = self._networks.planned_start(
                design.id,
                taken,
                design.networks,
                hostname=design.config["Hostname"],
                mode=design.host.config["NetworkMode"],
                bindings=design.bindings,
            )
        finally:
            self._registry.drop_name(taken, design.id)
        return {"Plan": plan_shape(steps), "Warnings": [*design.warnings, *self._discarded(design)]}

    def _judge(self, name: str, body: Mapping[str, Any]) -> Design:
        reference = Fields(body).text("Image")
        if not reference:
            raise InvalidArgument("no image specified")
        warnings = judge(Fields({name: value for name, value in body.items() if name != "HostConfig"}), "Config")
        host = complete_host_config(body.get("HostConfig"))
        image = self._images.get(reference)
        id = secrets.token_hex(32)
        if not Fields(body).object("Healthcheck").body:
            warnings += judge(Fields({"Healthcheck": image.defaults.get("Healthcheck")}, "the image's "), "Config")
        if Fields(body).object("HostConfig").text("NetworkMode") in ("", "default"):
            host.config["NetworkMode"] = self._core.default_network
        if Fields(body).boolean("NetworkDisabled"):
            host.config["NetworkMode"] = "none"
        mode = host.config["NetworkMode"] = self._network_mode(host.config["NetworkMode"])
        config = complete_config(body, image.defaults, os.uname().nodename if mode == "host" else id[:12])
        networking = self._with_default(body.get("NetworkingConfig"))
        links, bindings = host.config["Links"] or [], port_bindings(config, host.config)
        asked = bool(host.config["PortBindings"] or host.config["PublishAllPorts"])
        check_mode(mode, body, host.config, published=asked)
        networks = requested_networks(mode, networking, config.get("MacAddress", ""), links)
        host.config["Links"] = [self._linked(link) for link in links] if mode == "bridge" and links else None
        points = mounting.parse_all(
            host.config["Binds"] or [],
            Fields(host.config).objects("Mounts"),
            Fields(host.config).string_map("Tmpfs"),
            config["Volumes"] or {},
        )
        warnings += host.warnings
        return Design(id, name, image, config, host, networks, points, bindings, warnings)

    def _make(self, design: Design) -> Container:
        name = self._registry.take_name(design.name, design.id)
        points: list[MountPoint] = []
        try:
            for point in design.mounts:
                points.append(make_source(point, self._volumes))
            container = Container(
                id=design.id,
                name=name,
                created=time.time(),
                image_id=design.image.id,
                config=design.config,
                host_config=design.host.config,
                rootfs=dict(self._images.rootfs(design.image, str(self._registry.path(design.id)))),
                mounts=points,
                networks={
                    self._network_name(network): {"settings": settings, "network_id": "", "endpoint_id": ""}
                    for network, settings in design.networks.items()
                },
                bindings=design.bindings,
                confinement=design.host.confinement,
            )
            self._networks.keep(container)
            try:
                self._registry.add(container)
            except BaseException:
                self._networks.forget(container, list(container.networks))
                raise
        except BaseException:
            self._remove.discard(design.id)
            self._registry.drop_name(name, design.id)
            for asked, made in zip(design.mounts, points):
                if made.kind == "volume" and not asked.name:
                    self._volumes.discard(made.name)
            raise
        return container

    def _discarded(self, design: Design) -> list[str]:
        """Warnings for what this host or this container can not keep: limits without a controller, say."""
        warnings = discarded_limits(design.host.config, self._core.limit_controllers)
        if design.host.config["NetworkMode"] == "host" and design.host.config["PortBindings"]:
            warnings.append("Published ports are discarded when using host network mode")
        if any(not binding.ephemeral for binding in design.bindings):
            warnings += self._host_ports_ignored(design)
        if design.host.config["LogConfig"]["Type"] == "none":
            warnings.append(
                "Log driver none: the output is written all the same, since attach reads it; logs does not show it"
                if keeps_output(design.config, design.host.config)
                else "Log driver none: attach shows no output, since it reads what is written"
            )
        return warnings

    def _host_ports_ignored(self, design: Design) -> Iterator[str]:
        for name in design.networks:
            try:
                routed = self._core.controller.network(self._network_name(name)).routed
            except PynetError:
                continue  # a network that is not there is told of at the start
            if routed:
                families = " and ".join(f"IPv{version}" for version in sorted(routed))
                yield (
                    f"Host ports have no meaning for {families} of network {name}: it is routed, and published ports are open "
                    "at the container's own address"
                )

    def _with_default(self, networking: Any) -> Any:
        """``NetworkingConfig`` in which the network "default" has its name, where that is not bridge's."""
        settings = Fields(networking, "NetworkingConfig.").object("EndpointsConfig").body
        default = self._core.default_network
        if default == "bridge" or "default" not in settings:
            return networking
        return {"EndpointsConfig": {default if name == "default" else name: one for name, one in settings.items()}}

    def _linked(self, link: str) -> str:
        """A link of the default bridge, by the id of the container, which may get another name."""
        name, alias = parse_link(link)
        try:
            return f"{self._registry.get(name).id}:{alias}"
        except NotFound as error:
            # not a 404: clients would take that for an image that is missing (moby, registerLinks)
            raise InvalidArgument(
                f"could not get container for {name}: {error}", hint="`pynet ps -a` lists the containers"
            ) from None

    def _network_mode(self, mode: str) -> str:
        if mode.startswith("container:"):
            try:
                return f"container:{self._registry.get(mode.partition(':')[2]).id}"
            except NotFound:
                pass  # told at the start, as for a network that is not there
        return mode

    def _network_name(self, ref: str) -> str:
        """The name of a network that exists; a reference to none stays as it is until the start (Docker's way)."""
        try:
            return self._core.controller.network(ref).name
        except NotFound:
            return ref
