"""Intents into rules and back, for both rule languages, and what is said about other people's rules.  No kernel."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.netlib.errors import InvalidArgument
from pynet.netlib.firewall import detect
from pynet.netlib.firewall.choice import select_backend
from pynet.netlib.firewall.intents import (
    Mode,
    NetworkRules,
    PortRule,
    check_instance,
    check_network,
    check_port,
)
from pynet.netlib.firewall.iptables import render as ipt_render
from pynet.netlib.firewall.nftables import render as nft_render

NETWORK = NetworkRules("pb0", ("10.0.0.0/24", "fd00::/64"))
PORT = PortRule("tcp", "", 8080, "10.0.0.2", 80, "pb0")


# -- which intents make sense -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"proto": "icmp"},
        {"proto": ""},
        {"host_port": 0, "host_ip": "192.0.2.1"},
        {"host_port": 65536},
        {"target_port": -1},
        {"target_ip": "10.0.0.2/32"},
        {"target_ip": "localhost"},
        {"target_ip": "0.0.0.0"},
        {"target_ip": "127.0.0.1"},
        {"target_ip": "224.0.0.1"},
        {"target_ip": "fe80::1%eth0"},
        {"host_ip": "::1"},
        {"host_ip": "0.0.0.0"},
        {"host_ip": "10.0.0.1 }"},
        {"bridge": ""},
        {"bridge": "a" * 16},
        {"bridge": 'pb0" accept'},
        {"bridge": "pb+"},
        {"bridge": "pb*"},
        {"bridge": "pb0\n"},
        {"bridge": ".."},
    ],
)
def test_ports_that_make_no_sense(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        check_port(replace(PORT, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"bridge": "pb 0"},
        {"subnets": ("10.0.0.1/24",)},
        {"subnets": ("10.0.0.0/33",)},
        {"source": ("10.0.0.1", "10.0.0.2")},
        {"source": ("eth0",)},
        {"source": ("0.0.0.0",)},
        {"source": ("::1",)},
        {"source": ("224.0.0.1",)},
        {"mode4": "isolated"},
        {"trusted": ("eth0", "a b")},
    ],
)
def test_networks_that_make_no_sense(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        check_network(replace(NETWORK, **changes))  # type: ignore[arg-type]


def test_intents_take_the_form_in_which_the_kernel_shows_them() -> None:
    port = check_port(PortRule("udp", "2001:DB8:0::1", 53, "FD00:0::2", 53, "pb0"))
    assert (port.host_ip, port.target_ip) == ("2001:db8::1", "fd00::2")
    assert check_port(PORT) is PORT
    network = check_network(replace(NETWORK, subnets=("FD00::/64", "10.0.0.0/24", "10.0.0.0/24")))
    assert network == NETWORK
    assert check_network(replace(NETWORK, internal=True, source=("192.0.2.1",))) == NetworkRules(
        "pb0", NETWORK.subnets, internal=True, masquerade=False
    )
    assert check_network(NetworkRules("pb0", ("10.0.0.0/24",), source=("2001:db8::1",))).source == ()
    routed = check_network(NetworkRules("pb0", ("10.0.0.0/24",), source=("192.0.2.1",), mode4="routed", mode6="routed"))
    assert routed == NetworkRules("pb0", ("10.0.0.0/24",), masquerade=False, mode4="routed"), "it keeps its addresses"


@pytest.mark.parametrize("suffix", ["X", "0123456789", "a b", "-", "0\n"])
def test_instance_suffixes_can_not_carry_anything_in(suffix: str) -> None:
    with pytest.raises(InvalidArgument):
        check_instance(suffix)


def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="pf"):
        select_backend("pf")


# -- round trips --------------------------------------------------------------------------------------------------------

addresses = {
    4: st.integers(1 << 24, (100 << 24) - 1).map(lambda n: str(ipaddress.IPv4Address(n))),
    6: st.integers(0xFD << 120, (0xFD << 120) + (1 << 100)).map(lambda n: str(ipaddress.IPv6Address(n))),
}
bridges = st.from_regex(r"[a-z][a-z0-9._-]{0,14}", fullmatch=True)
numbers = st.integers(1, 65535)
modes: st.SearchStrategy[Mode] = st.sampled_from(["nat", "nat-unprotected", "routed"])


@st.composite
def port_rules(draw: st.DrawFn) -> PortRule:
    version = draw(st.sampled_from([4, 6]))
    loopback = {4: "127.0.0.1", 6: "::1"}[version]
    return PortRule(
        draw(st.sampled_from(["tcp", "udp", "sctp"])),
        *draw(
            st.one_of(
                st.just(("", 0)), st.tuples(st.one_of(st.just(""), st.just(loopback), addresses[version]), numbers)
            )
        ),
        draw(addresses[version]),
        draw(numbers),
        draw(bridges),
    )


@st.composite
def networks(draw: st.DrawFn) -> NetworkRules:
    """Networks 10.N.0.0/16 and fdNN::/64, so that no two overlap."""
    number = draw(st.integers(0, 99))
    subnets = draw(st.sampled_from([(0,), (1,), (0, 1)]))
    both = (f"10.{number}.0.0/16", f"fd{number:02}::/64")
    return check_network(
        NetworkRules(
            f"pb{number}",
            tuple(both[i] for i in subnets),
            internal=draw(st.booleans()),
            masquerade=draw(st.booleans()),
            icc=draw(st.booleans()),
            source=draw(st.sampled_from([(), ("192.0.2.1",), ("2001:db8::1",), ("192.0.2.1", "2001:db8::1")])),
            loopback=draw(st.booleans()),
            mode4=draw(modes),
            mode6=draw(modes),
            trusted=draw(st.sampled_from([(), ("eth1",), ("eth1", "wg0")])),
        )
    )


@given(
    st.lists(port_rules(), max_size=5, unique_by=lambda rule: rule.key),
    st.lists(networks(), max_size=5, unique_by=lambda rules: rules.bridge),
)
def test_iptables_text_tells_the_intents(ports: list[PortRule], found: list[NetworkRules]) -> None:
    names = ipt_render.Names("ab12")
    loopback = {rules.bridge for rules in found if rules.loopback}
    dumps: dict[int, ipt_render.Dump] = {}
    for version in (4, 6):
        rules = [rule for network in found for rule in names.network(network, version)]
        for port in ports:
            if port.version == version:
                rules += names.port(port, loopback=port.bridge in loopback)
        text = ipt_render.edit([*names.fixed(), *names.hooks(version), *rules], ())
        dumps[version] = ipt_render.Dump(text.replace("-I ", "-A "))  # as iptables-save says it
        for rule in rules:
            assert dumps[version].count(rule) == rules.count(rule)
    shown, published = ipt_render.parse(names, dumps)
    assert sorted(shown, key=str) == sorted(found, key=str)
    assert sorted(published, key=str) == sorted(ports, key=str)


@given(port_rules(), st.booleans())
def test_a_ports_elements_fit_their_maps(rule: PortRule, loopback: bool) -> None:
    elements = list(nft_render.port_elements(rule, loopback=loopback))
    assert [comment for _, _, comment, _ in elements].count(rule.bridge) == 1, "one element names the owner"
    for name, key, _, data in elements:
        assert nft_render.SETS[name].startswith("map" if data else "set")
        declared = nft_render.SETS[name].partition("type ")[2].partition(" :" if data else ";")[0]
        assert len(key.split(" . ")) == len(declared.split(" . "))


def test_big_changes_come_apart_between_elements() -> None:
    elements = [("ports4", f"tcp . {port}", "pb0", "10.0.0.2 . 80") for port in range(1, 2502)]
    text = nft_render.base("pynet") + nft_render.flush("pynet") + nft_render.add("pynet", elements)
    head, *rest = nft_render.parts(text)
    assert head + "".join(rest) == text
    assert [part.count("comment") for part in rest] == [1000, 1000, 501]
    assert "add element" not in head


def test_chain_names_fit() -> None:
    names = ipt_render.Names("01234567")
    shorts = [short for table in ipt_render.TABLES.values() for short in table]
    assert max(len(names.chain(short)) for short in [*shorts, ipt_render.USER]) <= 28, "XT_EXTENSION_MAXNAMELEN"


# -- other people's rules -----------------------------------------------------------------------------------------------


def chain(family: str, table: str, name: str, **more: object) -> dict[str, object]:
    return {"chain": {"family": family, "table": table, "name": name, **more}}


def test_where_accepts_are_needed() -> None:
    forward: dict[str, object] = {"type": "filter", "hook": "forward", "prio": 0}
    chains: list[dict[str, object]] = [
        {"metainfo": {}},
        chain("ip", "filter", "FORWARD", policy="drop", **forward),
        chain("ip", "filter", "DOCKER-USER"),
        chain("ip6", "filter", "FORWARD", policy="drop", **forward),
        chain("inet", "own", "fwd", policy="accept", **forward),
        chain("bridge", "own", "fwd", policy="drop", **forward),
        chain("inet", "pynet-ab", "forward", policy="drop", **forward),
        chain("ip", "filter", "INPUT", policy="drop", hook="input"),
    ]
    assert [str(place) for place in detect.forward_drops(chains)] == ["ip filter DOCKER-USER", "ip6 filter FORWARD"]
    assert [str(place) for place in detect.marked_places(chains)] == [
        "ip filter FORWARD",
        "ip filter DOCKER-USER",
        "ip6 filter FORWARD",
        "inet own fwd",
    ]


def test_translations_of_a_port_of_ours() -> None:
    def rule(family: str, table: str, *expressions: dict[str, object]) -> dict[str, object]:
        return {"rule": {"family": family, "table": table, "chain": "pre", "expr": list(expressions)}}

    def dport(proto: str, port: object) -> dict[str, object]:
        return {
            "match": {"op": "==", "left": {"payload": {"protocol": proto, "field": "dport"}}, "right": port},
        }

    dnat: dict[str, object] = {"dnat": {"addr": "10.9.9.9"}}
    ruleset = [
        rule("ip", "nat", dport("tcp", 8080), {"xt": {"type": "target", "name": "DNAT"}}),
        rule("inet", "own", dport("th", 8080), dnat),
        rule("ip6", "nat", dport("tcp", 8080), dnat),  # ours is IPv4
        rule("ip", "nat", dport("udp", 8080), dnat),
        rule("ip", "nat", dport("tcp", 8081), dnat),
        rule("ip", "nat", dport("tcp", {"set": [8080]}), dnat),
        rule("ip", "nat", dport("tcp", 8080), {"accept": None}),
        rule("inet", "pynet", dport("tcp", 8080), dnat),
        rule("ip", "nat", {"xt": None}),
    ]
    assert [str(place) for place, _ in detect.foreign_translations(ruleset, [PORT])] == ["ip nat pre", "inet own pre"]
