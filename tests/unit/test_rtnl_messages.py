"""rtnetlink messages as values.  pyroute2's decoder, which nobody here wrote, reads what we build."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pynet.netlib.errors import InvalidArgument
from pynet.netlib.kernel import rtnl_links, rtnl_routes
from pynet.netlib.kernel.netlink import Message, attribute, attributes
from pynet.netlib.kernel.rtnl_routes import RouteInfo


def decoded(message: Message, decoder: Any) -> Any:
    header = struct.pack("=IHHII", 16 + len(message.body), message.type, message.flags, 1, 0)
    found = decoder(header + message.body)
    found.decode()
    return found


def test_a_veth_message() -> None:
    message = rtnl_links.new_veth(
        "pv1", "eth0", netns_fd=7, mac="02:42:0a:00:00:02", host_mac="02:42:0a:00:00:03", mtu=1400, master=5, group=99
    )
    found = decoded(message, ifinfmsg)
    assert found.get_attr("IFLA_IFNAME") == "pv1"
    assert found.get_attr("IFLA_ADDRESS") == "02:42:0a:00:00:03"
    assert (found.get_attr("IFLA_MTU"), found.get_attr("IFLA_MASTER"), found.get_attr("IFLA_GROUP")) == (1400, 5, 99)
    assert (found["flags"], found["change"]) == (1, 1)
    info = found.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_ADDRESS") == "02:42:0a:00:00:02"
    assert (peer.get_attr("IFLA_NET_NS_FD"), peer.get_attr("IFLA_MTU"), peer["flags"]) == (7, 1400, 0)


def test_only_what_is_given_is_changed() -> None:
    found = decoded(rtnl_links.change_link(4, mtu=1300), ifinfmsg)
    assert [name for name, _value in found["attrs"]] == ["IFLA_MTU"]
    assert (found["index"], found["flags"], found["change"]) == (4, 0, 0)
    found = decoded(rtnl_links.change_link(4, up=False, master=0), ifinfmsg)
    assert (found["flags"], found["change"], found.get_attr("IFLA_MASTER")) == (0, 1, 0)


@pytest.mark.parametrize(
    ("address", "prefix", "flags"), [("10.0.0.2", 24, 0), ("fd00::2", 64, rtnl_routes.IFA_F_NODAD)]
)
def test_an_address_message(address: str, prefix: int, flags: int) -> None:
    found = decoded(rtnl_routes.new_address(3, address, prefix), ifaddrmsg)
    assert (found.get_attr("IFA_LOCAL"), found["prefixlen"], found["index"]) == (address, prefix, 3)
    assert found["flags"] == flags


def test_a_route_message() -> None:
    route = RouteInfo(
        "10.1.0.0/16", gateway="10.0.0.1", device=3, metric=50, source="10.0.0.2", onlink=True, table=1000
    )
    found = decoded(rtnl_routes.new_route(route), rtmsg)
    assert (found.get_attr("RTA_DST"), found["dst_len"], found.get_attr("RTA_GATEWAY")) == ("10.1.0.0", 16, "10.0.0.1")
    assert (found.get_attr("RTA_OIF"), found.get_attr("RTA_PRIORITY")) == (3, 50)
    assert (found.get_attr("RTA_PREFSRC"), found.get_attr("RTA_TABLE"), found["flags"]) == ("10.0.0.2", 1000, 4)


@pytest.mark.parametrize(
    ("route", "scope"),
    [(RouteInfo("10.1.0.0/16", device=3), 253), (RouteInfo("10.1.0.0/16", gateway="10.0.0.1"), 0)],
)
def test_a_route_without_gateway_has_link_scope(route: RouteInfo, scope: int) -> None:
    assert decoded(rtnl_routes.new_route(route), rtmsg)["scope"] == scope


@given(
    st.builds(
        RouteInfo,
        destination=st.sampled_from(["10.1.0.0/16", "192.0.2.7/32", "default"]),
        gateway=st.sampled_from(["", "10.0.0.1"]),
        device=st.integers(0, 2**31),
        metric=st.integers(0, 2**32 - 1),
        onlink=st.booleans(),
        table=st.integers(1, 2**32 - 1),
        version=st.just(4),
    )
)
def test_a_route_is_read_as_it_was_written(route: RouteInfo) -> None:
    assert rtnl_routes.read_route(rtnl_routes.new_route(route).body) == route


@pytest.mark.parametrize("table", [1, 254, 255, 256, 257, 2**32 - 1])
def test_a_table_that_a_byte_does_not_hold_has_an_attribute(table: int) -> None:
    message = rtnl_routes.new_route(RouteInfo("10.1.0.0/16", gateway="10.0.0.1", table=table))
    found = decoded(message, rtmsg)
    assert (found.get_attr("RTA_TABLE") or found["table"]) == table
    assert rtnl_routes.read_route(message.body) == RouteInfo("10.1.0.0/16", gateway="10.0.0.1", table=table, version=4)


def test_a_cached_exception_is_no_route() -> None:
    body = bytearray(rtnl_routes.new_route(RouteInfo("10.1.0.0/16", gateway="10.0.0.1")).body)
    assert rtnl_routes.read_route(bytes(body)) is not None
    body[8:12] = struct.pack("=I", rtnl_routes.RTM_F_CLONED)
    assert rtnl_routes.read_route(bytes(body)) is None


@pytest.mark.parametrize(
    ("route", "family"),
    [
        (RouteInfo(), socket.AF_INET),
        (RouteInfo(version=6), socket.AF_INET6),
        (RouteInfo(gateway="fd00::1"), socket.AF_INET6),
        (RouteInfo("fd00::/8"), socket.AF_INET6),
        (RouteInfo("10.0.0.0/8"), socket.AF_INET),
    ],
)
def test_the_family_of_a_route(route: RouteInfo, family: int) -> None:
    assert route.family == family


@pytest.mark.parametrize(
    "route",
    [
        RouteInfo("10.0.0.0/33"),
        RouteInfo("10.0.0.0/x"),
        RouteInfo("10.0.0.0/"),
        RouteInfo("10.0.0/8"),
        RouteInfo("fd00::/8", gateway="10.0.0.1"),
        RouteInfo("10.0.0.0/8", gateway="10.0.0.1", source="fd00::1"),
        RouteInfo(gateway="nowhere"),
    ],
)
def test_routes_that_are_none(route: RouteInfo) -> None:
    with pytest.raises(InvalidArgument):
        rtnl_routes.new_route(route)


@pytest.mark.parametrize(("address", "prefix"), [("10.0.0.1", 33), ("fd00::1", 129), ("10.0.0.1", -1), ("10.0.0", 8)])
def test_addresses_that_are_none(address: str, prefix: int) -> None:
    with pytest.raises(InvalidArgument):
        rtnl_routes.new_address(1, address, prefix)


@pytest.mark.parametrize("mac", ["x", "02:42:0a:00:00", "02:42:0a:00:00:002", "02:42:0a:00:00:gg", "02420a000002"])
def test_macs_that_are_none(mac: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid MAC"):
        rtnl_links.change_link(1, mac=mac)


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_are_read_as_they_were_written(values: dict[int, bytes]) -> None:
    assert attributes(b"".join(attribute(kind, data) for kind, data in values.items())) == values


@given(st.binary(max_size=200))
def test_attributes_of_anything_are_within_it(data: bytes) -> None:
    assert sum(4 + len(value) for value in attributes(data).values()) <= len(data)
