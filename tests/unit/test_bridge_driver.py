"""The bridge driver's decisions: options, plans, conflicts.  No kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pynet.drivers.bridge import BridgeDriver, bridge_mac, parse_options
from pynet.netlib.errors import Forbidden, InvalidArgument
from pynet.netlib.model import EndpointRecord, IpamConfig, NetworkRecord, SandboxRecord
from pynet.netlib.resources import Bridge, NetworkFirewall, Resource, Sysctl, Veth

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
    assert DRIVER.gateways(internal, ENDPOINT) == ("", "")
    assert veth_of(internal, ENDPOINT).gateways == ()


def test_only_the_gateway_endpoint_brings_the_default_route() -> None:
    assert veth_of(NETWORK, ENDPOINT).gateways == ("10.1.0.1",)
    assert veth_of(NETWORK, ENDPOINT, replace(SANDBOX, gateway="other")).gateways == ()


def test_ipv6_is_switched_on_for_endpoints_that_have_it() -> None:
    dual = replace(ENDPOINT, address6="fd00:1::2/64")
    plan = list(DRIVER.endpoint_plan(DUAL, dual, SANDBOX))
    assert sysctls(plan) == {("net", "ipv6", "conf", "default", "disable_ipv6")}
    assert sysctls(list(DRIVER.endpoint_plan(NETWORK, ENDPOINT, SANDBOX))) == set()
    assert veth_of(DUAL, dual, replace(SANDBOX, gateway6=dual.id)).gateways == ("10.1.0.1", "fd00:1::1")


def test_the_hosts_own_namespace_is_refused() -> None:
    with pytest.raises(Forbidden):
        list(DRIVER.endpoint_plan(NETWORK, ENDPOINT, replace(SANDBOX, path="")))


def test_conflicts() -> None:
    other = replace(NETWORK, id="ef" * 32, name="other", ipam=(IpamConfig("10.2.0.0/24"),))
    assert DRIVER.conflicts(NETWORK, other) == ""
    assert DRIVER.conflicts(NETWORK, replace(other, ipam=(IpamConfig("10.1.0.128/25"),))) == (
        "networks have overlapping IPv4"
    )
    named = {"com.docker.network.bridge.name": "br7"}
    assert DRIVER.conflicts(replace(NETWORK, options=named), replace(other, options=named)) == (
        "networks have same bridge name"
    )


def test_names_fit_the_kernels_limit() -> None:
    assert len(bridge_of(NETWORK).name) <= 15
    assert len(veth_of(NETWORK, ENDPOINT).host) <= 15
