"""The networks that are there from the start: bridge, host, none; and what the first of them is like.

Their ids stay over restarts.  The default bridge is an ordinary network: what an engine's options say of it is a request like
any other (``DefaultBridge``), and it is made anew under its id when a later start asks for something else and nothing is
joined to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from .errors import InvalidArgument
from .kernel.rtnetlink import Rtnetlink
from .model import IpamConfig, NetworkRecord

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
