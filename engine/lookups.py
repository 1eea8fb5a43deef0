"""What containers resolve, for people: one question asked as a container would, all that it may ask for, and its query log.

query   NAME by the search list and ndots of the container -> the name server -> answer, and from where it came
ls      the records: names on the container's networks, --add-host, links
log     lines from the name server, through a pipe, to whoever reads the answer's body
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from ..names.process.client import NamesClient, Queried
from ..netlib.errors import Conflict, InvalidArgument, Unavailable
from ..netlib.model import Naming
from ..netlib.views import names_of, view_of
from .container.record import Container
from .container.registry import Registry
from .core import Core

MOST_LOGS = 8
"""Query logs that are read at a time: the name server keeps as many, and drops the oldest for one more (names/process/log.py)."""


class Lookups:
    def __init__(self, core: Core, registry: Registry) -> None:
        self._controller = core.controller
        self._registry = registry

    # -- one question ----------------------------------------------------------------------------------------

    def query(self, ref: str, name: str, kind: str, *, tcp: bool) -> dict[str, Any]:
        """What a program in the container would find: the search list is walked as the C library does (resolv.conf(5))."""
        if not name:
            raise InvalidArgument("no name to ask for: name must not be empty")
        container = self._registry.get(ref)
        owner, naming = self._named(container)
        answers: dict[str, Queried] = {}
        for asked in candidates(name, naming.search, naming.ndots or 0):
            answers[asked] = self._names.lookup(owner.id, asked, kind or "A", tcp=tcp)
            if answers[asked].lines:
                return {"Container": container.name, **_shape(asked, answers[asked])}
        return {"Container": container.name, **_shape(name, answers[name])}  # the one that res_search(3) tells of

    def queries(self, name: str, kind: str, *, tcp: bool) -> list[dict[str, Any]]:
        """The same of every container in which names are served."""
        found: list[dict[str, Any]] = []
        for container in sorted(self._registry.all(), key=lambda one: one.name):
            try:
                found.append(self.query(container.id, name, kind, tcp=tcp))
            except Conflict:
                continue  # it does not run, or has no names
        return found

    def _named(self, container: Container) -> tuple[Container, Naming]:
        """Whose sandbox a container is in, and how that resolves; Conflict where nobody serves names."""
        owner = self._registry.network_owner(container)
        record = self._controller.registry.sandboxes.get(owner.id) if container.running else None
        if record is None:
            raise Conflict(
                f"container {container.id} is not running", hint="`pynet start` it first; `pynet ps -a` shows its state"
            )
        if record.naming is None:
            raise Conflict(
                f"names are not served in container {container.name}",
                hint="it is in the host's network or in none, or was started by an older pynet: start it again",
            )
        return owner, record.naming

    @property
    def _names(self) -> NamesClient:
        names = self._controller.tools.names
        if not isinstance(names, NamesClient):
            raise Unavailable("this engine has no name server")
        return names

    # -- what there is ---------------------------------------------------------------------------------------

    def ls(self, ref: str = "") -> list[dict[str, Any]]:
        """What a container, or ("") anybody, may resolve: a row for each name and where it is from."""
        if not ref:
            return [*self._on_networks(self._controller.registry.networks)]
        owner, naming = self._named(self._registry.get(ref))
        with self._controller.lock:
            view = view_of(self._controller.registry.room(owner.id), naming)
        rows = [
            {"Name": name, "Addresses": list(addresses), "Source": "hosts", "Container": ""}
            for name, addresses in view.hosts
        ]
        return [*rows, *self._on_networks(view.networks)]

    def _on_networks(self, networks: Sequence[str] | dict[str, Any]) -> Iterator[dict[str, Any]]:
        registry = self._controller.registry
        with self._controller.lock:
            endpoints = [one for id in networks if id in registry.networks for one in registry.endpoints_of_network(id)]
            rooms = {one.sandbox: registry.room(one.sandbox) for one in endpoints if one.sandbox}
        served = {sandbox for sandbox, room in rooms.items() if room.sandbox.naming is not None}
        told = {one.endpoint: (one, id) for id in served for one in names_of(rooms[id])}
        for endpoint in endpoints:
            if endpoint.id in told:
                names, sandbox = told[endpoint.id]
                container = self._registry.find_id(sandbox)
                for name in names.names:
                    yield {
                        "Name": name,
                        "Addresses": list(names.addresses),
                        "Source": f"network {names.network_name}",
                        "Container": container.name if container is not None else "",
                    }

    # -- the log ---------------------------------------------------------------------------------------------

    def log(self, ref: str) -> int:
        """The reading end of a pipe with the container's queries, a line of JSON each, from now on; the caller closes it."""
        owner, _ = self._named(self._registry.get(ref))
        read, write = os.pipe()
        try:
            os.set_blocking(read, False)
            self._names.log(write, owner.id)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        return read


def candidates(name: str, search: Sequence[str], ndots: int) -> list[str]:
    """What is asked for a name, in order: it alone where it ends in a dot, itself first where it has as many dots as *ndots*."""
    if name.endswith("."):
        return [name]
    longer = [f"{name}.{domain}".rstrip(".") for domain in search]
    return [name, *longer] if name.count(".") >= ndots else [*longer, name]


def _shape(asked: str, found: Queried) -> dict[str, Any]:
    return {
        "Question": asked,
        "Code": found.code,
        "Answer": list(found.lines),
        "Source": found.source,
        "Seconds": found.seconds,
    }
