"""The files that the engine puts into containers, kept right while networks come and go.

Rendering is etc_render.py's.  One lock orders the rewrites, so two containers that join at once both end up in both files.
"""

from __future__ import annotations

import threading
from pathlib import Path

from ...netlib.errors import NotFound
from ..core import Core
from . import etc_render
from .attachment import PREDEFINED, ContainerNetworks
from .record import Container
from .registry import Registry


class HostFiles:
    def __init__(self, core: Core, registry: Registry, networks: ContainerNetworks) -> None:
        self._controller = core.controller
        self._registry = registry
        self._networks = networks
        self._lock = threading.Lock()

    def names_on(self, container: Container, network: str) -> list[str]:
        """The names that others on a user's network know a container by; none on the predefined ones."""
        if network in PREDEFINED:
            return []
        names = [container.name, *(container.networks[network]["settings"].get("Aliases") or ()), container.id[:12]]
        if container.config["Hostname"] != container.id[:12]:
            names.append(container.config["Hostname"])
        return list(dict.fromkeys(names))

    def prepare(self, container: Container) -> dict[str, str]:
        """Write all three files for a start; target in the container -> host path.

        A container that shares another's network has that one's files.
        """
        owner, host = self._owner(container), container.host_config
        directory = self._registry.directory(owner)
        if owner is container:
            directory.mkdir(parents=True, exist_ok=True, mode=0o710)
            etc_render.write_in_place(directory / "hostname", container.config["Hostname"] + "\n")
            etc_render.write_in_place(
                directory / "resolv.conf",
                etc_render.render_resolv(
                    etc_render.host_resolv(),
                    servers=host["Dns"],
                    search=host["DnsSearch"],
                    options=host["DnsOptions"],
                    filtered=container.network_mode != "host",
                ),
            )
            self.follow(container, starting=True)
        return {f"/etc/{name}": str(directory / name) for name in ("hosts", "hostname", "resolv.conf")}

    def follow(self, container: Container, *, starting: bool = False) -> None:
        """Rewrite the hosts files of a container and of everybody on its user-made networks."""
        ids = {entry["network_id"] for name, entry in container.networks.items() if name not in PREDEFINED}
        self.follow_networks(ids - {""}, also=container if starting or container.running else None)

    def follow_networks(self, network_ids: set[str], also: Container | None = None) -> None:
        with self._lock:
            if also is not None:
                self._write(also)
            registry = self._controller.registry
            others = {
                endpoint.sandbox
                for network_id in network_ids
                if network_id in registry.networks
                for endpoint in registry.endpoints_of_network(network_id)
            }
            for id in others:
                other = self._registry.find_id(id)
                if other is not None and other is not also:
                    try:
                        self._write(other)
                    except NotFound:
                        pass  # it ends, or leaves the network, just now: nobody reads this file any more, or it is written again

    def _owner(self, container: Container) -> Container:
        mode = container.network_mode
        return self._registry.get(mode.partition(":")[2]) if mode.startswith("container:") else container

    def _write(self, container: Container) -> None:
        path = self._registry.directory(container) / "hosts"
        try:
            etc_render.write_in_place(path, self._render(container))
        except FileNotFoundError:
            pass  # it is being removed

    def _render(self, container: Container) -> str:
        config = container.config
        if container.network_mode == "host":
            try:
                return Path("/etc/hosts").read_text(errors="replace")
            except OSError:
                return etc_render.HOSTS_HEAD
        extra = [
            item.replace(":host-gateway", f":{self._host_gateway()}")
            for item in container.host_config["ExtraHosts"] or ()
        ]
        return etc_render.render_hosts(
            self._networks.addresses(container), config["Hostname"], config["Domainname"], extra, self._peers(container)
        )

    def _host_gateway(self) -> str:
        """The address under which a container finds the host: the default bridge's."""
        return self._controller.network("bridge").record.gateway

    def _peers(self, container: Container) -> list[tuple[str, list[str]]]:
        """The other containers on the user-made networks of this one."""
        registry = self._controller.registry
        peers: list[tuple[str, list[str]]] = []
        for name, entry in list(container.networks.items()):
            if name in PREDEFINED or entry["network_id"] not in registry.networks:
                continue
            for endpoint in registry.endpoints_of_network(entry["network_id"]):
                other = self._registry.find_id(endpoint.sandbox)
                if other is None or other is container or name not in other.networks:
                    continue
                names = self.names_on(other, name)
                # "name.network" resolves too, as with Docker's DNS
                names.insert(1, f"{other.name}.{name}")
                peers += [(address, names) for address in (endpoint.ip, endpoint.ip6) if address]
        return peers
