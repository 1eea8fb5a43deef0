"""A container's networks: from what its record asks for to a joined sandbox, and back.

    attach   sandbox -> endpoint on each network -> join -> publish     any failure undoes all of it
    detach   ports freed, namespace and links gone, addresses given back; may be called for what is half there

The sandbox has the container's id.  With ``--network container:X`` there is no sandbox of its own: X's is used.  Published
ports are the sandbox's: they lead to the endpoint that has the default route, whichever that is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...netlib import shaping
from ...netlib.applier import Attempts
from ...netlib.decisions import decide_link_local, decide_mac, decide_sysctls
from ...netlib.errors import (
    Conflict,
    Forbidden,
    InternalError,
    InvalidArgument,
    NotFound,
    NotSupported,
    PortInUse,
    PynetError,
    Unavailable,
)
from ...netlib.model import Naming
from ...netlib.rehearsal import Attachment
from .endpoints import IFNAME, check_settings, sysctls
from .record import Container

if TYPE_CHECKING:
    from ...netlib.change import Step
    from ...netlib.controller import Controller
    from ...netlib.handles import Endpoint, Network, Sandbox
    from ...netlib.model import PublishedPort
    from ...netlib.ports.portspec import PortBinding

_BY_STATUS: dict[int, type[PynetError]] = {
    kind.status: kind for kind in (InvalidArgument, Forbidden, NotFound, Conflict, NotSupported, Unavailable)
}


def rephrase(error: PynetError, message: str) -> PynetError:
    """The same kind of error with a longer story."""
    return _BY_STATUS.get(error.status, InternalError)(message, hint=error.hint)


def _not_connected(container: Container, network_name: str) -> PynetError:
    article = "network" if container.running else "the network"
    return InternalError(
        f"container {container.id} is not connected to {article} {network_name}",
        hint="`pynet inspect` shows the networks of a container",
    )


def other_names(id: str, hostname: str) -> tuple[str, ...]:
    """What a container is known by on a network besides its name and aliases (moby, daemon/container_operations.go)."""
    return tuple(dict.fromkeys((id[:12], hostname)))


def _attachment(name: str, network: Network, settings: Mapping[str, Any], others: Sequence[str]) -> Attachment:
    """``EndpointSettings`` as the library's words."""
    ipam = settings.get("IPAMConfig") or {}
    options = settings.get("DriverOpts") or {}
    return Attachment(
        network,
        name,
        ip=ipam.get("IPv4Address") or "",
        ip6=ipam.get("IPv6Address") or "",
        mac=settings.get("MacAddress") or "",
        link_local=ipam.get("LinkLocalIPs") or (),
        sysctls=sysctls(options),
        aliases=tuple(settings.get("Aliases") or ()),
        other_names=others,
        gw_priority=settings.get("GwPriority") or 0,
        options={option: text for option, text in options.items() if shaping.is_option(option)},
        ifname=options.get(IFNAME, ""),
    )


def _wanted(container: Container, network: Network, settings: Mapping[str, Any]) -> Attachment:
    return _attachment(container.name, network, settings, other_names(container.id, container.config["Hostname"]))


def _create(wanted: Attachment) -> Endpoint:
    return wanted.network.create_endpoint(
        wanted.name,
        ip=wanted.ip,
        ip6=wanted.ip6,
        mac=wanted.mac,
        link_local=wanted.link_local,
        sysctls=wanted.sysctls,
        aliases=wanted.aliases,
        other_names=wanted.other_names,
        gw_priority=wanted.gw_priority,
        options=wanted.options,
        over=wanted.over,
    )


