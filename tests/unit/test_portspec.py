"""The grammar of published ports, and Docker's words for what is outside of it."""

from __future__ import annotations

import ipaddress
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynet.netlib.errors import InvalidArgument
from pynet.netlib.ports.portspec import (
    PROTOCOLS,
    PortBinding,
    format_host_port,
    format_port_bindings,
    format_publish,
    parse_expose,
    parse_port,
    parse_port_bindings,
    parse_publish,
)


def tcp(host_ip: str, first: int, last: int, container: int) -> PortBinding:
    return PortBinding("tcp", host_ip, first, last, container)


@pytest.mark.parametrize(
    ("text", "bindings"),
    [
        ("80", [tcp("", 0, 0, 80)]),
        ("80/udp", [PortBinding("udp", "", 0, 0, 80)]),
        ("80/", [tcp("", 0, 0, 80)]),
        (":80", [tcp("", 0, 0, 80)]),
        ("8080:80", [tcp("", 8080, 8080, 80)]),
        ("8080:80/TCP", [tcp("", 8080, 8080, 80)]),
        ("5:7/sctp", [PortBinding("sctp", "", 5, 5, 7)]),
        ("127.0.0.1:8080:80", [tcp("127.0.0.1", 8080, 8080, 80)]),
        ("127.0.0.1::80", [tcp("127.0.0.1", 0, 0, 80)]),
        ("0.0.0.0:8080:80", [tcp("0.0.0.0", 8080, 8080, 80)]),
        ("[::1]:8080:80", [tcp("::1", 8080, 8080, 80)]),
        ("[::1]::80", [tcp("::1", 0, 0, 80)]),
        ("::1:8080:80", [tcp("::1", 8080, 8080, 80)]),
        ("[FD00:0::1]:8080:80", [tcp("fd00::1", 8080, 8080, 80)]),
        ("[::]:8080:80", [tcp("::", 8080, 8080, 80)]),
        ("[::ffff:127.0.0.1]:8080:80", [tcp("127.0.0.1", 8080, 8080, 80)]),
        ("8000-8002:80-82", [tcp("", 8000, 8000, 80), tcp("", 8001, 8001, 81), tcp("", 8002, 8002, 82)]),
        ("8000-8010:80", [tcp("", 8000, 8010, 80)]),
        ("8000-8000:80-80", [tcp("", 8000, 8000, 80)]),
        ("80-81", [tcp("", 0, 0, 80), tcp("", 0, 0, 81)]),
        ("127.0.0.1::80-81/udp", [PortBinding("udp", "127.0.0.1", 0, 0, p) for p in (80, 81)]),
        ("1:65535", [tcp("", 1, 1, 65535)]),
        ("08080:080", [tcp("", 8080, 8080, 80)]),
        ("8080:80,proxy-protocol=2", [PortBinding("tcp", "", 8080, 8080, 80, 2)]),
        ("[::1]:1-2:3-4/tcp,proxy-protocol=1", [PortBinding("tcp", "::1", n, n, n + 2, 1) for n in (1, 2)]),
    ],
)
def test_publish(text: str, bindings: list[PortBinding]) -> None:
    assert parse_publish(text) == bindings


