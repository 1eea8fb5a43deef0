"""Macvlan driver: each container has a MAC address of its own on the wire of a host's interface.

    host namespace                          sandbox namespaces
    eth0 ---- the LAN, its router   ======= eth0  10.0.0.5/24   default via the router
      |                             ======= eth0  10.0.0.6/24
      '-- ph<network> 10.0.0.250/32         (host_access: the host's own place beside them)

Docker's options (parent, macvlan_mode, mtu), and one that it has not: ``host_access``.  What is shared with ipvlan is in
parented.py, what the kernel does in netlib/kinds/macvlan.py and host_access.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..netlib.driver import Reserved
from ..netlib.errors import InvalidArgument
from ..netlib.gateway import subnet_of
from ..netlib.instance import host_link_name
from ..netlib.kernel.stacked import MACVLAN_MODES
from ..netlib.kinds.host_access import HostLink, HostRoute
from ..netlib.kinds.macvlan import Macvlan
from ..netlib.kinds.resource import Resource
from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord
from .options import boolean
from .parented import ParentedDriver, one_of, read_options

HOST = "host"
"""Name of the auxiliary address that is the host's own with host_access."""


@dataclass(frozen=True, slots=True)
class MacvlanOptions:
    parent: str = ""
    """The host's interface; "" is a bridge of our own without a port."""
    mode: str = "bridge"
    mtu: int = 0
    """0 is the parent's."""
    host_access: bool = False


_OPTIONS = {
    "macvlan_mode": ("mode", one_of("macvlan", "mode", "bridge", MACVLAN_MODES)),
    "host_access": ("host_access", boolean),
}


def parse_options(network: NetworkRecord) -> MacvlanOptions:
    return MacvlanOptions(**read_options("macvlan", network.options, _OPTIONS))


class MacvlanDriver(ParentedDriver):
    name = "macvlan"

    def validate(self, network: NetworkRecord) -> None:
        options = parse_options(network)
        if options.host_access and options.mode != "bridge":
            raise InvalidArgument(
                f"host_access needs macvlan_mode=bridge: {options.mode} keeps the host's interface from the containers'",
                hint="leave one of the two options out",
            )
        if options.mode == "passthru" and not options.parent:
            raise InvalidArgument("macvlan_mode=passthru needs a parent", hint="name it: -o parent=eth0")

    def segment(self, network: NetworkRecord) -> str:
        return parse_options(network).parent

    def reserves(self, network: NetworkRecord) -> Reserved:
        auxiliary = (HOST,) if parse_options(network).host_access else ()
        return replace(super().reserves(network), auxiliary=auxiliary)

    def network_plan(self, network: NetworkRecord) -> Iterable[Resource]:
        options = parse_options(network)
        yield from self.parent_plan(network, mtu=options.mtu, sole=options.mode == "passthru")
        if options.host_access:
            yield HostLink(
                name=host_link_name(network.id),
                parent=self.parent(network),
                mac=_host_mac(network),
                mtu=options.mtu,
                addresses=tuple(config.aux[HOST] for config in network.ipam if HOST in config.aux),
            )

    def endpoint_plan(
        self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> Iterable[Resource]:
        options = parse_options(network)
        yield Macvlan(
            parent=self.parent(network),
            ifname=endpoint.ifname,
            netns=sandbox.path,
            mtu=options.mtu,
            mode=options.mode,
            addresses=endpoint.addresses,
            mac=endpoint.mac,
            withdrawn=(endpoint.lapsed,) if endpoint.lapsed else (),
        )
        if options.host_access:
            for address in filter(None, (endpoint.ip, endpoint.ip6)):
                if source := _host_address(network, address):
                    yield HostRoute(host_link_name(network.id), address, source)


def _host_address(network: NetworkRecord, address: str) -> str:
    """The host's in the subnet of a container's address."""
    config = subnet_of(network.ipam, address)
    return config.aux.get(HOST, "") if config is not None else ""


def _host_mac(network: NetworkRecord) -> str:
    """Locally administered, made from the id as a bridge's is, and another one than that."""
    digits = network.id[:10]
    return "06:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))
