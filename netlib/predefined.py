"""The networks that are there from the start: bridge, host, none; and what the first of them is like.

Their ids stay over restarts.  The default bridge is an ordinary network: what an engine's options say of it is a request like
any other (``DefaultBridge``), and it is made anew under its id when a later start asks for something else and nothing is
joined to it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from .applier import step
from .core import Core
from .creation import create_network, remove_network
from .errors import InvalidArgument
from .kernel.rtnetlink import Rtnetlink
from .model import IpamConfig, NetworkRecord, new_id

BRIDGE_NAME = "com.docker.network.bridge.name"
DEFAULT_BRIDGE = "pynet0"
"""Interface name of the predefined bridge network of the default root; others get a name made from the id."""
PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}
"""Their names and drivers."""


@dataclass(frozen=True, slots=True)
class DefaultBridge:
    """A request for the network ``bridge``."""

    ipam: tuple[IpamConfig, ...] = ()
    ipv6: bool = False
    options: Mapping[str, str] = field(default_factory=dict[str, str])

    def is_met_by(self, record: NetworkRecord) -> bool:
        """Whether the network is as asked; what the request leaves open is as it should be, whatever it is."""
        if record.ipv6 != self.ipv6 or record.options != dict(self.options):
            return False
        asked = {config.version: config for config in self.ipam}
        return all(_meets(config, asked.get(config.version)) for config in record.ipam)


ANY_BRIDGE = DefaultBridge()


def ensure(core: Core, bridge: DefaultBridge | None = ANY_BRIDGE) -> None:
    """Make those that are not there; without *bridge* not that one."""
    for name, driver in PREDEFINED.items():
        if core.registry.has_network_named(name) or (name == "bridge" and bridge is None):
            continue
        if bridge is not None and name == "bridge":
            _make_bridge(core, _default_bridge(core, bridge), "")
        else:
            create_network(
                core, NetworkRecord(id=new_id(), name=name, driver=driver, created=time.time(), ipam_driver=""), []
            )


def adapt(core: Core, bridge: DefaultBridge) -> bool:
    """Make the network ``bridge`` anew, under its id, if it is not as asked; False while something is joined to it."""
    bridge = _default_bridge(core, bridge)
    before = core.registry.network("bridge")
    if bridge.is_met_by(before):
        return True
    if core.registry.endpoints_of_network(before.id):
        return False
    remove_network(core, before, core.plans.network(before))
    try:
        _make_bridge(core, bridge, before.id)
    except BaseException:
        _make_bridge(core, DefaultBridge(before.ipam, before.ipv6, before.options), before.id)
        raise
    return True


def _default_bridge(core: Core, bridge: DefaultBridge) -> DefaultBridge:
    name = bridge.options.get(BRIDGE_NAME)
    if name:
        with step("look at", f"bridge {name}"):
            return on_existing_bridge(bridge, name, core.tools.rtnl)
    if core.tools.instance.suffix:
        return bridge
    return replace(bridge, options={BRIDGE_NAME: DEFAULT_BRIDGE, **bridge.options})


def _make_bridge(core: Core, bridge: DefaultBridge, id: str) -> None:
    record = NetworkRecord(
        id=id or new_id(),
        name="bridge",
        driver="bridge",
        created=time.time(),
        ipam_driver="",
        ipv6=bridge.ipv6,
        options=dict(bridge.options),
    )
    create_network(core, record, bridge.ipam)


def on_existing_bridge(bridge: DefaultBridge, name: str, rtnl: Rtnetlink) -> DefaultBridge:
    """The request for the network ``bridge`` on a bridge that somebody made; its addresses say what the subnets are."""
    link = rtnl.link(name)
    if link is None:
        raise InvalidArgument(
            f"bridge device with non default name {name} must be created manually",
            hint=f"ip link add {name} type bridge",
        )
    if link.kind != "bridge":
        raise InvalidArgument(f"existing interface {name} is not a bridge")
    own = [ip_interface(f"{one.address}/{one.prefix}") for one in rtnl.addresses(link.index)]
    ipam = list(bridge.ipam)
    for version in (4, 6) if bridge.ipv6 else (4,):
        found = next((one for one in own if one.version == version and not one.is_link_local), None)
        if found is None:
            continue
        given = next((config for config in ipam if config.version == version), None)
        if given is None:
            ipam.append(IpamConfig(subnet=str(found.network), gateway=str(found.ip)))
    return replace(bridge, ipam=tuple(ipam))


def _meets(has: IpamConfig, asked: IpamConfig | None) -> bool:
    if asked is None:
        return not has.ip_range and not has.aux
    return (
        has.subnet == asked.subnet
        and has.ip_range == asked.ip_range
        and has.aux == asked.aux
        and asked.gateway in ("", has.gateway)
    )