def test_a_large_range_is_one_binding_a_port() -> None:
    bindings = parse_publish("1-65535:1-65535")
    assert len(bindings) == 65535
    assert bindings[-1] == tcp("", 65535, 65535, 65535)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no port specified: <empty>"),
        (":", "no port specified: :<empty>"),
        ("8080:", "no port specified: 8080:<empty>"),
        ("/tcp", "no port specified: /tcp<empty>"),
        ("127.0.0.1:8080:", "no port specified: 127.0.0.1:8080:<empty>"),
        ("0", "invalid containerPort: 0"),
        ("65536", "invalid containerPort: 65536"),
        ("8080:0", "invalid containerPort: 0"),
        ("0:80", "invalid hostPort: 0"),
        ("65536:80", "invalid hostPort: 65536"),
        ("-1:80", "invalid hostPort: -1"),
        ("+1:80", "invalid hostPort: +1"),
        ("8010-8000:80", "invalid hostPort: 8010-8000"),
        ("90-80", "invalid containerPort: 90-80"),
        ("80-", "invalid containerPort: 80-"),
        ("80-81-82", "invalid containerPort: 80-81-82"),
        ("http", "invalid containerPort: http"),
        ("80 ", "invalid containerPort: 80 "),
        ("٨٠", "invalid containerPort: ٨٠"),
        ("9" * 5000, "invalid containerPort: " + "9" * 5000),
        ("web:80", "invalid hostPort: web"),
        ("8000-8010:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8000-8010"),
        ("8000:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8000"),
        ("80/icmp", "invalid proto: icmp"),
        ("80/tcp/udp", "invalid proto: tcp/udp"),
        ("localhost:8080:80", "invalid IP address: localhost"),
        ("127.0.0.01:8080:80", "invalid IP address: 127.0.0.01"),
        ("127.0.0:8080:80", "invalid IP address: 127.0.0"),
        ("[::1:8080:80", "invalid IP address: [::1"),
        ("[fe80::1%eth0]:8080:80", "invalid IP address: fe80::1%eth0"),
        ("[]:8080:80", "invalid IP address: "),
        ("\0:8080:80", "invalid IP address: \0"),
        ("80,", "invalid option of a published port: ''"),
        ("80,mode=host", "invalid option of a published port: 'mode=host'"),
        ("80,proxy-protocol", "invalid version of the PROXY protocol: "),
        ("80,proxy-protocol=3", "invalid version of the PROXY protocol: 3"),
        ("80,proxy-protocol=1,x=2", "invalid version of the PROXY protocol: 1,x=2"),
        ("80/udp,proxy-protocol=1", "the PROXY protocol is for tcp ports, not udp"),
    ],
)
def test_publish_refuses(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_publish(text)
    assert str(caught.value) == message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("binding", "text"),
    [
        (tcp("", 0, 0, 80), "80/tcp"),
        (tcp("", 8080, 8080, 80), "8080:80/tcp"),
        (tcp("127.0.0.1", 0, 0, 80), "127.0.0.1::80/tcp"),
        (PortBinding("udp", "::1", 8000, 8010, 80), "[::1]:8000-8010:80/udp"),
        (PortBinding("tcp", "", 0, 0, 80, 1), "80/tcp,proxy-protocol=1"),
        (PortBinding("tcp", "127.0.0.1", 80, 80, 80, 2), "127.0.0.1:80:80/tcp,proxy-protocol=2"),
    ],
)
def test_format(binding: PortBinding, text: str) -> None:
    assert format_publish(binding) == str(binding) == text


PORTS = st.integers(1, 65535)


@st.composite
def port_bindings(draw: st.DrawFn) -> PortBinding:
    address = draw(st.one_of(st.just(""), st.ip_addresses()))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    first, last = draw(st.one_of(st.just((0, 0)), st.tuples(PORTS, PORTS)))
    proto = draw(st.sampled_from(PROTOCOLS))
    version = draw(st.integers(0, 2)) if proto == "tcp" else 0
    return PortBinding(proto, str(address), min(first, last), max(first, last), draw(PORTS), version)


@given(port_bindings())
def test_what_is_written_is_read_back(binding: PortBinding) -> None:
    # Python writes some IPv6 addresses ("::1.2.3.4" forms) otherwise than inet_ntop(3): compare after one reading.
    (once,) = parse_publish(format_publish(binding))
    assert parse_publish(format_publish(once)) == [once]
    assert parse_port_bindings(format_port_bindings([once])) == [once]
    assert (once.proto, once.host_port_first, once.host_port_last, once.container_port) == (
        binding.proto,
        binding.host_port_first,
        binding.host_port_last,
        binding.container_port,
    )


@given(first=PORTS, length=st.integers(0, 50), container=PORTS, proto=st.sampled_from(PROTOCOLS))
def test_ranges_are_paired_port_by_port(first: int, length: int, container: int, proto: str) -> None:
    text = f"{first}-{first + length}:{container}-{container + length}/{proto}"
    if first + length > 65535 or container + length > 65535:
        with pytest.raises(InvalidArgument):
            parse_publish(text)
    else:
        assert parse_publish(text) == [
            PortBinding(proto, "", first + n, first + n, container + n) for n in range(length + 1)
        ]


GRAMMAR_LIKE = st.from_regex(r"[\[\]0-9a-f.:\-/%tcpud]{0,30}", fullmatch=True)


