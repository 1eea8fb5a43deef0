"""The files that the engine puts into containers, kept right while networks come and go.

Rendering is etc_render.py's.  One lock orders the rewrites, so two containers that join at once both end up in both files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ...netlib.errors import NotFound, PynetError
from ...netlib.model import EndpointRecord
from ..core import Core
from . import etc_render
from .attachment import ContainerNetworks
from .endpoints import PREDEFINED, parse_link
from .links import Links, links_of
from .record import Container
from .registry import Registry

log = logging.getLogger(__name__)

WRITTEN = "hosts.written"
"""What we wrote into the hosts file last, beside it: what differs from it is its user's."""


class HostFiles:
    def __init__(self, core: Core, registry: Registry, networks: ContainerNetworks) -> None:
        self.links = Links(core, registry, networks)
        self._controller = core.controller
        self._registry = registry
        self._networks = networks
        self._lock = threading.Lock()
        """Orders the rewrites."""
        self._asking = threading.Lock()
        """Guards what was asked for and not begun; held for a moment only."""
        self._asked: set[str] = set()
        core.controller.core.address_changed = self._address_changed

    @staticmethod
    def names_on(container: Container, network: str) -> list[str]:
        """The names that others on a user's network know a container by; none on the predefined ones."""
        if network in PREDEFINED:
            return []
        entry = container.networks.get(network) or {"settings": {}}  # it may be taken off the network just now
        names = [container.name, *(entry["settings"].get("Aliases") or ()), container.id[:12]]
        if container.config["Hostname"] != container.id[:12]:
            names.append(container.config["Hostname"])
        return list(dict.fromkeys(names))

    def prepare(self, container: Container) -> dict[str, str]:
        """Write all three files for a start; target in the container -> host path.

        A container that shares another's network has that one's files.
        """
        owner, host = self._registry.network_owner(container), container.host_config
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
            for name in (WRITTEN, "hosts"):  # a start makes it anew, edits and all
                etc_render.write_in_place(directory / name, "")
            self.follow(container, starting=True)
        return {f"/etc/{name}": str(directory / name) for name in ("hosts", "hostname", "resolv.conf")}

    def follow(self, container: Container, *, starting: bool = False) -> None:
        """Rewrite the hosts files of a container and of everybody on its user-made networks."""
        ids = {entry["network_id"] for name, entry in container.networks.items() if name not in PREDEFINED}
        self.follow_networks(ids - {""}, also=container if starting or container.running else None)
        self.follow_links(container)

    def _address_changed(self, endpoint: EndpointRecord) -> None:
        """An address that came or went by itself, with its lease."""
        self.follow_networks({endpoint.network}, also=self._registry.find_id(endpoint.sandbox))

    def follow_links(self, container: Container) -> None:
        """Have those who have a link to a container over the default bridge find it: open ways, rewrite hosts files."""
        self.links.follow(container)
        for other in self.links.parents(container):
            if other.running:
                self.follow_networks(set(), also=other)

    def follow_networks(self, network_ids: set[str], also: Container | None = None) -> None:
        """Have every hosts file on these networks, and the one of *also*, say what is so now.

        Many who come at the same time need one rewrite: it is done for all who asked before it began.
        """
        with self._asking:
            self._asked |= network_ids
        with self._lock:
            with self._asking:
                asked, self._asked = self._asked, set()
            blocks = _Blocks(self.endpoints_on, self.lines_of)
            if also is not None:
                self._write(also, blocks)
            sandboxes = {endpoint.sandbox for network_id in asked for endpoint in self.endpoints_on(network_id)}
            for other in map(self._registry.find_id, sandboxes):
                if other is None or other is also:
                    continue
                try:
                    self._write(other, blocks)
                except NotFound:
                    pass  # it ends, or leaves the network, just now: nobody reads this file any more, or it is written again
                except OSError as error:  # of another's file: not the business of who asked
                    log.error("the hosts file of %s: %s", other.name, error)

    def endpoints_on(self, network_id: str) -> list[EndpointRecord]:
        registry = self._controller.registry
        known = registry.endpoints_of_network(network_id) if network_id in registry.networks else []
        return [endpoint for endpoint in known if endpoint.sandbox]

    def _write(self, container: Container, blocks: _Blocks) -> None:
        directory = self._registry.directory(container)
        try:
            etc_render.follow(directory / "hosts", directory / WRITTEN, self._render(container, blocks))
        except FileNotFoundError:
            pass  # it is being removed

    def _render(self, container: Container, blocks: _Blocks) -> str:
        if container.network_mode == "host":
            try:
                return Path("/etc/hosts").read_text(errors="replace")
            except OSError:
                return etc_render.HOSTS_HEAD
        extra = [
            item.replace(":host-gateway", f":{self._host_gateway()}")
            for item in container.host_config["ExtraHosts"] or ()
        ]
        config, networks = container.config, list(container.networks.items())
        peers = [
            blocks.without(container, name, entry["network_id"])
            for name, entry in networks
            if name not in PREDEFINED and entry["network_id"]
        ]
        links = [etc_render.render_lines(self._linked(container))]
        return etc_render.render_hosts(
            self._own(container), config["Hostname"], config["Domainname"], extra, [*links, *peers]
        )

    def _linked(self, container: Container) -> Iterator[tuple[str, list[str]]]:
        """The addresses of those that a container has links to, with the names that the links give them."""
        for id, alias in links_of(container):
            other = self._registry.find_id(id)
            if other is not None:
                for address in self._addresses(other, "bridge"):
                    yield address, list(dict.fromkeys([alias, str(other.config["Hostname"]), other.name]))
        for name, entry in list(container.networks.items()):
            for link in entry["settings"].get("Links") or ():
                ref, alias = parse_link(link)
                try:
                    other = self._registry.get(ref)
                except PynetError:
                    continue  # not there yet; its start writes this file again
                for address in self._addresses(other, name):
                    yield address, [alias]

    def _addresses(self, container: Container, network: str) -> list[str]:
        entry = container.networks.get(network) or {}
        endpoint = self._controller.registry.endpoints.get(entry.get("endpoint_id", ""))
        return [address for address in (endpoint.ip, endpoint.ip6) if address] if endpoint is not None else []

    def _own(self, container: Container) -> list[tuple[str, list[str]]]:
        """Each of the container's addresses, with the names that are its own there."""
        names = {
            entry["network_id"]: self.names_on(container, name) for name, entry in list(container.networks.items())
        }
        return [
            (address, names.get(network, [])) for network, address in self._networks.addresses(container) if address
        ]

    def _host_gateway(self) -> str:
        """The address under which a container finds the host: the default bridge's."""
        return self._controller.network("bridge").record.gateway

    def lines_of(self, network_name: str, endpoint: EndpointRecord) -> str:
        """How the others on a user's network see the container of an endpoint; "" when it is none."""
        container = self._registry.find_id(endpoint.sandbox)
        if container is None or network_name not in container.networks:
            return ""
        names = self.names_on(container, network_name)
        # "name.network" resolves too, as with Docker's DNS
        names.insert(1, f"{container.name}.{network_name}")
        return etc_render.render_lines((address, names) for address in (endpoint.ip, endpoint.ip6) if address)


class _Blocks:
    """The lines of each network, made once for all the files that have them."""

    def __init__(
        self, endpoints: Callable[[str], list[EndpointRecord]], lines_of: Callable[[str, EndpointRecord], str]
    ) -> None:
        self._endpoints = endpoints
        self._lines_of = lines_of
        self._made: dict[str, tuple[str, dict[str, str]]] = {}

    def without(self, container: Container, network_name: str, network_id: str) -> str:
        """The lines of a network, but for the container's own."""
        if network_id not in self._made:
            lines = {one.sandbox: self._lines_of(network_name, one) for one in self._endpoints(network_id)}
            self._made[network_id] = "".join(lines.values()), lines
        text, lines = self._made[network_id]
        own = lines.get(container.id)
        return text.replace(own, "", 1) if own else text
