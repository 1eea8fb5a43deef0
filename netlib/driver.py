"""The driver protocol: options in, plans out.

A driver decides and never acts: it has no socket, opens no file and keeps no state.  All that it knows is in the records it
is given, so its plans can be made again at any time: to undo, to compare with the kernel, to show.
Third parties register a class under the entry-point group ``pynet.drivers`` (docs/drivers.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Protocol

from .errors import NotFound, NotSupported
from .model import EndpointRecord, NetworkRecord, SandboxRecord
from .resources import Resource


class Driver(Protocol):
    """What the controller asks of a driver."""

    name: str
    scope: str
    """"local" or "global"."""
    needs_addresses: bool
    """Whether networks of this driver have subnets and endpoints have addresses."""
    singleton: bool
    """Whether there is one network of this driver, made by pynet itself."""

    def validate(self, network: NetworkRecord) -> None:
        """Raise InvalidArgument or Forbidden when the options or flags make no sense."""
        ...

    def conflicts(self, network: NetworkRecord, other: NetworkRecord) -> str:
        """Why the two networks can not both exist ("" when they can)."""
        ...

    def network_plan(self, network: NetworkRecord) -> Iterable[Resource]:
        """What must exist for the network, in order."""
        ...

    def endpoint_plan(
        self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> Iterable[Resource]:
        """What must exist for an endpoint that is joined to a sandbox, in order."""
        ...

    def gateways(self, network: NetworkRecord, endpoint: EndpointRecord) -> tuple[str, str]:
        """Next hops (IPv4, IPv6) that the endpoint offers for default routes; "" offers none."""
        ...

    def bridge(self, network: NetworkRecord) -> str:
        """Name of the host interface that published ports lead through; "" when the network publishes none."""
        ...

    def operinfo(self, network: NetworkRecord, endpoint: EndpointRecord) -> Mapping[str, Any]:
        """Facts for inspect."""
        ...


_BUILTIN = {"bridge": "bridge:BridgeDriver", "host": "host:HostDriver", "none": "none:NoneDriver"}


def driver_names() -> list[str]:
    """The drivers that can be had here, the built-in ones and those of other packages."""
    from importlib.metadata import entry_points

    return sorted({*_BUILTIN, *(entry.name for entry in entry_points(group="pynet.drivers"))})


def load_driver(name: str) -> Driver:
    """The driver with this name: built in, else from the entry points; NotFound with Docker's text when there is none."""
    where = _BUILTIN.get(name)
    if where is not None:
        module, _, attribute = where.partition(":")
        driver: Driver = getattr(import_module(f"...drivers.{module}", __name__), attribute)()
        return driver
    from importlib.metadata import entry_points

    for entry in entry_points(group="pynet.drivers", name=name):
        try:
            found: Driver = entry.load()()
        except Exception as error:  # whatever a stranger's module raises
            raise NotSupported(
                f"the driver {name} ({entry.value}) can not be loaded: {error}", hint="repair or remove its package"
            ) from error
        return found
    raise NotFound(
        f"could not find plugin {name} in v1 plugin registry: plugin not found",
        hint="drivers here: " + ", ".join(driver_names()),
    )