@settings(max_examples=500)
@given(st.one_of(st.text(), GRAMMAR_LIKE))
def test_arbitrary_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    for parse in (parse_publish, parse_expose, parse_port):
        try:
            parse(text)
        except InvalidArgument as error:
            assert error.message
    try:
        bindings = parse_publish(text)
    except InvalidArgument:
        return
    for binding in bindings:
        assert parse_publish(format_publish(binding)) == [binding]
        assert 1 <= binding.container_port <= 65535
        assert 0 <= binding.host_port_first <= binding.host_port_last <= 65535


@pytest.mark.parametrize(
    ("body", "bindings"),
    [
        ({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, [tcp("", 8080, 8080, 80)]),
        ({"80": [{"HostPort": "8080"}]}, [tcp("", 8080, 8080, 80)]),
        ({"80/tcp": [{"HostIp": "::1", "HostPort": ""}]}, [tcp("::1", 0, 0, 80)]),
        ({"80/tcp": [{"HostPort": "0"}]}, [tcp("", 0, 0, 80)]),
        ({"80/tcp": [{"HostPort": "8000-8010"}]}, [tcp("", 8000, 8010, 80)]),
        ({"80/tcp": None}, [tcp("", 0, 0, 80)]),
        ({"80/tcp": []}, [tcp("", 0, 0, 80)]),
        ({"80/tcp": [{"HostIp": None, "HostPort": None}]}, [tcp("", 0, 0, 80)]),
        (
            {"80/tcp": [{"HostPort": "1"}, {"HostPort": "2"}], "53/udp": [{"HostPort": "53"}]},
            [tcp("", 1, 1, 80), tcp("", 2, 2, 80), PortBinding("udp", "", 53, 53, 53)],
        ),
        ({}, []),
    ],
)
def test_engine_api(body: dict[str, object], bindings: list[PortBinding]) -> None:
    assert parse_port_bindings(body) == bindings


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"0/tcp": []}, 'invalid port specification: "0/tcp"'),
        ({"80-82/tcp": []}, 'invalid port specification: "80-82/tcp"'),
        ({"x": []}, 'invalid port specification: "x"'),
        ({"80/icmp": []}, "invalid proto: icmp"),
        ({"80/tcp": [{"HostPort": "65536"}]}, 'invalid port specification: "65536"'),
        ({"80/tcp": [{"HostPort": "9-8"}]}, 'invalid port specification: "9-8"'),
        ({"80/tcp": [{"HostIp": "x", "HostPort": "1"}]}, "invalid IP address: x"),
        ({"80/tcp": [{"HostPort": 8080}]}, "invalid port bindings for 80/tcp: HostIp and HostPort are strings"),
        ({"80/tcp": ["8080"]}, "invalid port bindings for 80/tcp: a list of HostIp and HostPort is needed"),
        ({"80/tcp": "8080"}, "invalid port bindings for 80/tcp: a list of HostIp and HostPort is needed"),
    ],
)
def test_engine_api_refuses(body: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_port_bindings(body)
    assert str(caught.value) == message


def test_host_ports_in_engine_api_form() -> None:
    assert [format_host_port(tcp("", *host, 80)) for host in ((0, 0), (5, 5), (5, 9))] == ["", "5", "5-9"]


def test_expose() -> None:
    assert parse_expose("80") == ["80/tcp"]
    assert parse_expose("80-82/UDP") == ["80/udp", "81/udp", "82/udp"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8080:80", "invalid port format for --expose: 8080:80"),
        ("/tcp", "invalid range format for --expose: /tcp, error: empty string specified for ports"),
        ("82-80", "invalid range format for --expose: 82-80, error: invalid range specified for port: 82-80"),
        ("0", 'invalid range format for --expose: 0, error: "0": value out of range (1–65535)'),
        ("x", 'invalid range format for --expose: x, error: "x": invalid syntax'),
        ("80/x", "invalid proto: x"),
    ],
)
def test_expose_refuses(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_expose(text)
    assert str(caught.value) == message


def test_the_grammar_needs_no_library() -> None:
    program = (
        "import sys; before = set(sys.modules); import pynet.netlib.ports.portspec; "
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('pynet')))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], check=True, timeout=30, capture_output=True, text=True)
    assert set(done.stdout.split()) <= {"__future__", "_socket"}
