"""The containers: which there are, by id and by name, and their records in the store.  A leaf: it does nothing to them.

A container is there from the moment its record is in the store until its record is deleted there, which is the last step of
its removal: whatever a kill interrupts, the next start sees the record and finishes (recovery.py).

    name taken in memory -> root file system -> record in the store        create.py
    record "removing" -> process, network, directories -> record gone      remove.py
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...netlib.errors import Conflict, InvalidArgument, NotFound
from ...netlib.store.sqlite import Store
from ..fields import Fields
from ..reserve import Reserve
from .confinement import confine
from .hostconfig import port_bindings
from .names import random_name
from .record import Container, binding_body

KIND = "container"


class Registry:
    """Thread-safe; its lock is held for a moment only, so the event loop may call ``get``."""

    def __init__(self, store: Store, reserve: Reserve, root: Path) -> None:
        self._store = store
        self._reserve = reserve
        self._directories = root / "containers"
        self._trash = root / "trash"
        self._lock = threading.Lock()
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, str] = {}
        """Name to id; a name is here from before its container is made until after it is gone."""
        for body in store.list(KIND):
            container = Container.from_body(_judged(body))
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

    def network_owner(self, container: Container) -> Container:
        """Whose network a container is in: its own, or what a chain of ``container:X`` leads to.  NotFound; Conflict: a ring."""
        seen = {container.id}
        while container.network_mode.startswith("container:"):
            container = self.get(container.network_mode.partition(":")[2])
            if container.id in seen:
                raise Conflict("cannot join own network", hint="name another container, or a network")
            seen.add(container.id)
        return container

    def all(self) -> list[Container]:
        with self._lock:
            return list(self._by_id.values())

    def find_id(self, id: str) -> Container | None:
        with self._lock:
            return self._by_id.get(id)

    def count_by_status(self) -> Counter[str]:
        return Counter(container.state.status for container in self.all())

    def volume_users(self, name: str, but: str = "") -> list[str]:
        """Ids of the containers that name a volume, one (which is going) left out."""
        return [
            container.id
            for container in self.all()
            if container.id != but and any(p.kind == "volume" and p.name == name for p in container.mounts)
        ]

    def image_users(self) -> list[tuple[str, str, bool]]:
        """(container id, image id, running)."""
        return [(container.id, container.image_id, container.running) for container in self.all()]

    # -- names -----------------------------------------------------------------------------------------------

    def take_name(self, name: str, id: str) -> str:
        """Reserve a name, or ("") one of our choosing, for the container *id*; Conflict when another one has it."""
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

    def drop_name(self, name: str, id: str) -> None:
        """Give a name back, when it is *id*'s."""
        with self._lock:
            if self._by_name.get(name) == id:
                del self._by_name[name]

    # -- records ---------------------------------------------------------------------------------------------

    def add(self, container: Container) -> None:
        """The record of a container whose name was taken: from now on it is there."""
        self._store.put(KIND, container.id, container.to_body(), container.name)
        with self._lock:
            self._by_id[container.id] = container

    def save(self, container: Container) -> None:
        """Write the record, under the container's lock.  NotFound when it was removed: it must not come back."""
        if self.find_id(container.id) is not container:
            raise NotFound(f"No such container: {container.id}")
        self._store.put(KIND, container.id, container.to_body(), container.name)

    def save_end(self, container: Container) -> None:
        """``save`` for what has happened and must be on record even when the disk is full: starts, ends, removals."""
        self._reserve.spend(self.save, container)

    def delete(self, container: Container) -> None:
        """The last step of a removal, under the container's lock."""
        self._reserve.spend(self._store.delete, KIND, container.id)
        with self._lock:
            self._by_id.pop(container.id, None)
        self.drop_name(container.name, container.id)

    # -- directories -----------------------------------------------------------------------------------------

    def path(self, id: str) -> Path:
        """The directory of a container, also of one that is still being made."""
        return self._directories / id

    def directory(self, container: Container) -> Path:
        return self.path(container.id)

    def log_path(self, container: Container) -> Path:
        return self.directory(container) / "log.json"

    @property
    def trash(self) -> Path:
        return self._trash

    def throw_away(self, id: str) -> Path:
        """Move a container's directory to the trash; returns where it is now.  FileNotFoundError when there is none."""
        target = self._trash / f"{id}.{secrets.token_hex(4)}"
        self._trash.mkdir(exist_ok=True, mode=0o700)
        self.path(id).rename(target)
        return target

    def sweep(self) -> None:
        """Move directories that no record names (a create that was killed) to the trash.  Before anybody creates."""
        if self._directories.is_dir():
            for path in self._directories.iterdir():
                if path.name not in self._by_id:
                    self.throw_away(path.name)


def _judged(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record with what versions before 0.2 read anew at every start."""
    if "bindings" in body:
        return body
    config, host = body["config"], body["host_config"]
    confinement, _ = confine(Fields({**host, "MaskedPaths": None, "ReadonlyPaths": None}))
    bindings = [binding_body(binding) for binding in port_bindings(config, host)]
    return {**body, "bindings": bindings, "confinement": asdict(confinement)}