class ContainerNetworks:
    """Joins containers' records to the controller.  Calls for one container come one at a time (its lock)."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    # -- the whole -------------------------------------------------------------------------------------------

    def attach(self, container: Container, bindings: list[PortBinding], naming: Naming | None = None) -> str:
        """Make the sandbox, join every network, publish; returns the path of the namespace ("" is the host's).

        The record's ``networks`` then name the endpoints.  On failure nothing is left.
        """
        self.rest(container)  # what a crash left between a start and its end
        try:
            sandbox = self.controller.create_sandbox(container.id, host=container.network_mode == "host", naming=naming)
            for name in list(container.networks):
                self._join(container, name, sandbox)
            self.publish(container, sandbox, bindings)
        except PynetError as error:
            self._undo(container)
            raise rephrase(error, f"failed to set up container networking: {error}") from error
        except OSError as error:  # the kernel refused a step of the plan
            self._undo(container)
            raise InternalError(f"failed to set up container networking: {error}") from error
        except BaseException:
            self._undo(container)
            raise
        return sandbox.path

    def _undo(self, container: Container) -> None:
        try:
            self.rest(container)
        except (PynetError, OSError, sqlite3.Error):
            pass  # the first error is the one to tell; repair removes what stayed

    def detach(self, container: Container) -> None:
        """Take everything down.  Nothing happens when there is nothing."""
        self._take_down(container, kept=False)

    def rest(self, container: Container) -> None:
        """Take everything down but the endpoints whose addresses were asked for by value: nobody else gets these while the
        container is stopped, and it can start again."""
        self._take_down(container, kept=True)

    def _take_down(self, container: Container, *, kept: bool) -> None:
        """Errors come at the end: a forwarder that is away must not keep the addresses from being given back."""
        attempt = Attempts(f"could not remove all of the network of {container.name}")
        sandbox = self.controller.registry.sandboxes.get(container.id)
        joined = self._sandbox_endpoints(container.id)
        if sandbox is not None:
            attempt(self.controller.sandbox(container.id).delete)
        endpoints = {e.id: e for e in joined}
        for entry in container.networks.values():
            endpoints |= {endpoint.id: endpoint for endpoint in self._endpoints_of(entry, container.name)}
            entry["endpoint_id"] = entry["kept_id"] = ""
            for endpoint in self._kept(entry, endpoints) if kept else ():
                entry["kept_id"] = endpoint.id
                del endpoints[endpoint.id]
        for endpoint in endpoints.values():
            attempt(endpoint.delete)
        attempt.finish()

    # -- one network -----------------------------------------------------------------------------------------

    def connect(self, container: Container, network: Network, settings: dict[str, Any]) -> None:
        """Add a network to the record, and to the sandbox when the container runs."""
        self._check_connect(container, network, settings)
        name = network.name
        container.networks[name] = {"settings": settings, "network_id": network.id, "endpoint_id": ""}
        if not container.running:
            self._keep(container, name)
            return
        try:
            sandbox = self.controller.sandbox(container.id)
            self._join(container, name, sandbox)
            if not sandbox.ports:  # they waited for a network that publishes
                self.publish(container, sandbox, container.bindings)
        except BaseException:
            self.forget(container, [name])
            raise

    def planned_connect(self, container: Container, network: Network, settings: dict[str, Any]) -> Sequence[Step]:
        """What ``connect`` would do; nothing for a container that does not run."""
        self._check_connect(container, network, settings)
        if not container.running:
            return ()
        waiting = [] if self.controller.sandbox(container.id).ports else container.bindings
        return self.controller.rehearsed(
            container.id, [self._making_way(_wanted(container, network, settings))], waiting
        )

    def planned_start(
        self,
        id: str,
        name: str,
        networks: Mapping[str, dict[str, Any]],
        *,
        hostname: str,
        mode: str,
        bindings: Sequence[PortBinding],
    ) -> Sequence[Step]:
        """What the network of a container that is not there yet would be at its start; *networks* are names and settings."""
        if mode.startswith("container:"):
            return ()
        wanted: list[Attachment] = []
        for ref, settings in networks.items():
            network = self.controller.network(ref)
            check_settings(network.name, settings, network.record)
            wanted.append(self._making_way(_attachment(name, network, settings, other_names(id, hostname))))
        naming = Naming(own=(hostname,)) if mode != "none" else None
        return self.controller.rehearsed(id, wanted, bindings, host=mode == "host", naming=naming)

    @staticmethod
    def _check_connect(container: Container, network: Network, settings: dict[str, Any]) -> None:
        name = network.name
        if container.network_mode.startswith("container:"):
            raise Forbidden(
                "container sharing network namespace with another container or host cannot be connected to any other network"
            )
        if "host" in (container.network_mode, name):
            raise Forbidden(
                "container cannot be disconnected from host network or connected to host network"
                if name != "host"
                else "container cannot be connected to host network"
            )
        if "none" in container.networks and name != "none":
            raise Forbidden(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
        if name in container.networks and (not container.running or container.networks[name].get("endpoint_id")):
            raise Forbidden(
                f"endpoint with name {container.name} already exists in network {name}",
                hint="it is connected; `pynet network disconnect` undoes that",
            )
        check_settings(name, settings, network.record)

    def forget(self, container: Container, names: Iterable[str]) -> None:
        """Undo ``connect``: off the record, out of the sandbox; what can not be undone now is left to ``repair``."""
        for name in names:
            for endpoint in self._endpoints_of(container.networks.pop(name)):
                try:
                    endpoint.delete()
                except (PynetError, OSError):
                    pass  # the first error is the one to tell

    def planned_disconnect(self, container: Container, network_name: str) -> Sequence[Step]:
        """What ``disconnect`` would do, or its error; nothing while the container does not run."""
        entry = self._leaving(container, network_name)
        endpoint = self.endpoint(entry) if container.running else None
        return self.controller.planned(endpoint.delete) if endpoint is not None else ()

    def _leaving(self, container: Container, network_name: str) -> Mapping[str, Any]:
        if network_name == "host" and container.network_mode == "host":
            raise Forbidden("container cannot be disconnected from host network or connected to host network")
        entry = container.networks.get(network_name)
        if entry is None:
            raise _not_connected(container, network_name)
        return entry

    def disconnect(self, container: Container, network_name: str) -> None:
        entry = self._leaving(container, network_name)
        del container.networks[network_name]
        for endpoint in self._endpoints_of(entry):
            endpoint.delete()

    def planned_limit(self, container: Container, network_name: str, options: Mapping[str, str]) -> Sequence[Step]:
        """What ``limit`` would do, or its error; nothing while the container does not run."""
        entry = container.networks.get(network_name)
        if entry is None:
            raise _not_connected(container, network_name)
        endpoint = self.endpoint(entry) if container.running else None
        return self.controller.planned(endpoint.limit, **options) if endpoint is not None else ()

    def limit(self, container: Container, network_name: str, options: Mapping[str, str]) -> None:
        """Change the rates of one connection, at once where the container runs; "" takes an option off."""
        entry = container.networks.get(network_name)
        if entry is None:
            raise _not_connected(container, network_name)
        endpoint = self.endpoint(entry) if container.running else None
        own = entry["settings"].get("DriverOpts") or {}
        rates = shaping.changed({name: text for name, text in own.items() if shaping.is_option(name)}, options)
        if endpoint is not None:
            endpoint.limit(**options)
        else:
            shaping.parse(rates)
        own = {name: text for name, text in own.items() if not shaping.is_option(name)} | rates
        entry["settings"] = {**entry["settings"], "DriverOpts": own or None}

    def _join(self, container: Container, name: str, sandbox: Sandbox) -> None:
        entry = container.networks[name]
        network = self._resolve(name, entry)
        wanted = _wanted(container, network, entry["settings"])
        for request in (self._making_way(wanted), wanted):
            endpoint = self._take_kept(entry, network, request) or _create(request)
            entry["network_id"], entry["endpoint_id"] = network.id, endpoint.id
            try:
                endpoint.join(sandbox, ifname=wanted.ifname)
                return
            except NotFound:
                if endpoint.id in self.controller.registry.endpoints or request is wanted:
                    raise
                # it made way for a container that starts just now: the second time, nobody has to make way for this one

    # -- addresses of containers that do not run ---------------------------------------------------------------

    def keep(self, container: Container) -> None:
        """Lease the addresses that a new container asks for by value, so that no other one is given them before it starts."""
        for name in container.networks:
            self._keep(container, name)

    def _keep(self, container: Container, name: str) -> None:
        """For one network; what is in the way of it may be gone at the start, which is told then."""
        entry = container.networks[name]
        try:
            network = self._resolve(name, entry)
        except PynetError:
            return
        wanted = _wanted(container, network, entry["settings"])
        if not (wanted.ip or wanted.ip6) or network.record.ipam_driver != "default":
            return
        try:
            entry["kept_id"] = _create(wanted).id
        except PynetError:
            return
        entry["network_id"] = network.id

    def _making_way(self, wanted: Attachment) -> Attachment:
        """The same, and containers that do not run keep its addresses no longer (Docker's way: the one that runs has them)."""
        asked = {address for address in (wanted.ip, wanted.ip6) if address}
        endpoints = self.controller.registry.endpoints_of_network(wanted.network.id) if asked else []
        return replace(wanted, over=tuple(e.id for e in endpoints if asked.intersection(e.static) and not e.sandbox))

    def _take_kept(self, entry: dict[str, Any], network: Network, wanted: Attachment) -> Endpoint | None:
        """The endpoint that was kept while the container was stopped, if it is as it would be made now."""
        id = entry.get("kept_id", "")
        entry["kept_id"] = ""
        if not id or id not in self.controller.registry.endpoints:
            return None
        endpoint = self.controller.endpoint(id)
        record = endpoint.record
        same = (
            record.network == network.id
            and record.name == wanted.name
            and record.static == tuple(address for address in (wanted.ip, wanted.ip6) if address)
            and (record.mac == decide_mac(wanted.mac, "") if wanted.mac else True)
            and record.link_local == decide_link_local(wanted.link_local)
            and record.sysctls == decide_sysctls(wanted.sysctls)
            and record.aliases == tuple(wanted.aliases)
            and record.gw_priority == wanted.gw_priority
            and record.options == dict(wanted.options)
        )
        if not same:
            endpoint.delete()
            return None
        endpoint.rename(other_names=wanted.other_names)
        return endpoint

    def release_kept(self, network: Network, containers: Iterable[Container]) -> None:
        """Give back what stopped containers kept of a network, which can be removed then; nothing while anybody is on it."""
        if any(endpoint.sandbox for endpoint in self.controller.registry.endpoints_of_network(network.id)):
            return
        for container in containers:
            for entry in list(container.networks.values()):
                if entry["network_id"] == network.id and self._endpoints_of(entry):
                    with container.lock:
                        for endpoint in [] if container.running else self._endpoints_of(entry):
                            endpoint.delete()

    def _resolve(self, name: str, entry: Mapping[str, Any]) -> Network:
        """By the id that was found last, else by name: a network that was made anew under its name is the same to users."""
        if entry.get("network_id") in self.controller.registry.networks:
            return self.controller.network(entry["network_id"])
        return self.controller.network(name)

    # -- ports -----------------------------------------------------------------------------------------------

    def publish(self, container: Container, sandbox: Sandbox, bindings: list[PortBinding]) -> tuple[PublishedPort, ...]:
        """What was published: nothing while the container is on no network that publishes ports."""
        if not bindings:
            return ()
        try:
            return sandbox.publish(bindings)
        except PynetError as error:
            if isinstance(error, PortInUse) and error.holder in self.controller.registry.sandboxes:
                holder = self.controller.registry.room(error.holder)
                name = next((member.endpoint.name for member in holder.members), error.holder[:12])
                error.hint = f"container {name} holds it; {PortInUse.hint}"
            endpoint = self.gateway_endpoint(sandbox)
            raise rephrase(
                error,
                "driver failed programming external connectivity on endpoint "
                f"{container.name} ({endpoint.id if endpoint else ''}): {error}",
            ) from error

    def gateway_endpoint(self, sandbox: Sandbox) -> Endpoint | None:
        """The endpoint that has the default route, else any."""
        record = sandbox.record
        endpoints = {endpoint.id: endpoint for endpoint in sandbox.endpoints()}
        return endpoints.get(record.gateway) or endpoints.get(record.gateway6) or next(iter(endpoints.values()), None)

    # -- looking ---------------------------------------------------------------------------------------------

    def _sandbox_endpoints(self, id: str) -> list[Endpoint]:
        with self.controller.lock:  # between a look and a second one the container may end
            return self.controller.sandbox(id).endpoints() if id in self.controller.registry.sandboxes else []

    def endpoint(self, entry: Mapping[str, Any]) -> Endpoint | None:
        """The live endpoint of one of a container's ``networks``, or None."""
        record = self.controller.registry.endpoints.get(entry.get("endpoint_id", ""))
        return self.controller.endpoint(record.id) if record is not None and record.sandbox else None

    def _endpoints_of(self, entry: Mapping[str, Any], name: str = "") -> list[Endpoint]:
        """Those that an entry names, live or kept; with the container's *name* also one that is joined to nothing and that an
        earlier try could not delete: it would be in the way of the next start."""
        left = self.controller.registry.endpoint_named(entry.get("network_id", ""), name) if name else None
        ids = dict.fromkeys((entry.get("endpoint_id", ""), entry.get("kept_id", "")))
        if left is not None and not left.sandbox:
            ids[left.id] = None
        return [self.controller.endpoint(id) for id in ids if id in self.controller.registry.endpoints]

    def _kept(self, entry: Mapping[str, Any], endpoints: Mapping[str, Endpoint]) -> list[Endpoint]:
        """Of these, the one of the entry's network that has addresses which were asked for."""
        found = [one for one in endpoints.values() if one.record.network == entry["network_id"] and one.record.static]
        return found[:1]

    @staticmethod
    def names_on(container: Container, network: str) -> list[str]:
        """The names that others on a network know a container by; none where it has no interface of its own."""
        if network in ("host", "none"):
            return []
        entry = container.networks.get(network) or {"settings": {}}  # it may be taken off the network just now
        aliases = entry["settings"].get("Aliases") or ()
        return list(dict.fromkeys([container.name, *aliases, *other_names(container.id, container.config["Hostname"])]))

    def addresses(self, container: Container) -> list[str]:
        """Every address in the sandbox, without prefix length."""
        with self.controller.lock:  # between a look and a second one the container may end
            endpoints = self.controller.registry.endpoints_of_sandbox(container.id)
        return [address for e in endpoints for address in (e.ip, e.ip6) if address]
