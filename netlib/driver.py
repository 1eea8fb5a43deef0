"""The driver protocol: options in, plans out.

A driver decides and never acts: it has no socket, opens no file and keeps no state.  All that it knows is in the records it
is given, so its plans can be made again at any time: to undo, to compare with the kernel, to show.

    create   validate, reserves, network_plan
    join     join             what only the driver knows: next hops, routes, names; recorded in the endpoint
             endpoint_plan    from the records alone
    publish  publishing       where rules for published ports apply

``join`` is the one method that may ask somebody (a remote driver's plugin): it is called with no lock held, in the turn of the
endpoint and its sandbox, once a join, and what it answers stands in the endpoint's record from then on.  What a driver has to
*do* that none of the kinds of resources does is a kind of its own, in its plans (netlib/kinds/kind.py).  Third parties register
a class under the entry-point group ``pynet.drivers`` (docs/drivers.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from .errors import NotFound, NotSupported
from .kinds.resource import Resource
from .model import EndpointRecord, NetworkRecord, SandboxRecord, StaticRoute


@dataclass(frozen=True, slots=True)
class Joined:
    """What an endpoint is like in its sandbox, beyond its addresses."""

    prefix: str = "eth"
    """Its interface is <prefix>N, N the lowest free number; "" when it has none."""
    gateway: str = ""
    """IPv4 next hop that it offers for the default route; "" offers none."""
    gateway6: str = ""
    routes: tuple[StaticRoute, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Whatever the driver needs to make its plans again."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """Where published ports of an endpoint lead through."""

    interface: str
    """The host's interface that its packets come from: the firewall's rules name it."""
    host_ip: str = ""
    """Host address of ports that name none; "" is every address."""
    routed: frozenset[int] = frozenset()
    """IP versions whose packets come to the container's own address: a published port is opened there, and no host port leads
    to it."""
    trusting: bool = False
    """Whether published ports are opened at the container's own address too, for interfaces that the network trusts."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Addresses of a network that are nobody's endpoint's."""

    gateway: bool = True
    """Whether a subnet whose gateway the user names none of gets one."""
    auxiliary: tuple[str, ...] = ()
    """Auxiliary addresses (by name) that each subnet has: chosen where the user gives none."""
    shared_wire: bool = False
    """Whether its endpoints are among machines of others, whose router customarily has a subnet's first address: that is not
    chosen where the user says neither where the gateway is nor what may be chosen."""


class Driver(Protocol):
    """What the library asks of a driver."""

    name: str
    scope: str
    """"local", or "global" when its networks are shared by the hosts of a store."""
    ipam: str
    """The IPAM driver of networks that name none: "default", or "null" for those without addresses."""
    singleton: bool
    """Whether there is one network of this driver, made by pynet itself."""
    own_mac: bool
    """Whether its endpoints have MAC addresses of their own."""

    def validate(self, network: NetworkRecord) -> None:
        """Raise InvalidArgument or Forbidden when the options or flags make no sense."""
        ...

    def reserves(self, network: NetworkRecord) -> Reserved:
        """Which addresses its subnets set aside."""
        ...

    def network_plan(self, network: NetworkRecord) -> Iterable[Resource]:
        """What must exist for the network, in order.  Two networks can not both have a resource that is ``exclusive``."""
        ...

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> Joined:
        """What the endpoint will be like in the sandbox; Forbidden when it can not be there."""
        ...

    def endpoint_plan(
        self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> Iterable[Resource]:
        """What must exist for an endpoint that is joined to a sandbox, in order; its routes come after it by themselves."""
        ...

    def publishing(self, network: NetworkRecord, endpoint: EndpointRecord) -> Publishing | None:
        """Where the endpoint's published ports lead through; None when it publishes none."""
        ...

    def operinfo(self, network: NetworkRecord, endpoint: EndpointRecord) -> Mapping[str, Any]:
        """Facts for inspect."""
        ...


_BUILTIN = {
    "bridge": "bridge:BridgeDriver",
    "host": "host:HostDriver",
    "ipvlan": "ipvlan:IpvlanDriver",
    "macvlan": "macvlan:MacvlanDriver",
    "null": "none:NoneDriver",
}


def segment(driver: Driver, network: NetworkRecord) -> str:
    """The host's interface on whose wire a network's endpoints are, each with a MAC address of its own, beside machines that
    pynet knows nothing of: what its ``segment`` says, if it has one; "" where there is no such wire."""
    said: Any = getattr(driver, "segment", None)
    return str(said(network)) if said is not None else ""


def directions(driver: Driver) -> frozenset[str]:
    """Which ways the driver's endpoints can be limited in rate ("in", "out"): its ``shapes``, if it has one.

    "out" wants an interface in the sandbox, "in" a pair (kinds/veth.py) whose other end is the host's.
    """
    return frozenset(getattr(driver, "shapes", ()))


def short_names(driver: Driver) -> dict[str, str]:
    """Short names of the driver's options to their long ones: its ``short_names``, if it has them."""
    return dict(getattr(driver, "short_names", {}))


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
