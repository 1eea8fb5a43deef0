"""Which bindings a published port came of, what a withdrawal takes, and which way a port leads: values alone."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.engine.container.ports import pair, take
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.firewall.intents import PortRule
from pynet.netlib.model import PublishedPort
from pynet.netlib.ports.holders import holder_of
from pynet.netlib.ports.paths import path_of
from pynet.netlib.ports.portspec import PortBinding, parse_host_ports, parse_publish


def published(*words: str) -> list[PublishedPort]:
    """ "0.0.0.0:8080:80/tcp" each."""
    found: list[PublishedPort] = []
    for word in words:
        ports, _, proto = word.partition("/")
        host_ip, host_port, port = ports.rsplit(":", 2)
        found.append(PublishedPort(proto or "tcp", host_ip, int(host_port), int(port)))
    return found


def bound(*words: str) -> list[PortBinding]:
    return [binding for word in words for binding in parse_publish(word)]


def test_a_binding_that_says_more_chooses_first() -> None:
    bindings = bound("80", "8000-8002:80", "8001:80", "127.0.0.1:8001:81")
    ports = published(
        "0.0.0.0:8001:80", ":::8001:80", "0.0.0.0:8000:80", ":::8000:80", "0.0.0.0:40000:80", ":::40000:80"
    )
    came = {str(binding): {port.host_port for port in of} for binding, of in pair(bindings, ports)}
    assert came == {
        "80/tcp": {40000},
        "8000-8002:80/tcp": {8000},
        "8001:80/tcp": {8001},
        "127.0.0.1:8001:81/tcp": set(),
    }


def test_two_ports_of_the_hosts_choosing_are_two() -> None:
    ports = published("0.0.0.0:40000:80", "0.0.0.0:40001:80")
    assert [len(of) for _, of in pair(bound("80", "80"), ports)] == [1, 1]


@given(st.lists(st.sampled_from(["80", "8000-8005:80", "8001:80", "8002:80/udp", "127.0.0.1:8003:80"]), unique=True))
def test_every_port_has_one_binding(words: list[str]) -> None:
    bindings = bound(*words)
    ports = [PublishedPort(b.proto, b.host_ip or "0.0.0.0", b.host_port_first or 40000, 80) for b in bindings]
    assert sorted(p.id for _, of in pair(bindings, ports) for p in of) == sorted(p.id for p in set(ports))


@pytest.mark.parametrize(
    ("word", "stay", "gone", "left"),
    [
        ("8080", ["8081:80/tcp", "53:53/udp"], ["8080:80/tcp"], 2),
        ("8080-8081", ["53:53/udp"], ["8080:80/tcp", "8081:80/tcp"], 1),
        ("53", ["8080:80/tcp", "8081:80/tcp", "53:53/udp"], [], 4),
        ("53/tcp+udp", ["8080:80/tcp", "8081:80/tcp"], ["53:53/udp"], 3),
        ("0.0.0.0:8080", ["[::]:8080:80/tcp", "8081:80/tcp", "53:53/udp"], ["8080:80/tcp"], 3),
        ("[::]:8081", ["8080:80/tcp", "8081:80/tcp", "53:53/udp"], [], 4),
    ],
)
def test_what_is_withdrawn(word: str, stay: list[str], gone: list[str], left: int) -> None:
    bindings = bound("8080:80", "8081:80", "53:53/udp")
    ports = published("0.0.0.0:8080:80", ":::8080:80", "0.0.0.0:8081:80", "0.0.0.0:53:53/udp")
    found = take(bindings, ports, parse_host_ports(word))
    assert ([str(b) for b in found[0]], [str(b) for b in found[1]]) == (stay, gone)
    assert len(ports) - len(found[2]) == left


def test_what_is_not_published_now_is_known_by_its_host_port() -> None:
    bindings = bound("8080:80", "80", "8000-8001:80", "127.0.0.1:8080:81")
    stay, gone, withdrawn = take(bindings, [], parse_host_ports("8080"))
    assert [str(b) for b in stay] == ["80/tcp", "8000-8001:80/tcp"]
    assert [str(b) for b in gone] == ["8080:80/tcp", "127.0.0.1:8080:81/tcp"]
    assert withdrawn == []


def test_what_is_open_on_a_routed_network_is_known_by_the_host_port_that_was_asked_for() -> None:
    bindings, ports = bound("8080:80", "8081:81"), published("0.0.0.0:0:80", "0.0.0.0:0:81")
    stay, gone, withdrawn = take(bindings, ports, parse_host_ports("8080"))
    assert ([str(b) for b in stay], [str(b) for b in gone], withdrawn) == (["8081:81/tcp"], ["8080:80/tcp"], ports[:1])


def test_one_family_may_be_routed_and_the_other_not() -> None:
    bindings, ports = bound("8080:80", "8081:80"), published("0.0.0.0:8080:80", "0.0.0.0:8081:80", ":::0:80")
    stay, gone, withdrawn = take(bindings, ports, parse_host_ports("8080"))
    assert ([str(b) for b in stay], withdrawn) == (["8081:80/tcp"], ports[:1])  # the other one wants it open still
    assert take(stay, ports[1:], parse_host_ports("8081")) == ([], stay, ports[1:])
    assert gone == bindings[:1]


@pytest.mark.parametrize(
    "word", ["", "x", "0", "80-70", "8080/icmp", "8080/tcp+tcp", "nonsense:80", "8080:80:80", "70000"]
)
def test_what_names_no_host_ports(word: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_host_ports(word)


def test_several_protocols_in_one_mapping() -> None:
    assert [str(b) for b in bound("53:53/udp+tcp")] == ["53:53/udp", "53:53/tcp"]
    assert [str(b) for b in bound("127.0.0.1:1-2:3-4/tcp+udp")] == [
        *("127.0.0.1:1:3/tcp", "127.0.0.1:2:4/tcp", "127.0.0.1:1:3/udp", "127.0.0.1:2:4/udp")
    ]
    for wrong in ("80/tcp+tcp", "80/tcp+", "80/+udp", "80/tcp+icmp", "80:80/tcp+udp,proxy-protocol=2"):
        with pytest.raises(InvalidArgument):
            bound(wrong)


@pytest.mark.parametrize(
    ("port", "rule_ip", "served", "path", "target"),
    [
        ("0.0.0.0:8080:80", "", ("10.1.0.2", 80), "both", ("10.1.0.2", 80)),
        ("192.0.2.1:8080:80", "192.0.2.1", ("10.1.0.2", 80), "nat", ("10.1.0.2", 80)),
        ("127.0.0.1:8080:80", "127.0.0.1", ("10.1.0.2", 80), "proxy", ("10.1.0.2", 80)),
        ("127.0.0.1:8080:80", "127.0.0.1", None, "nat", ("10.1.0.2", 80)),
        (":::8080:80", None, ("10.1.0.2", 80), "proxy", ("10.1.0.2", 80)),
        ("0.0.0.0:8080:80", "", None, "nat", ("10.1.0.2", 80)),
        ("0.0.0.0:8080:80", None, None, "none", None),
    ],
)
def test_the_way_of_a_port(
    port: str, rule_ip: str | None, served: tuple[str, int] | None, path: str, target: tuple[str, int] | None
) -> None:
    rules = [] if rule_ip is None else [PortRule("tcp", rule_ip, 8080, "10.1.0.2", 80, "pb0")]
    found = path_of(published(port)[0], rules, served)
    assert (found.path, found.target) == (path, target)
    assert found.why


@pytest.mark.parametrize(("family", "address", "asked"), [
    (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    (socket.AF_INET, "127.0.0.1", "0.0.0.0"),
    (socket.AF_INET, "0.0.0.0", "127.0.0.2"),
    (socket.AF_INET6, "::1", "::1"),
    (socket.AF_INET6, "::", "127.0.0.1"),
])  # fmt: skip
@pytest.mark.parametrize(("proto", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_who_holds_a_port_is_found(family: int, address: str, asked: str, proto: str, kind: int) -> None:
    try:
        sock = socket.socket(family, kind)
        sock.bind((address, 0))
    except OSError:
        pytest.skip("this kernel has no IPv6")
    with sock:
        if proto == "tcp":
            sock.listen()
        port = sock.getsockname()[1]
        assert holder_of(proto, asked, port).endswith(f"(pid {os.getpid()})")
        if address == "127.0.0.1":
            assert holder_of(proto, "127.0.0.2", port) == ""
    assert holder_of(proto, asked, port) == ""


def test_a_process_that_calls_itself_something_odd_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, open("/proc/self/comm", "r+") as comm:
        own = comm.read()
        try:
            comm.write("a\n\x1b[2J")
            comm.flush()
            assert holder_of("tcp", "127.0.0.1", sock.getsockname()[1]) == f"a??[2J (pid {os.getpid()})"
        finally:
            comm.write(own.rstrip())
            comm.flush()
