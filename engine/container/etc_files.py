"""What a container knows of names: its files, and what the library is told; kept right while networks come and go.

    start, connect, disconnect, rename, end --follow--> hosts and resolv.conf of the container, its sandbox's Naming
                                                `-----> the same of those that have a link to it

Who else is on a container's networks is the name server's to answer (netlib/views.py), so no file has the others' names.  How a
container resolves is decided in resolving.py, and files are rendered there and in etc_render.py.  One lock orders the rewrites:
what was looked at last is written last.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...netlib.errors import InvalidArgument, NotFound, PynetError
from ...netlib.model import EndpointRecord, Naming
from ..core import Core
from . import etc_render
from .attachment import ContainerNetworks
from .endpoints import parse_link
from .links import Links, links_of
from .record import Container
from .registry import Registry
from .resolving import Resolving, extra_hosts, is_named, naming

log = logging.getLogger(__name__)

WRITTEN = ".written"
"""What we wrote into a file last is beside it under its name and this: what differs from it is its user's."""
HOST = "host.docker.internal"
"""A name for the host that is known without being asked for; Docker Desktop has it."""


class HostFiles:
    def __init__(self, core: Core, registry: Registry, networks: ContainerNetworks) -> None:
        self.links = Links(core, registry, networks)
        self._controller = core.controller
        self._defaults = core.names
        self._registry = registry
        self._networks = networks
        self._lock = threading.Lock()
        """Orders the rewrites."""
        core.controller.core.address_changed = self._address_changed

    # -- what is so now --------------------------------------------------------------------------------------

    def naming(self, container: Container) -> Naming | None:
        """What the library is told that a container resolves; None: names are not served in it."""
        if not is_named(container):
            return None
        hosts = self._extra(container)
        gateways = self._host_gateways(needed=False)
        if gateways and HOST not in (name for name, _ in hosts):
            hosts += [(HOST, address) for address in gateways]
        linked = [(name, address) for address, names in self._linked(container) for name in names]
        return naming(container, self._resolving(container), [*hosts, *linked])

    def _resolving(self, container: Container) -> Resolving:
        return Resolving.of(container.host_config, self._defaults, etc_render.host_text())

    def _extra(self, container: Container) -> list[tuple[str, str]]:
        asked = any(item.endswith(":host-gateway") for item in container.host_config["ExtraHosts"] or ())
        return extra_hosts(container.host_config, self._host_gateways(needed=True) if asked else ())

    def _host_gateways(self, *, needed: bool) -> Sequence[str]:
        """The addresses under which a container finds the host: the engine's options', else the default bridge's."""
        if self._defaults.host_gateways:
            return self._defaults.host_gateways
        try:
            record = self._controller.network("bridge").record
        except NotFound:
            record = None
        found = [address for address in (record.gateway, record.gateway6) if address] if record is not None else []
        if needed and not found:
            raise InvalidArgument(
                "unable to derive the IP value for host-gateway",
                hint="there is no default bridge: name an address with `pynet daemon start --host-gateway-ip`",
            )
        return found

    # -- files -----------------------------------------------------------------------------------------------

    def prepare(self, container: Container) -> dict[str, str]:
        """Write all three files for a start; target in the container -> host path.

        A container that shares another's network has that one's files.
        """
        owner = self._registry.network_owner(container)
        directory = self._registry.directory(owner)
        if owner is container:
            directory.mkdir(parents=True, exist_ok=True, mode=0o710)
            etc_render.write_in_place(directory / "hostname", container.config["Hostname"] + "\n")
            for name in ("hosts", "resolv.conf"):  # a start makes them anew, edits and all
                for file in (f"{name}{WRITTEN}", name):
                    etc_render.write_in_place(directory / file, "")
            self.follow(container, starting=True)
        return {f"/etc/{name}": str(directory / name) for name in ("hosts", "hostname", "resolv.conf")}

    def follow(self, container: Container, *, starting: bool = False) -> None:
        """Have the files of a container, and what it resolves, say what is so now; and those of who has a link to it."""
        if starting or container.running:
            self._write(container)
        self.follow_links(container)

    def _address_changed(self, endpoint: EndpointRecord) -> None:
        """An address that came or went by itself, with its lease."""
        container = self._registry.find_id(endpoint.sandbox)
        if container is not None:
            self.follow(container)

    def follow_links(self, container: Container) -> None:
        """Have those who have a link to a container find it: open ways, rewrite files."""
        self.links.follow(container)
        for other in self._linking(container):
            try:
                self._write(other)
            except (PynetError, OSError) as error:  # of another's: not the business of who asked
                log.error("the names of %s: %s", other.name, error)

    def _linking(self, container: Container) -> list[Container]:
        """Those that run and have a link to a container, over the default bridge or another network."""
        known = {container.id, container.name, container.id[:12]}
        found: list[Container] = []
        for other in self._registry.all():
            if other is container or not other.running:
                continue
            links = [link for entry in list(other.networks.values()) for link in entry["settings"].get("Links") or ()]
            if any(id == container.id for id, _ in links_of(other)) or any(
                parse_link(one)[0] in known for one in links
            ):
                found.append(other)
        return found

    def _write(self, container: Container) -> None:
        directory = self._registry.directory(container)
        with self._lock:
            if not (directory / f"resolv.conf{WRITTEN}").exists():
                return  # an older pynet has started it: until its next start it has the others' names in its file, and asks there
            try:
                hosts = directory / "hosts"
                etc_render.follow(hosts, directory / f"hosts{WRITTEN}", self._render(container))
                resolv = directory / "resolv.conf"
                etc_render.follow_untouched(resolv, directory / f"resolv.conf{WRITTEN}", self._render_resolv(container))
                self._controller.sandbox(container.id).set_naming(self.naming(container))
            except (FileNotFoundError, NotFound):
                pass  # it ends, or is being removed: its start, if there is one, writes all of this again

    def _render_resolv(self, container: Container) -> str:
        resolving = self._resolving(container)
        if is_named(container):
            return resolving.render()
        return etc_render.render_resolv(
            etc_render.host_resolv(),
            servers=resolving.servers,
            search=container.host_config["DnsSearch"] or self._defaults.search,
            options=container.host_config["DnsOptions"] or self._defaults.options,
            filtered=container.network_mode != "host",
        )

    def _render(self, container: Container) -> str:
        if container.network_mode == "host":
            try:
                return Path("/etc/hosts").read_text(errors="replace")
            except OSError:
                return etc_render.HOSTS_HEAD
        config = container.config
        extra = [f"{address}\t{name}\n" for name, address in self._extra(container)]
        linked = etc_render.render_lines(self._linked(container))
        own = self._networks.addresses(container)
        return etc_render.render_hosts(own, config["Hostname"], config["Domainname"], extra, linked)

    # -- links and own names ---------------------------------------------------------------------------------

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
                    continue  # not there yet; its start has this written again
                for address in self._addresses(other, name):
                    yield address, [alias]

    def _addresses(self, container: Container, network: str) -> list[str]:
        entry = container.networks.get(network) or {}
        endpoint = self._controller.registry.endpoints.get(entry.get("endpoint_id", ""))
        return [address for address in (endpoint.ip, endpoint.ip6) if address] if endpoint is not None else []
