"""What the macvlan and ipvlan drivers share: a network that stands on an interface of the host.

    -o parent=eth0       that interface; several networks may stand on one
    -o parent=eth0.10    the VLAN interface of that name, made when it is missing
    (none)               a bridge of our own without a port: containers reach one another and nobody else

Containers are on the parent's wire with addresses of their own.  So the gateway is a router there, which the user names; this
host has no address on the network, forwards nothing for it and publishes no ports: who is on the wire reaches all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..ipam.driver import GATEWAY
from ..netlib.driver import Joined, Publishing, Reserved
from ..netlib.errors import Forbidden, InvalidArgument
from ..netlib.gateway import subnet_of
from ..netlib.instance import own_parent_name
from ..netlib.kinds.bridge import Bridge
from ..netlib.kinds.parent import Parent, Vlan
from ..netlib.kinds.resource import Resource
from ..netlib.kinds.sysctl import Sysctl
from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord
from ..netlib.shaping import is_option as is_rate_limit
from .options import interface, mtu

MTU = "com.docker.network.driver.mtu"
_IGNORED = frozenset({"com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"})
"""Say what the record says already."""
_VLAN = re.compile(r"(.+)\.([1-9][0-9]{0,3})")
_LAST_VID = 4094  # IEEE 802.1Q 9.6: 4095 is reserved

Table = Mapping[str, tuple[str, Callable[[str], Any]]]


def read_options(driver: str, options: Mapping[str, str], table: Table) -> dict[str, Any]:
    """Values by field; InvalidArgument names the option, what is wrong with it and what is known."""
    values: dict[str, Any] = {}
    known = {"parent": ("parent", interface), MTU: ("mtu", mtu), "mtu": ("mtu", mtu), **table}
    for name, text in options.items():
        if name in _IGNORED or is_rate_limit(name):
            continue
        if name not in known:
            raise InvalidArgument(
                f"unknown option {name} for the {driver} driver",
                hint="it takes " + ", ".join(sorted(known.keys() - {MTU})),
            )
        field, parse = known[name]
        if not text and field != "parent":
            continue  # as Docker: the default
        try:
            values[field] = parse(text) if text else ""
        except ValueError as error:
            raise InvalidArgument(f"invalid value {text!r} for option {name}: {error}") from error
    if values.get("parent") == "lo":
        raise InvalidArgument(
            f"loopback interface is not a valid {driver} parent link", hint="choose an interface of a network card"
        )
    return values


def one_of(driver: str, what: str, default: str, allowed: Iterable[str]) -> Callable[[str], str]:
    """An option that takes one of a few words; Docker's text."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise InvalidArgument(
                f"requested {driver} {what} '{text}' is not valid, '{default}' {what} is the {driver} driver default",
                hint="choose " + ", ".join(allowed),
            )
        return text

    return parse


class ParentedDriver:
    """A driver of this family says its name, its options and its interface."""

    name = ""
    scope = "local"
    ipam = "default"
    singleton = False
    own_mac = True
    shapes = frozenset({"out"})
    short_names: Mapping[str, str] = {"mtu": MTU}

    def parent(self, network: NetworkRecord) -> str:
        """The host's interface that its endpoints stand on."""
        return network.options.get("parent") or own_parent_name(network.id)

    def validate(self, network: NetworkRecord) -> None:
        raise NotImplementedError

    def reserves(self, network: NetworkRecord) -> Reserved:
        return Reserved(gateway=False, shared_wire=bool(network.options.get("parent")))

    def parent_plan(self, network: NetworkRecord, *, mtu: int, sole: bool) -> Iterable[Resource]:
        parent = self.parent(network)
        if not network.options.get("parent"):
            # a bridge without a port has a carrier for as long as nobody sets its MAC address (br_port_state_selection)
            yield Bridge(name=parent, mtu=mtu, mac="", addresses=())
            yield Sysctl(("net", "ipv6", "conf", parent, "accept_ra"), "0", optional=True)
        elif (found := _VLAN.fullmatch(parent)) and int(found[2]) <= _LAST_VID:
            yield Vlan(parent, found[1], int(found[2]))
        yield Parent(parent, self.name, mtu, sole)

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> Joined:
        if not sandbox.path:
            raise Forbidden(f"a sandbox in the host's namespace can not join a {self.name} network")
        if network.internal or not network.options.get("parent"):
            return Joined()
        leased = endpoint.lease.get(GATEWAY, "") if endpoint.address else ""
        return Joined(gateway=_hop(network, endpoint.address) or leased, gateway6=_hop(network, endpoint.address6))

    def publishing(self, network: NetworkRecord, endpoint: EndpointRecord) -> Publishing | None:
        return None

    def operinfo(self, network: NetworkRecord, endpoint: EndpointRecord) -> Mapping[str, Any]:
        return {"com.docker.network.endpoint.macaddress": endpoint.mac} if endpoint.mac else {}


def _hop(network: NetworkRecord, address: str) -> str:
    """The gateway of the subnet that an endpoint's address is of, if the user named one."""
    config = subnet_of(network.ipam, address)
    return config.gateway if config is not None else ""
