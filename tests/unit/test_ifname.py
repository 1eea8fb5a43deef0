"""The one grammar of interface names, and that everybody who takes one asks it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.drivers.bridge import parse_options
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.firewall.intents import NetworkRules, PortRule, check_network, check_port
from pynet.netlib.ifname import check_ifname, is_ifname
from pynet.netlib.kernel import rtnl_links


@given(st.text(max_size=20))
def test_no_interface_name_means_more_than_itself(name: str) -> None:
    if is_ifname(name):
        assert not set(name) & set(" \"'{};$*+!/:%\\\n\t#\0")
        assert 0 < len(name.encode()) < 16
        assert check_ifname(name) == name
    else:
        with pytest.raises(InvalidArgument, match="invalid interface name"):
            check_ifname(name)


ASKED: dict[str, Callable[[str], object]] = {
    "bridge": lambda name: parse_options({"com.docker.network.bridge.name": name}),
    "prefix": lambda name: parse_options({"ifname_prefix": name}),
    "rules": lambda name: check_network(NetworkRules(name)),
    "port": lambda name: check_port(PortRule("tcp", "", 80, "10.0.0.2", 80, name)),
    "link": rtnl_links.new_bridge,
    "veth": lambda name: rtnl_links.new_veth(name, "eth0", netns_fd=-1),
    "peer": lambda name: rtnl_links.new_veth("pv1", name, netns_fd=-1),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", ["", "a" * 16, "\u00e9", "pb+", "pb*", "eth%d", "a/b", "a:b", "a b", "a\n", "a\0"])
def test_everybody_refuses_the_same_names(asked: str, name: str) -> None:
    with pytest.raises(InvalidArgument):
        ASKED[asked](name)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", [".", "..", "all", "default"])
def test_a_name_that_stands_for_every_interface_is_nobodys(asked: str, name: str) -> None:
    """net.ipv6.conf.all is the whole host: a bridge of that name would write it."""
    with pytest.raises(InvalidArgument):
        ASKED[asked](name)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", ["a", "br-0123456789a", "eth0.100", "wlan_0", "if@2"])
def test_everybody_takes_the_same_names(asked: str, name: str) -> None:
    ASKED[asked](name)


def test_a_prefix_leaves_room_for_a_number() -> None:
    parse_options({"ifname_prefix": "a" * 14})
    with pytest.raises(InvalidArgument, match="not an interface name"):
        parse_options({"ifname_prefix": "a" * 15})
