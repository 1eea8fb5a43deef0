"""The bridge driver's decisions: options, plans, conflicts.  No kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pynet.drivers.bridge import BridgeDriver, bridge_mac, parse_options
from pynet.netlib.driver import Joined
from pynet.netlib.errors import Forbidden, InvalidArgument
from pynet.netlib.kinds.bridge import Bridge
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.kinds.rules import NetworkFirewall
from pynet.netlib.kinds.sysctl import Sysctl
from pynet.netlib.kinds.veth import Veth
from pynet.netlib.model import EndpointRecord, IpamConfig, NetworkRecord, SandboxRecord

DRIVER = BridgeDriver()
NETWORK = NetworkRecord(
    id="ab" * 32, name="web", driver="bridge", created=0.0, ipam=(IpamConfig("10.1.0.0/24", gateway="10.1.0.1"),)
)
DUAL = replace(NETWORK, ipv6=True, ipam=(*NETWORK.ipam, IpamConfig("fd00:1::/64", gateway="fd00:1::1")))
ENDPOINT = EndpointRecord(
    id="cd" * 32,
    name="a",
    network=NETWORK.id,
    mac="02:42:0a:01:00:02",
    address="10.1.0.2/24",
    ifname="eth0",
    sandbox="s",
)
SANDBOX = SandboxRecord("s", "/run/pynet/netns/s", gateway=ENDPOINT.id)


def bridge_of(network: NetworkRecord) -> Bridge:
    return next(r for r in DRIVER.network_plan(network) if isinstance(r, Bridge))


def veth_of(network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord = SANDBOX) -> Veth:
    return next(r for r in DRIVER.endpoint_plan(network, endpoint, sandbox) if isinstance(r, Veth))


def sysctls(plan: list[Resource]) -> set[tuple[str, ...]]:
    return {r.path for r in plan if isinstance(r, Sysctl)}


def test_docker_names_short_names_and_go_booleans() -> None:
    options = parse_options(
        {
            "com.docker.network.bridge.name": "br7",
            "com.docker.network.bridge.enable_icc": "F",
            "masquerade": "false",
            "mtu": "9000",
            "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
            "com.docker.network.bridge.default_bridge": "true",
        }
    )
    assert (options.bridge, options.icc, options.masquerade, options.mtu) == ("br7", False, False, 9000)
    assert options.host_binding == "127.0.0.1"
    assert parse_options({"mtu": "0"}).mtu == 1500


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mtu", "67"),
        ("mtu", "x"),
        ("icc", "yes"),
        ("bridge", ""),
        ("bridge", "a/b"),
        ("bridge", "é" * 8),
        ("host_binding", "localhost"),
        ("source", "fd00::1"),
        ("source6", "10.0.0.1"),
        ("colour", "red"),
        ("gateway_mode", "bridged"),
        ("com.docker.network.bridge.gateway_mode_ipv6", ""),
        ("trusted", "eth0:a/b"),
    ],
)
def test_a_bad_option_names_itself(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        parse_options({name: value})


def test_a_network_is_forwarding_a_bridge_and_rules() -> None:
    plan = list(DRIVER.network_plan(NETWORK))
    assert [type(r) for r in plan] == [Sysctl, Bridge, Sysctl, NetworkFirewall]
    assert bridge_of(NETWORK) == Bridge("pb" + "ab" * 6, 1500, bridge_mac(NETWORK), ("10.1.0.1/24",))
    assert bridge_of(DUAL).addresses == ("10.1.0.1/24", "fd00:1::1/64")
    assert ("net", "ipv6", "conf", "all", "forwarding") in sysctls(list(DRIVER.network_plan(DUAL)))


def test_an_internal_network_neither_forwards_nor_masquerades_nor_routes() -> None:
    internal = replace(NETWORK, internal=True)
    plan = list(DRIVER.network_plan(internal))
    assert not any(path[-1] in ("ip_forward", "forwarding") for path in sysctls(plan))
    rules = next(r.rules for r in plan if isinstance(r, NetworkFirewall))
    assert (rules.internal, rules.masquerade) == (True, False)
    assert DRIVER.join(internal, ENDPOINT, SANDBOX) == Joined()
    assert DRIVER.publishing(internal, ENDPOINT) is None


def test_an_endpoint_offers_the_gateway_of_its_own_subnet() -> None:
    several = replace(DUAL, ipam=(*DUAL.ipam, IpamConfig("10.2.0.0/24", gateway="10.2.0.9")))
    assert DRIVER.join(several, ENDPOINT, SANDBOX) == Joined(gateway="10.1.0.1")
    second = replace(ENDPOINT, address="10.2.0.5/24", address6="fd00:1::2/64")
    assert DRIVER.join(several, second, SANDBOX) == Joined(gateway="10.2.0.9", gateway6="fd00:1::1")


def test_the_hosts_own_namespace_is_refused() -> None:
    with pytest.raises(Forbidden):
        DRIVER.join(NETWORK, ENDPOINT, replace(SANDBOX, path=""))


def test_an_inhibited_ipv4_gateway_leaves_the_ipv6_one() -> None:
    inhibited = replace(DUAL, options={"com.docker.network.bridge.inhibit_ipv4": "true"})
    assert bridge_of(inhibited).addresses == ("fd00:1::1/64",)


def test_gateway_modes_are_a_familys() -> None:
    options = {"com.docker.network.bridge.gateway_mode_ipv6": "routed", "trusted": "eth1:wg0:eth1"}
    network = replace(DUAL, options=options)
    DRIVER.validate(network)
    rules = DRIVER.rules(network)
    assert (rules.mode4, rules.mode6, rules.trusted) == ("nat", "routed", ("eth1", "wg0"))
    publishing = DRIVER.publishing(network, ENDPOINT)
    assert publishing is not None
    assert (publishing.routed, publishing.trusting) == (frozenset({6}), True)
    with pytest.raises(InvalidArgument, match="unknown gateway mode bridged"):
        parse_options({"gateway_mode": "bridged"})


@pytest.mark.parametrize("version", [4, 6])
def test_an_isolated_network_is_internal_and_has_no_address_on_the_bridge(version: int) -> None:
    options = {f"com.docker.network.bridge.gateway_mode_ipv{version}": "isolated"}
    with pytest.raises(InvalidArgument, match=r"^gateway mode 'isolated' can only be used for an internal network$"):
        DRIVER.validate(replace(DUAL, options=options))
    network = replace(DUAL, internal=True, options=options)
    DRIVER.validate(network)
    assert bridge_of(network).addresses == (("fd00:1::1/64",) if version == 4 else ("10.1.0.1/24",))
    assert DRIVER.reserves(network).gateway, "the other family has one"
    assert DRIVER.reserves(replace(network, ipv4=version == 4, ipv6=version == 6)).gateway is False
    disabled = ("net", "ipv6", "conf", bridge_of(network).name, "disable_ipv6")
    assert (disabled in sysctls(list(DRIVER.network_plan(network)))) == (version == 6)
    assert DRIVER.rules(network).internal


def test_names_fit_the_kernels_limit() -> None:
    assert len(bridge_of(NETWORK).name) <= 15
    assert len(veth_of(NETWORK, ENDPOINT).host) <= 15
