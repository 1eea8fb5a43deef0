"""What the engine's options say of networks: the default bridge's request, default address pools and options.  Pure.

    --bip 10.5.0.1/24 --fixed-cidr 10.5.0.128/25 --mtu 1400     ->  DefaultBridge, a request like that of any network
    --default-address-pool base=10.50.0.0/16,size=24            ->  ("10.50.0.0/16", 24)
    --default-network-opt bridge=mtu=1400                       ->  {"bridge": {"mtu": "1400"}}

Names, values and what excludes what are Docker's (moby, daemon/config); a wrong one keeps the engine from starting.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network

from ..drivers.bridge import parse_options
from ..ipam.request import check_request
from ..netlib import shaping
from ..netlib.driver import directions, load_driver
from ..netlib.errors import InvalidArgument, PynetError
from ..netlib.model import IpamConfig, NetworkRecord
from ..netlib.predefined import DefaultBridge
from .network_shapes import families

NO_BRIDGE = "none"
GATEWAYS = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}


def address_pools(texts: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """(base, size) of each ``base=CIDR,size=BITS``."""
    pools: list[tuple[str, int]] = []
    for text in texts:
        words = [word.strip().partition("=") for word in text.split(",")]
        fields = {name: value for name, _, value in words}
        if set(fields) != {"base", "size"} or not fields["size"].isascii() or not fields["size"].isdigit():
            raise InvalidArgument(
                f"invalid argument {text!r} for --default-address-pool", hint="write base=10.50.0.0/16,size=24"
            )
        pools.append((fields["base"], int(fields["size"])))
    return tuple(pools)


def network_opts(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """Driver to option to value, of each ``DRIVER=OPTION=VALUE``; InvalidArgument when the driver would refuse them."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        driver, _, option = text.partition("=")
        name, equals, value = option.partition("=")
        if not (driver and name and equals):
            raise InvalidArgument(
                f"invalid argument {text!r} for --default-network-opt",
                hint="write bridge=com.docker.network.driver.mtu=1400",
            )
        found.setdefault(driver, {})[name] = value
    for driver, options in found.items():
        try:
            _check_options(driver, options)
        except PynetError as error:
            raise InvalidArgument(f"--default-network-opt for {driver}: {error}", hint=error.hint) from None
    return found


def _check_options(name: str, options: dict[str, str]) -> None:
    """As the network with the fewest contradictions would be judged: an internal one, where each gateway mode is possible."""
    driver = load_driver(name)
    record = NetworkRecord(id="0" * 64, name="default", driver=name, created=0.0, internal=True, options=options)
    driver.validate(record)
    shaping.check(record, {}, directions(driver))
    families(options)


def default_bridge(options: Namespace) -> DefaultBridge | None:
    """The request for the network ``bridge``; None when there is to be none."""
    name = options.bridge or ""
    if name and (options.bip or options.bip6):
        raise InvalidArgument(
            "You specified -b & --bip, mutually exclusive options. Please specify only one",
            hint="an existing bridge keeps its own addresses: leave --bip out",
        )
    if name == NO_BRIDGE:
        return None
    texts = {
        "com.docker.network.bridge.name": name,
        "com.docker.network.driver.mtu": options.mtu or "",
        "com.docker.network.bridge.host_binding_ipv4": options.ip or "",
        "com.docker.network.bridge.enable_icc": options.icc or "",
        "com.docker.network.bridge.enable_ip_masquerade": options.ip_masq or "",
    }
    four = _subnet(4, options.bip, options.fixed_cidr, options.default_gateway)
    six = _subnet(6, options.bip6, options.fixed_cidr_v6, options.default_gateway_v6)
    bridge = DefaultBridge(
        ipam=tuple(config for config in (four, six) if config is not None),
        ipv6=_switch("--ipv6", options.ipv6) or six is not None,
        options={key: text for key, text in texts.items() if text},
    )
    check_request(bridge.ipam)
    parse_options(bridge.options)
    return bridge


def _subnet(version: int, bip: str | None, fixed: str | None, gateway: str | None) -> IpamConfig | None:
    if not (bip or fixed or gateway):
        return None
    suffix = "" if version == 4 else "-v6"
    if gateway and not (bip or fixed):
        raise InvalidArgument(
            f"--default-gateway{suffix} needs a subnet that it is part of",
            hint=f"give --bip{'' if version == 4 else '6'} or --fixed-cidr{suffix} as well",
        )
    try:
        subnet = ip_interface(bip).network if bip else ip_network(fixed or "")
        own = str(ip_interface(bip).ip) if bip else ""
        within = str(ip_network(fixed)) if fixed else ""
        if subnet.version != version or (gateway and ip_address(gateway).version != version):
            raise ValueError(f"not IPv{version}")
    except ValueError as error:
        raise InvalidArgument(f"invalid CIDR address or address of the default bridge: {error}") from None
    if within and not ip_network(within).subnet_of(subnet):  # type: ignore[arg-type]
        raise InvalidArgument(
            f"container subnet must be a subset of bridge network: {within} is no part of {subnet}",
            hint=f"give --fixed-cidr{suffix} a part of the bridge's subnet",
        )
    if gateway and ip_address(gateway) not in subnet:
        raise InvalidArgument("default gateway ip must be part of the network", hint=f"choose an address of {subnet}")
    if own == str(subnet.network_address) and subnet.num_addresses > 2:
        raise InvalidArgument(
            f"--bip{'' if version == 4 else '6'} {bip} is no address of a host",
            hint=f"write for example {subnet[1]}/{subnet.prefixlen}",
        )
    return IpamConfig(
        subnet=str(subnet),
        ip_range=within if within != str(subnet) else "",
        gateway=own,
        aux={GATEWAYS[version]: gateway} if gateway else {},
    )


def _switch(name: str, text: str | None) -> bool:
    if text is None or text.lower() in ("0", "f", "false"):
        return False
    if text.lower() in ("1", "t", "true"):
        return True
    raise InvalidArgument(f"invalid argument {text!r} for {name}: not true or false")


def unmet(problem: Exception | None = None) -> str:
    """What ``info`` says when the default bridge is not as the options ask."""
    if problem is not None:
        return f"the network bridge is not as the engine's options say: {problem}"
    return (
        "the network bridge is not as the engine's options say: containers are joined to it; stop them, and start the "
        "engine again"
    )
