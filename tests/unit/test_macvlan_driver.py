"""The macvlan and ipvlan drivers' decisions, and the messages that come of them.  No kernel."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from pynet.drivers.ipvlan import IpvlanDriver
from pynet.drivers.macvlan import MacvlanDriver
from pynet.drivers.parented import ParentedDriver
from pynet.ipam.defaults import default_pools
from pynet.ipam.driver import Wanted
from pynet.netlib.addressing import Addressing
from pynet.netlib.driver import Joined, Reserved
from pynet.netlib.errors import Forbidden, InvalidArgument
from pynet.netlib.kernel import stacked
from pynet.netlib.kernel.netlink import Message
from pynet.netlib.kinds.bridge import Bridge
from pynet.netlib.kinds.host_access import HostLink, HostRoute
from pynet.netlib.kinds.ipvlan import Ipvlan
from pynet.netlib.kinds.macvlan import Macvlan
from pynet.netlib.kinds.parent import Parent, Vlan
from pynet.netlib.kinds.route import Route
from pynet.netlib.model import EndpointRecord, IpamConfig, NetworkRecord, SandboxRecord

MACVLAN, IPVLAN = MacvlanDriver(), IpvlanDriver()
NETWORK = NetworkRecord(
    id="ab" * 32,
    name="lan",
    driver="macvlan",
    created=0.0,
    ipam=(
        IpamConfig("10.1.0.0/24", gateway="10.1.0.254", aux={"host": "10.1.0.9"}),
        IpamConfig("fd00:1::/64", gateway="fd00:1::1"),
    ),
    options={"parent": "eth0"},
)
ENDPOINT = EndpointRecord(
    id="cd" * 32,
    name="a",
    network=NETWORK.id,
    mac="02:42:0a:01:00:02",
    address="10.1.0.2/24",
    address6="fd00:1::2/64",
    ifname="eth0",
    sandbox="s",
)
SANDBOX = SandboxRecord("s", "/run/pynet/netns/s", gateway=ENDPOINT.id)


def with_options(**options: str) -> NetworkRecord:
    return replace(NETWORK, options=options)


@pytest.mark.parametrize(("options", "first"), [({"parent": "eth0"}, "10.1.0.2/24"), ({}, "10.1.0.1/24")])
def test_the_routers_customary_address_is_spared_on_a_wire_and_after_a_restart(
    options: dict[str, str], first: str
) -> None:
    network = replace(NETWORK, ipam=(), options=options, ipam_driver="default")
    reserved = MACVLAN.reserves(network)
    before, after = Addressing(default_pools("00")), Addressing(default_pools("00"))
    opened = before.open(network, [IpamConfig("10.1.0.0/24")], lambda version: (), reserved)
    assert before.lease(network, Wanted("a")).address == first
    after.restore(replace(network, ipam=opened), [], reserved)
    assert after.lease(network, Wanted("a")).address == first


@pytest.mark.parametrize("driver", [MACVLAN, IPVLAN], ids=lambda driver: driver.name)
def test_the_gateway_is_the_users_or_none(driver: ParentedDriver) -> None:
    assert driver.reserves(NETWORK) == Reserved(gateway=False, shared_wire=True)
    assert driver.join(NETWORK, ENDPOINT, SANDBOX) == Joined(gateway="10.1.0.254", gateway6="fd00:1::1")
    without = replace(NETWORK, ipam=(IpamConfig("10.1.0.0/24"), NETWORK.ipam[1]))
    assert driver.join(without, ENDPOINT, SANDBOX) == Joined(gateway6="fd00:1::1")
    assert driver.join(replace(NETWORK, internal=True), ENDPOINT, SANDBOX) == Joined()
    assert driver.join(with_options(), ENDPOINT, SANDBOX) == Joined(), "nobody is behind a parent of our own"
    with pytest.raises(Forbidden, match=f"host's namespace can not join a {driver.name} network"):
        driver.join(NETWORK, ENDPOINT, SandboxRecord("s", ""))
    assert driver.publishing(NETWORK, ENDPOINT) is None


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_in_ipvlans_l3_everything_is_reached_through_the_interface(mode: str) -> None:
    joined = IPVLAN.join(with_options(parent="eth0", ipvlan_mode=mode), ENDPOINT, SANDBOX)
    assert (joined.gateway, joined.gateway6) == ("0.0.0.0", "::")
    for gateway, version in ((joined.gateway, 4), (joined.gateway6, 6)):
        route = Route(SANDBOX.path, "eth0", gateway)
        assert (route.hop, route.version, route.details) == ("", version, "eth0")
        assert route.key == ("route", SANDBOX.path, "default", str(version))


@pytest.mark.parametrize(
    ("parent", "plan"),
    [
        ("eth0", [Parent("eth0", "macvlan")]),
        ("eth0.10", [Vlan("eth0.10", "eth0", 10), Parent("eth0.10", "macvlan")]),
        ("eth0.1.20", [Vlan("eth0.1.20", "eth0.1", 20), Parent("eth0.1.20", "macvlan")]),
        ("eth0.4094", [Vlan("eth0.4094", "eth0", 4094), Parent("eth0.4094", "macvlan")]),
        ("eth0.4095", [Parent("eth0.4095", "macvlan")]),
        ("eth0.0", [Parent("eth0.0", "macvlan")]),
        ("wan.a", [Parent("wan.a", "macvlan")]),
    ],
)
def test_the_parents_name_says_what_is_made(parent: str, plan: list[object]) -> None:
    assert list(MACVLAN.network_plan(with_options(parent=parent))) == plan


@pytest.mark.parametrize("options", [{}, {"parent": ""}])
def test_without_a_parent_a_bridge_of_our_own_is_it(options: dict[str, str]) -> None:
    plan = list(MACVLAN.network_plan(replace(NETWORK, options=options)))
    (bridge,) = (one for one in plan if isinstance(one, Bridge))
    assert (bridge.name, bridge.mac, bridge.addresses) == ("pm" + "ab" * 6, "", ())
    assert plan[-1] == Parent(bridge.name, "macvlan")


def test_what_stands_alone_on_its_parent_and_what_does_not() -> None:
    def parent(driver: ParentedDriver, **options: str) -> Parent:
        record = with_options(parent="eth0", **options)
        return next(one for one in driver.network_plan(record) if isinstance(one, Parent))  # type: ignore[attr-defined]

    assert not parent(MACVLAN).exclusive and parent(MACVLAN).shared
    assert parent(MACVLAN, macvlan_mode="passthru").exclusive
    assert parent(IPVLAN).exclusive and not parent(IPVLAN).shared
    assert parent(MACVLAN).key == parent(IPVLAN).key, "the two kinds can not share one"


def test_host_access_is_an_interface_an_address_and_a_route_to_each_container() -> None:
    network = with_options(parent="eth0", host_access="true", mtu="1400")
    assert MACVLAN.reserves(network) == Reserved(gateway=False, auxiliary=("host",), shared_wire=True)
    link = next(one for one in MACVLAN.network_plan(network) if isinstance(one, HostLink))
    assert (link.name, link.parent, link.addresses, link.mtu) == ("ph" + "ab" * 6, "eth0", ("10.1.0.9",), 1400)
    plan = list(MACVLAN.endpoint_plan(network, ENDPOINT, SANDBOX))
    assert plan == [
        Macvlan("eth0", "eth0", SANDBOX.path, 1400, "bridge", ENDPOINT.addresses, ENDPOINT.mac),
        HostRoute(link.name, "10.1.0.2", "10.1.0.9"),  # and none from an address that the host has not
    ]
    assert plan[1].goes_with == (link.key,)


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        (
            MACVLAN,
            {"macvlan_mode": "nat"},
            "requested macvlan mode 'nat' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        (
            IPVLAN,
            {"ipvlan_mode": "l4"},
            "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver default",
        ),
        (
            IPVLAN,
            {"ipvlan_flag": "open"},
            "requested ipvlan flag 'open' is not valid, 'bridge' flag is the ipvlan driver default",
        ),
        (IPVLAN, {"macvlan_mode": "bridge"}, "unknown option macvlan_mode for the ipvlan driver"),
        (IPVLAN, {"host_access": "true"}, "unknown option host_access for the ipvlan driver"),
        (IPVLAN, {"parent": "lo"}, "loopback interface is not a valid ipvlan parent link"),
        (MACVLAN, {"mtu": "67"}, "invalid value '67' for option mtu: not between 68 and 65535"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(driver: ParentedDriver, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        driver.validate(replace(NETWORK, options=options))
    assert str(caught.value) == text
    assert caught.value.hint or "mtu" in options


def test_only_what_is_free_when_it_is_down_is_left_to_its_namespace() -> None:
    """ipvlan counts the addresses of links that are down (ipvlan_addr_busy), passthru its one link."""
    for options, free in (({}, True), ({"macvlan_mode": "vepa"}, True), ({"macvlan_mode": "passthru"}, False)):
        (child,) = MACVLAN.endpoint_plan(with_options(parent="eth0", **options), ENDPOINT, SANDBOX)
        assert isinstance(child, Macvlan)
        assert child.is_free_when_down is free
    (other,) = IPVLAN.endpoint_plan(NETWORK, ENDPOINT, SANDBOX)
    assert isinstance(other, Ipvlan)
    assert not other.is_free_when_down


def test_an_option_left_empty_is_the_default() -> None:
    network = with_options(parent="eth0", macvlan_mode="", **{"com.docker.network.driver.mtu": ""})
    MACVLAN.validate(network)
    (child,) = MACVLAN.endpoint_plan(network, ENDPOINT, SANDBOX)
    assert isinstance(child, Macvlan)
    assert (child.mode, child.mtu) == ("bridge", 0)


# -- messages: pyroute2's decoder reads what we build ------------------------------------------------------------------


def decoded(message: Message) -> Any:
    header = struct.pack("=IHHII", 16 + len(message.body), message.type, message.flags, 1, 0)
    found = ifinfmsg(header + message.body)
    found.decode()
    return found


@pytest.mark.parametrize(("mode", "number"), [("private", 1), ("vepa", 2), ("bridge", 4), ("passthru", 8)])
def test_a_macvlan_message(mode: str, number: int) -> None:
    child = Macvlan("eth0", "eth1", SANDBOX.path, 1400, mode, ENDPOINT.addresses, ENDPOINT.mac)
    message = child.message(parent=5, netns_fd=7, group=99)
    found = decoded(message)
    named = {
        name: found.get_attr(f"IFLA_{name}") for name in ("IFNAME", "LINK", "NET_NS_FD", "MTU", "GROUP", "ADDRESS")
    }
    assert named == {"IFNAME": "eth1", "LINK": 5, "NET_NS_FD": 7, "MTU": 1400, "GROUP": 99, "ADDRESS": ENDPOINT.mac}
    info = found.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "macvlan"
    mode_bytes = struct.pack("=I", number)
    assert message.body.endswith(struct.pack("=HH", 8, stacked.IFLA_MACVLAN_MODE) + mode_bytes)
    assert message.step == "add macvlan eth1"


@pytest.mark.parametrize(("mode", "number"), [("l2", 0), ("l3", 1), ("l3s", 2)])
@pytest.mark.parametrize(("flag", "bits"), [("bridge", 0), ("private", 1), ("vepa", 2)])
def test_an_ipvlan_message(mode: str, number: int, flag: str, bits: int) -> None:
    network = with_options(parent="eth0", ipvlan_mode=mode, ipvlan_flag=flag)
    (child,) = IPVLAN.endpoint_plan(network, ENDPOINT, SANDBOX)
    assert isinstance(child, Ipvlan)
    assert child.hardware == "", "it has its parent's"
    message = child.message(parent=5, netns_fd=7, group=99)
    found = decoded(message)
    assert (found.get_attr("IFLA_LINK"), found.get_attr("IFLA_NET_NS_FD"), found.get_attr("IFLA_GROUP")) == (5, 7, 99)
    assert found.get_attr("IFLA_ADDRESS") is None
    # linux/if_link.h: IFLA_IPVLAN_MODE 1, IFLA_IPVLAN_FLAGS 2, both u16, in an attribute padded to four bytes
    data = struct.pack("=HHHxx", 6, 1, number) + struct.pack("=HHHxx", 6, 2, bits)
    info = struct.pack("=HH", 4 + 7, 1) + b"ipvlan\0\0" + struct.pack("=HH", 4 + len(data), 2 | 0x8000) + data
    assert message.body.endswith(struct.pack("=HH", 4 + len(info), 18 | 0x8000) + info)


def test_a_vlan_message() -> None:
    message = stacked.new_vlan("eth0.10", 5, vid=10, group=99)
    found = decoded(message)
    assert (found.get_attr("IFLA_IFNAME"), found.get_attr("IFLA_LINK")) == ("eth0.10", 5)
    assert message.body.endswith(struct.pack("=HHHxx", 6, 1, 10))


def test_the_question_for_a_kind_names_no_parent() -> None:
    found = decoded(stacked.probe("ipvlan"))
    assert [name for name, _ in found["attrs"]] == ["IFLA_LINKINFO"]
