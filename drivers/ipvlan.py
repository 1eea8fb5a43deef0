"""Ipvlan driver: containers share the MAC address of a host's interface and are told apart by their IP addresses.

    l2         on the parent's wire, with a router there as their gateway
    l3, l3s    the host routes to them: they have no gateway, and what is not theirs goes out by the parent

For switches and clouds that let a port have one MAC address only.  Docker's options: parent, ipvlan_mode, ipvlan_flag, mtu.
One network a parent, as Docker has it: its kernel mode is the parent's.  What is shared with macvlan is in parented.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..netlib.driver import Joined
from ..netlib.kernel.stacked import IPVLAN_FLAGS, IPVLAN_MODES
from ..netlib.kinds.ipvlan import Ipvlan
from ..netlib.kinds.resource import Resource
from ..netlib.kinds.route import ON_LINK
from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord
from .parented import ParentedDriver, one_of, read_options


@dataclass(frozen=True, slots=True)
class IpvlanOptions:
    parent: str = ""
    """The host's interface; "" is a bridge of our own without a port."""
    mode: str = "l2"
    flag: str = "bridge"
    mtu: int = 0
    """0 is the parent's."""


_OPTIONS = {
    "ipvlan_mode": ("mode", one_of("ipvlan", "mode", "l2", IPVLAN_MODES)),
    "ipvlan_flag": ("flag", one_of("ipvlan", "flag", "bridge", IPVLAN_FLAGS)),
}


def parse_options(network: NetworkRecord) -> IpvlanOptions:
    return IpvlanOptions(**read_options("ipvlan", network.options, _OPTIONS))


class IpvlanDriver(ParentedDriver):
    name = "ipvlan"
    own_mac = False

    def validate(self, network: NetworkRecord) -> None:
        parse_options(network)

    def network_plan(self, network: NetworkRecord) -> Iterable[Resource]:
        return self.parent_plan(network, mtu=parse_options(network).mtu, sole=True)

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> Joined:
        joined = super().join(network, endpoint, sandbox)
        if network.internal or not network.options.get("parent") or parse_options(network).mode == "l2":
            return joined
        here, here6 = ON_LINK
        return Joined(gateway=here if endpoint.address else "", gateway6=here6 if endpoint.address6 else "")

    def endpoint_plan(
        self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> Iterable[Resource]:
        options = parse_options(network)
        yield Ipvlan(
            parent=self.parent(network),
            ifname=endpoint.ifname,
            netns=sandbox.path,
            mtu=options.mtu,
            mode=options.mode,
            addresses=endpoint.addresses,
            flag=options.flag,
        )
