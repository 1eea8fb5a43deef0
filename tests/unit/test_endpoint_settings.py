"""What a request may choose of a container's place on a network, what the command line makes of it, and its hosts file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.cli.options import container_config as body_of
from pynet.cli.options import declare, gather, parse_network
from pynet.cli.parser import Parser
from pynet.cli.units import BadOption
from pynet.engine.container.endpoints import check_settings, endpoint_settings, parse_link, requested_networks, sysctls
from pynet.engine.container.etc_render import follow, merge
from pynet.netlib.decisions import decide_link_local, decide_sysctls
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.model import EndpointRecord, IpamConfig, NetworkRecord


def created(*words: str) -> dict[str, Any]:
    parser = Parser("create", "")
    declare(parser)
    args = parser.parse([*words, "busybox"])
    assert args is not None
    return body_of(gather(args, {}))


def test_the_long_form_of_a_network() -> None:
    name, settings = parse_network(
        'name=n,alias=a,alias=b,ip=10.1.0.2,ip6=fd00::2,link-local-ip=169.254.0.7,mac-address=02:00:00:00:00:01,'
        '"driver-opt=x=1,2",driver-opt=y=a=b,gw-priority=-3,link=db:store'
    )  # fmt: skip
    assert name == "n"
    assert settings == {
        "Aliases": ["a", "b"],
        "IPAMConfig": {"IPv4Address": "10.1.0.2", "IPv6Address": "fd00::2", "LinkLocalIPs": ["169.254.0.7"]},
        "MacAddress": "02:00:00:00:00:01",
        "DriverOpts": {"x": "1,2", "y": "a=b"},
        "GwPriority": -3,
        "Links": ["db:store"],
    }


def test_the_simple_options_are_of_the_first_network_alone() -> None:
    body = created("--network", "a", "--network", "name=b,ip=10.2.0.2", "--ip", "10.1.0.2", "--link", "db")
    assert body["HostConfig"]["NetworkMode"] == "a"
    assert body["NetworkingConfig"]["EndpointsConfig"] == {
        "a": {"IPAMConfig": {"IPv4Address": "10.1.0.2"}, "Links": ["db"]},
        "b": {"IPAMConfig": {"IPv4Address": "10.2.0.2"}},
    }
    assert body["HostConfig"]["Links"] == []
    alone = created("--link", "db")
    assert (alone["HostConfig"]["Links"], alone["NetworkingConfig"]["EndpointsConfig"]) == (["db"], {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "a", "--network", "name=a"], 'network "a" is specified multiple times'),
        (["--network", "name=a,alias=x", "--network-alias", "y"], "--network-alias and per-network alias"),
        (["--network", "name=a,ip=10.1.0.2", "--ip", "10.1.0.3"], "--ip and per-network IPv4 address"),
        (["--network", "name=a,ip6=fd00::2", "--ip6", "fd00::3"], "--ip6 and per-network IPv6 address"),
        (["--network", "name=a,link=x", "--link", "y"], "--link and per-network links"),
        (
            ["--network", "name=a,link-local-ip=169.254.0.1", "--link-local-ip", "169.254.0.2"],
            "link-local IP addresses",
        ),
        (
            ["--network", "name=a,mac-address=02:00:00:00:00:01", "--mac-address", "02:00:00:00:00:02"],
            "--mac-address and per-network MAC address",
        ),
        (["--network", "a", "--network", "host"], "cannot attach both user-defined and non-user-defined network-modes"),
        (["--network", "container:x", "--network", "a"], "cannot attach both user-defined and non-user-defined"),
        (["--network", ""], "empty network name"),
        (["--network", "alias=x"], "network name/id is not specified"),
        (["--network", "name=a,nonsense"], "invalid field nonsense"),
        (["--network", "name=a,nonsense=1"], "invalid field key nonsense"),
        (["--network", "name=a,driver-opt=x"], "invalid key value pair format in driver options"),
        (["--network", "name=a,gw-priority=high"], "high"),
    ],
)
def test_networks_of_a_command_line_that_can_not_be(words: list[str], message: str) -> None:
    with pytest.raises((BadOption, InvalidArgument)) as refused:
        created(*words)
    assert message in str(refused.value)


def test_settings_are_what_the_user_may_choose() -> None:
    settings = endpoint_settings(
        {
            "IPAMConfig": {"IPv4Address": "10.1.0.2", "LinkLocalIPs": ["fe80::7"]},
            "Links": ["db", "/web:/box/front"],
            "Aliases": ["a", "a"],
            "MacAddress": "02-00-00-00-00-0A",
            "NetworkID": "x",
        }
    )
    assert settings == {
        "IPAMConfig": {"IPv4Address": "10.1.0.2", "LinkLocalIPs": ["fe80::7"]},
        "Links": ["db:db", "web:front"],
        "Aliases": ["a"],
        "MacAddress": "02:00:00:00:00:0a",
        "DriverOpts": None,
        "GwPriority": 0,
    }


@pytest.mark.parametrize("text", ["", ":", "a:", ":b", "a:b:c", "a b", "a:b\n", "a#"])
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(InvalidArgument, match="links"):
        parse_link(text)


def test_sysctls_of_an_endpoint() -> None:
    text = "net.ipv4.conf.IFNAME.rp_filter=2,net.ipv6.neigh.ifname.gc_stale_time=30,net.mpls.conf.IFNAME.input=1"
    assert sysctls({"com.docker.network.endpoint.sysctls": text}) == {
        "net.ipv4.conf.IFNAME.rp_filter": "2",
        "net.ipv6.neigh.ifname.gc_stale_time": "30",
        "net.mpls.conf.IFNAME.input": "1",
    }
    assert sysctls({}) == {}


@pytest.mark.parametrize(
    "name",
    ["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv4.conf.eth0.rp_filter", "kernel.conf.IFNAME.x",
     "net.core.conf.IFNAME.x", "net.ipv4.conf.IFNAME", "net.ipv4.conf.IFNAME.x/../../all/y", "net.ipv4.conf.IFNAME...x",
     "net.ipv4.route.IFNAME.x", "net/ipv4/conf/IFNAME/x"],
)  # fmt: skip
def test_no_parameter_beyond_the_interface_can_be_set(name: str) -> None:
    with pytest.raises(InvalidArgument, match="unrecognised network interface sysctl"):
        decide_sysctls({name: "1"})


def test_a_parameter_has_a_value_of_one_line() -> None:
    for value in ("", "1\n2", "1\0"):
        with pytest.raises(InvalidArgument):
            decide_sysctls({"net.ipv4.conf.IFNAME.rp_filter": value})


def test_link_local_addresses() -> None:
    assert decide_link_local(["169.254.1.2", "fe80::1", "fe80::1"]) == ("169.254.1.2/16", "fe80::1/64")
    record = EndpointRecord("e", "box", "n", address="10.1.0.2/24", link_local=("fe80::1/64",), sysctls={"a": "1"})
    assert record.addresses == ("10.1.0.2/24", "fe80::1/64")
    assert EndpointRecord.from_body(record.to_body()) == record
    assert EndpointRecord.from_body({"id": "e", "name": "box", "network": "n"}).link_local == ()
    for wrong in ("10.0.0.1", "fe80::1/64", "fe80::1%eth0", "", "::1"):
        with pytest.raises(InvalidArgument, match="invalid link-local IP address"):
            decide_link_local([wrong])


def test_an_address_is_of_a_subnet_of_the_network() -> None:
    record = NetworkRecord("n", "web", "bridge", 0.0, ipam=(IpamConfig("10.1.0.0/24"), IpamConfig("fd00::/64")))
    check_settings("web", {"IPAMConfig": {"IPv4Address": "10.1.0.9", "IPv6Address": "fd00::9"}}, record)
    with pytest.raises(InvalidArgument, match="no configured subnet contains IP address"):
        check_settings("web", {"IPAMConfig": {"IPv4Address": "10.2.0.1"}}, record)


def test_links_and_the_mac_of_the_container_are_the_primary_networks() -> None:
    body = {"EndpointsConfig": {"b": {"Links": ["x"]}, "a": {"Links": ["y"]}}}
    found = requested_networks("a", body, "02:00:00:00:00:01", ["z", "y:y"])
    assert list(found) == ["a", "b"]
    assert (found["a"]["Links"], found["b"]["Links"]) == (["y:y", "z"], ["x:x"])
    assert (found["a"]["MacAddress"], found["b"]["MacAddress"]) == ("02:00:00:00:00:01", "")


# -- the hosts file and its user -----------------------------------------------------------------------------------------


def test_a_file_that_nobody_edited_is_what_it_should_be(tmp_path: Path) -> None:
    path, written = tmp_path / "hosts", tmp_path / "written"
    follow(path, written, "a\nb\n")
    inode = path.stat().st_ino
    follow(path, written, "b\nc\n")
    assert (path.read_text(), path.stat().st_ino) == ("b\nc\n", inode)


def test_what_a_user_wrote_stays(tmp_path: Path) -> None:
    path, written = tmp_path / "hosts", tmp_path / "written"
    follow(path, written, "a\nb\n")
    path.write_text("mine\na\nb edited\n")
    follow(path, written, "a\nc\n")
    assert path.read_text() == "mine\na\nb edited\nc\n"
    follow(path, written, "d\n")
    assert path.read_text() == "mine\nb edited\nd\n"


def test_a_kill_between_the_two_writes_leaves_nothing_twice(tmp_path: Path) -> None:
    path, written = tmp_path / "hosts", tmp_path / "written"
    follow(path, written, "a\nb\n")
    path.write_text("a\nc\n")  # the file was written, and what says so was not
    follow(path, written, "a\nc\nd\n")
    assert path.read_text() == "a\nc\nd\n"


LINES = st.lists(st.sampled_from("abcdef"), unique=True)


@given(LINES, LINES, LINES)
def test_lines_of_the_user_are_never_lost(before: list[str], after: list[str], own: list[str]) -> None:
    mine = [f"my {line}" for line in own]
    text = merge(*("".join(f"{line}\n" for line in lines) for lines in ([*mine, *before], before, after)))
    assert [line for line in text.splitlines() if line.startswith("my ")] == mine
    assert {line for line in text.splitlines() if not line.startswith("my ")} == set(after)
