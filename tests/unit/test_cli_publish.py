"""The -p grammar: every form of Docker's, and every way to get it wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.cli.publish import InvalidPublish, parse_expose, parse_publish, publish_all


@pytest.mark.parametrize(
    ("text", "port", "ip", "host"),
    [
        ("80", "80/tcp", "", ""),
        ("8080:80", "80/tcp", "", "8080"),
        ("127.0.0.1:8080:80", "80/tcp", "127.0.0.1", "8080"),
        ("127.0.0.1::80", "80/tcp", "127.0.0.1", ""),
        ("[::1]:8080:80", "80/tcp", "::1", "8080"),
        ("[::]:8080:80/udp", "80/udp", "::", "8080"),
        ("[::1]::80", "80/tcp", "::1", ""),
        ("53:53/udp", "53/udp", "", "53"),
        ("53:53/UDP", "53/udp", "", "53"),
        ("8000-8010:80", "80/tcp", "", "8000-8010"),
        ("65535:65535/sctp", "65535/sctp", "", "65535"),
    ],
)
def test_one_binding(text: str, port: str, ip: str, host: str) -> None:
    assert parse_publish(text) == [(port, {"HostIp": ip, "HostPort": host})]


def test_a_port_whose_container_is_told_the_clients_address() -> None:
    assert parse_publish("8080:80,proxy-protocol=2") == [
        ("80/tcp", {"HostIp": "", "HostPort": "8080", "ProxyProtocol": 2})
    ]


def test_equal_ranges_are_bound_port_by_port() -> None:
    bindings = parse_publish("127.0.0.1:8000-8010:80-90/udp")
    assert len(bindings) == 11
    assert bindings[0] == ("80/udp", {"HostIp": "127.0.0.1", "HostPort": "8000"})
    assert bindings[-1] == ("90/udp", {"HostIp": "127.0.0.1", "HostPort": "8010"})


def test_a_range_alone_is_bound_to_ports_that_the_engine_picks() -> None:
    assert parse_publish("80-81") == [
        ("80/tcp", {"HostIp": "", "HostPort": ""}),
        ("81/tcp", {"HostIp": "", "HostPort": ""}),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no container port"),
        ("8080:", "no container port"),
        ("0", "between 1 and 65535"),
        ("0:80", "between 1 and 65535"),
        ("65536:80", "between 1 and 65535"),
        ("80:99999999999999999999", "between 1 and 65535"),
        ("a:80", "not a port number"),
        ("-1:80", "not a port number"),
        ("8 0", "not a port number"),
        ("٨٠:80", "not a port number"),
        ("90-80:1-11", "backwards"),
        ("80:90-80", "backwards"),
        ("8000-8010:80-81", "differ in length"),
        ("8000:80-81", "differ in length"),
        ("80/icmp", "protocol 'icmp'"),
        ("80/", "protocol ''"),
        ("300.0.0.1:80:80", "not an IPv4 address"),
        ("localhost:80:80", "not an IPv4 address"),
        ("::1:80:80", "in brackets"),
        ("[::1:80:80", "ADDRESS"),
        ("[::1]80:80", "ADDRESS"),
        ("[127.0.0.1]:80:80", "not an IPv6 address"),
        ("[::1]:1:2:3", "too many colons"),
        ("1-2-3:80", "not a port number"),
        ("80,", "no option ''"),
        ("80,mode=host", "no option 'mode=host'"),
        ("80,proxy-protocol=0", "no option 'proxy-protocol=0'"),
        ("80/sctp,proxy-protocol=1", "for tcp ports"),
    ],
)
def test_bad_input_is_named_and_explained(text: str, why: str) -> None:
    with pytest.raises(InvalidPublish, match=why) as caught:
        parse_publish(text)
    assert repr(text) in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 125


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        bindings = parse_publish(text)
    except InvalidPublish:
        return
    for port, binding in bindings:
        number, _, proto = port.partition("/")
        assert 1 <= int(number) <= 65535
        assert proto in ("tcp", "udp", "sctp")
        assert set(binding) - {"ProxyProtocol"} == {"HostIp", "HostPort"}


@given(st.sampled_from(["", "127.0.0.1:", "[::1]:"]), st.integers(1, 65000), st.integers(1, 65000), st.integers(0, 500))
def test_ranges_keep_their_distance(address: str, host: int, container: int, length: int) -> None:
    bindings = parse_publish(f"{address}{host}-{host + length}:{container}-{container + length}")
    assert len(bindings) == length + 1
    for offset, (port, binding) in enumerate(bindings):
        assert port == f"{container + offset}/tcp"
        assert binding["HostPort"] == str(host + offset)


def test_expose() -> None:
    assert parse_expose("80-82/udp") == ["80/udp", "81/udp", "82/udp"]
    with pytest.raises(InvalidPublish, match="no host side"):
        parse_expose("80:80")


def test_all_together_are_merged_by_container_port() -> None:
    exposed, bindings = publish_all(["8080:80", "127.0.0.1:8081:80", "8080:80"], ["443"])
    assert exposed == {"80/tcp": {}, "443/tcp": {}}
    assert bindings == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "8081"}]}
