"""A new name for a container: in memory, on record, in the files of those who know it by name."""

from __future__ import annotations

from ...netlib.errors import Conflict, InvalidArgument, NotFound
from ..core import Core
from .config import check_name
from .etc_files import HostFiles
from .record import Container
from .registry import Registry


def rename(core: Core, registry: Registry, hosts: HostFiles, ref: str, new: str) -> None:
    """Conflict when another container has the name, NotFound when this one is removed meanwhile."""
    container = registry.get(ref)
    if not new:
        raise InvalidArgument("Neither old nor new names may be empty")
    new = check_name(new)
    with container.lock:
        old = container.name
        if new == old:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        try:
            registry.take_name(new, container.id)
        except Conflict as error:
            raise Conflict(f"Error when allocating new name: {error}", hint=error.hint) from None
        container.name = new
        try:
            _rename_endpoints(core, container, new)
            registry.save(container)
        except BaseException:
            container.name = old
            registry.drop_name(new, container.id)
            _rename_endpoints(core, container, old)
            raise
        registry.drop_name(old, container.id)
    try:
        hosts.follow(container)
    finally:  # a file that can not be written keeps no one from hearing of it
        core.events.publish("container", "rename", container.id, container.attributes(oldName=f"/{old}"))


def _rename_endpoints(core: Core, container: Container, name: str) -> None:
    """They are called as the container is: a new one with its old name can come onto the same networks."""
    for entry in container.networks.values():
        for id in filter(None, (entry["endpoint_id"], entry.get("kept_id", ""))):
            try:
                core.controller.endpoint(id).rename(name)
            except NotFound:
                continue  # it ends just now
