"""Bridge driver: a Linux bridge per network, a veth pair per endpoint.

    host namespace                              sandbox namespace
    pb<network> ---- pv<endpoint> ============= eth0
       |  gateway address                          address, default route
       '-- NAT: masquerade out, published ports in; isolation between bridges

The peer is born in the sandbox and addressed before the host end is ready, so a container never sees a carrier on a link
that has no address.  Everything here is a decision from records (netlib/model.py); the applier acts.

Options are Docker's (``com.docker.network.bridge.*``), so compose files and scripts work as they are, and each has a short form
("mtu", "icc", ...).  An option that nobody knows is an error: a misspelt one would otherwise be silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from ..netlib.driver import Joined, Publishing, Reserved
from ..netlib.errors import Forbidden, InvalidArgument
from ..netlib.firewall.intents import Mode, NetworkRules, PortRule
from ..netlib.gateway import subnet_of
from ..netlib.instance import bridge_name, veth_name
from ..netlib.kinds.bridge import Bridge
from ..netlib.kinds.resource import Resource
from ..netlib.kinds.route import Route
from ..netlib.kinds.rules import NetworkFirewall, PortForwards
from ..netlib.kinds.sysctl import FORWARDING6, Sysctl
from ..netlib.kinds.veth import Veth
from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord
from ..netlib.shaping import is_option as is_rate_limit
from .options import boolean, interface, mtu

DEFAULT_MTU = 1500
GATEWAY_OF = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}
"""Auxiliary addresses that are the containers' next hop, in place of the bridge's own (Docker's names)."""
GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    bridge: str = ""
    """Interface name; "" is made from the network's id."""
    mtu: int = DEFAULT_MTU
    icc: bool = True
    """Whether containers of the network may talk to each other."""
    masquerade: bool = True
    host_binding: str = ""
    """Host address of published ports that name none."""
    inhibit_ipv4: bool = False
    """No IPv4 address on the bridge."""
    source: str = ""
    """IPv4 address that outgoing connections come from (SNAT in place of masquerading)."""
    source6: str = ""
    gateway_mode: str = "nat"
    """One of GATEWAY_MODES, for IPv4."""
    gateway_mode6: str = "nat"
    trusted: tuple[str, ...] = ()
    """Host interfaces from which published ports are reached at the container's own address."""
    ifname_prefix: str = "eth"
    hairpin: bool = True

    def mode(self, version: int) -> str:
        return self.gateway_mode6 if version == 6 else self.gateway_mode


def _mtu(text: str) -> int:
    return mtu(text) or DEFAULT_MTU


def _interfaces(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(interface(name) for name in text.split(":") if name))


def _gateway_mode(text: str) -> str:
    if text not in GATEWAY_MODES:
        raise ValueError(f"unknown gateway mode {text}")
    return text


def _interface_prefix(text: str) -> str:
    interface(text + "0")
    return interface(text)


def _address(version: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        address = ip_address(text)
        if address.version != version:
            raise ValueError(f"not an IPv{version} address")
        return str(address)

    return parse


def _any_address(text: str) -> str:
    return str(ip_address(text))


_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "com.docker.network.bridge.name": ("bridge", interface),
    "com.docker.network.driver.mtu": ("mtu", _mtu),
    "com.docker.network.bridge.enable_icc": ("icc", boolean),
    "com.docker.network.bridge.enable_ip_masquerade": ("masquerade", boolean),
    "com.docker.network.bridge.host_binding_ipv4": ("host_binding", _any_address),
    "com.docker.network.bridge.inhibit_ipv4": ("inhibit_ipv4", boolean),
    "com.docker.network.host_ipv4": ("source", _address(4)),
    "com.docker.network.host_ipv6": ("source6", _address(6)),
    "com.docker.network.bridge.gateway_mode_ipv4": ("gateway_mode", _gateway_mode),
    "com.docker.network.bridge.gateway_mode_ipv6": ("gateway_mode6", _gateway_mode),
    "com.docker.network.bridge.trusted_host_interfaces": ("trusted", _interfaces),
    "com.docker.network.container_iface_prefix": ("ifname_prefix", _interface_prefix),
}
_SHORT = {field: option for option, (field, _) in _OPTIONS.items()} | {"hairpin": "hairpin"}
_OPTIONS["hairpin"] = ("hairpin", boolean)
_IGNORED = {
    "com.docker.network.bridge.default_bridge",
    "com.docker.network.enable_ipv4",
    "com.docker.network.enable_ipv6",
}
"""Say what the record says already."""


def parse_options(options: Mapping[str, str]) -> BridgeOptions:
    """Options to values; InvalidArgument names the option, what is wrong with it and what is known."""
    return _parse(tuple(options.items()))


@lru_cache(maxsize=1024)  # asked for a dozen times in a join
def _parse(options: tuple[tuple[str, str], ...]) -> BridgeOptions:
    values: dict[str, Any] = {}
    for name, text in options:
        if name in _IGNORED or is_rate_limit(name):
            continue  # of the latter the library takes care
        known = _OPTIONS.get(_SHORT.get(name, name))
        if known is None:
            raise InvalidArgument(
                f"unknown option {name} for the bridge driver", hint="it takes " + ", ".join(sorted(_SHORT))
            )
        field, parse = known
        try:
            values[field] = parse(text)
        except ValueError as error:
            raise InvalidArgument(f"invalid value {text!r} for option {name}: {error}") from error
    return BridgeOptions(**values)


def bridge_mac(network: NetworkRecord) -> str:
    """A locally administered address made from the id, so that a re-created bridge keeps its neighbours' ARP entries."""
    digits = network.id[:10]
    return "02:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))


class BridgeDriver:
    name = "bridge"
    scope = "local"
    ipam = "default"
    singleton = False
    shapes = frozenset({"in", "out"})
    short_names = _SHORT
    own_mac = True

    def validate(self, network: NetworkRecord) -> None:
        options = parse_options(network.options)
        if "isolated" in (options.gateway_mode, options.gateway_mode6) and not network.internal:
            raise InvalidArgument(
                "gateway mode 'isolated' can only be used for an internal network", hint="make it --internal"
            )

    def reserves(self, network: NetworkRecord) -> Reserved:
        options = parse_options(network.options)
        families = [version for version, has in ((4, network.ipv4), (6, network.ipv6)) if has]
        return Reserved(gateway=any(options.mode(version) != "isolated" for version in families))

    def network_plan(self, network: NetworkRecord) -> Iterable[Resource]:
        options = parse_options(network.options)
        bridge = self.bridge(network)
        addresses = [
            f"{config.gateway}/{config.prefix}"
            for config in network.ipam
            if config.gateway
            and options.mode(config.version) != "isolated"
            and not (config.version == 4 and options.inhibit_ipv4)
        ]
        if not network.internal:
            yield Sysctl(("net", "ipv4", "ip_forward"), "1")
            if network.subnets(6):
                yield Sysctl(FORWARDING6, "1")
        yield Bridge(name=bridge, mtu=options.mtu, mac=bridge_mac(network), addresses=tuple(addresses))
        # a container that may send raw packets must not give this host addresses and routes (CVE-2020-13401)
        yield Sysctl(("net", "ipv6", "conf", bridge, "accept_ra"), "0", optional=not network.subnets(6))
        if options.gateway_mode6 == "isolated":  # not even a link-local address
            yield Sysctl(("net", "ipv6", "conf", bridge, "disable_ipv6"), "1", optional=True)
        yield NetworkFirewall(self.rules(network))

    def rules(self, network: NetworkRecord) -> NetworkRules:
        options = parse_options(network.options)
        return NetworkRules(
            bridge=self.bridge(network),
            subnets=tuple(config.subnet for config in network.ipam),
            internal=network.internal,
            masquerade=options.masquerade and not network.internal,
            icc=options.icc,
            source=tuple(source for source in (options.source, options.source6) if source),
            mode4=_firewall_mode(options.gateway_mode),
            mode6=_firewall_mode(options.gateway_mode6),
            trusted=options.trusted,
        )

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> Joined:
        if not sandbox.path:
            raise Forbidden("a sandbox in the host's namespace can not join a bridge network")
        prefix = parse_options(network.options).ifname_prefix
        if network.internal:
            return Joined(prefix)
        return Joined(prefix, _hop(network, endpoint.address), _hop(network, endpoint.address6))

    def endpoint_plan(
        self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> Iterable[Resource]:
        options = parse_options(network.options)
        yield Veth(
            host=veth_name(endpoint.id),
            ifname=endpoint.ifname,
            netns=sandbox.path,
            mac=endpoint.mac,
            mtu=options.mtu,
            bridge=self.bridge(network),
            addresses=endpoint.addresses,
            hairpin=options.hairpin,
            isolated=not options.icc,
        )
        if not options.icc:
            yield from self._links(network, endpoint, sandbox)

    def _links(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> Iterable[Resource]:
        """The ways to those that it is linked with.  Ports of the bridge that are apart pass nothing to each other whatever the
        firewall says, so the packets take the way through the host, which forwards them."""
        rules: list[PortRule] = []
        for link in endpoint.links:
            for own, other in ((endpoint.ip, link.address), (endpoint.ip6, link.address6)):
                config = subnet_of(network.ipam, own) if own and other else None
                if config is None or not config.gateway:
                    continue
                bits = 32 if config.version == 4 else 128
                yield Route(sandbox.path, endpoint.ifname, config.gateway, f"{other}/{bits}")
                for text in link.ports:
                    port, _, proto = text.partition("/")
                    rules.append(PortRule(proto, "", 0, other, int(port), self.bridge(network), own))
        if rules:
            yield PortForwards(sandbox.id, tuple(dict.fromkeys(rules)), linked=True)
        if any(link.address6 for link in endpoint.links):
            # the host tells of the shorter way (RFC 4861 8), which is none
            path = ("net", "ipv6", "conf", endpoint.ifname, "accept_redirects")
            yield Sysctl(path, "0", netns=sandbox.path, optional=True)

    def publishing(self, network: NetworkRecord, endpoint: EndpointRecord) -> Publishing | None:
        if network.internal:
            return None
        options = parse_options(network.options)
        routed = frozenset(version for version in (4, 6) if options.mode(version) == "routed")
        return Publishing(self.bridge(network), options.host_binding, routed, trusting=bool(options.trusted))

    def bridge(self, network: NetworkRecord) -> str:
        """Name of its interface."""
        return parse_options(network.options).bridge or bridge_name(network.id)

    def operinfo(self, network: NetworkRecord, endpoint: EndpointRecord) -> Mapping[str, Any]:
        return {"com.docker.network.endpoint.macaddress": endpoint.mac} if endpoint.mac else {}


def _firewall_mode(mode: str) -> Mode:
    """An isolated network is internal: nothing comes in or goes out, whatever the gateway would do."""
    match mode:
        case "routed" | "nat-unprotected":
            return mode
        case _:
            return "nat"


def _hop(network: NetworkRecord, address: str) -> str:
    """The next hop of the subnet that an endpoint's address is of."""
    config = subnet_of(network.ipam, address)
    return config.aux.get(GATEWAY_OF[config.version], config.gateway) if config is not None else ""
