"""Who reaches whom: every pair of parties by real packets, in both back ends, against the tables of docs/isolation.md.

    outside 198.51.100.1 ---- lan 192.0.2.2 ---- eth0 host 192.0.2.1 ---- nat           web  peer
                                                                     |--- other         stranger
                                                                     |--- unprotected   open
                                                                     |--- routed        routed
                                                                     '--- internal      inner  inner2

LAN and outside have routes to every network by way of the host, as an attacker on the wire would have.  Every container serves
port 80, published on every address, port 81, which is not published, and port 82, bound to the host's loopback.  A forwarder is
the proxy, as pynetd's is.  All questions about one container are asked at once; what is not answered is asked twice more.

    PYNET_WRITE_ISOLATION=1 python -m pytest tests/kernel/test_isolation_matrix.py      writes the tables anew
"""

from __future__ import annotations

import os
import re
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.kernel import sysctl
from pynet.netlib.kernel.rtnetlink import RouteInfo
from pynet.netlib.model import IpamConfig
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host, Lan, Namespace

from support.answering import Servers
from support.netlib import inside_of
from support.ping import echo_request, is_echo_reply
from support.proxy import Proxy

PAGE = Path(__file__).parents[2] / "docs/isolation.md"
OUTSIDE = {4: "198.51.100.1", 6: "2001:db8:51::1"}
QUIET = 0.3
"""Seconds without any answer after which no more are expected, three times; one that comes takes a millisecond."""
NETWORKS: dict[str, dict[str, str]] = {
    "nat": {},
    "other": {},
    "unprotected": {"gateway_mode": "nat-unprotected", "gateway_mode6": "nat-unprotected"},
    "routed": {"gateway_mode": "routed", "gateway_mode6": "routed"},
    "internal": {},
}
CONTAINERS = {
    "web": "nat",
    "peer": "nat",
    "stranger": "other",
    "open": "unprotected",
    "open2": "unprotected",
    "routed": "routed",
    "routed2": "routed",
    "inner": "internal",
    "inner2": "internal",
}
PARTIES = {
    "self": "the container itself",
    "neighbour": "container of the same network",
    "stranger": "container of another nat network",
    "open": "container of a nat-unprotected network",
    "routed": "container of a routed network",
    "inner": "container of an internal network",
    "host": "the host",
    "lan": "the LAN",
    "outside": "outside, by a router of the LAN",
}
TARGETS = {
    "web": "nat network",
    "open": "nat-unprotected network",
    "routed": "routed network",
    "inner": "internal network",
}
COLUMNS = {
    "host port": "published port, at the host's address",
    "published": "published port, at the container's address",
    "unpublished": "another port",
    "loopback": "loopback-bound port, at the host's loopback",
    "bound": "loopback-bound port, at the container's address",
    "ping": "ping",
}
HOST = {4: Lan.host_address, 6: Lan.host_address6}
LAN = {4: Lan.address, 6: Lan.address6}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True)
class Question:
    """May somebody reach this?  *cell* is what of a table the answer belongs to."""

    cell: str
    proto: str
    version: int
    address: str
    port: int = 0
    who: str = ""
    """Who must answer."""


class Asking(NamedTuple):
    """Who asks what, from which of its addresses ("": any)."""

    who: Namespace
    question: Question
    source: str = ""


@dataclass
class Asked:
    asking: Asking
    sock: socket.socket
    token: bytes = b""


@dataclass
class World:
    host: Namespace
    lan: Namespace
    inside: dict[str, Namespace]
    addresses: dict[tuple[str, int], str]
    published: dict[str, int]
    """Host port of each container's port 80; port 82 is on the next one."""
    found: dict[tuple[str, str], set[str]] = field(default_factory=dict[tuple[str, str], set[str]])

    def questions(self, target: str) -> Iterator[Question]:
        for version in (4, 6):
            own, port = self.addresses[target, version], self.published[target]
            yield Question("ping", "icmp", version, own)
            for proto in ("tcp", "udp"):
                yield Question("host port", proto, version, HOST[version], port, target)
                yield Question("published", proto, version, own, 80, target)
                yield Question("unpublished", proto, version, own, 81, target)
                yield Question("loopback", proto, version, LOOPBACK[version], port + 1, target)
                yield Question("bound", proto, version, own, 82, target)


def ask(askings: Iterable[Asking]) -> set[Asking]:
    """Those that were answered as they should be."""
    left, answered = set(askings), set[Asking]()
    for _ in range(3):
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            for asking in left:
                if (asked := _begin(asking)) is not None:
                    stack.callback(asked.sock.close)
                    selector.register(asked.sock, selectors.EVENT_READ, asked)
            while selector.get_map() and (ready := selector.select(QUIET)):
                for key, _ in ready:
                    done, good = _read(key.data)
                    if done:
                        selector.unregister(key.fileobj)
                    if good:
                        answered.add(key.data.asking)
        left -= answered
    return answered


def _begin(asking: Asking) -> Asked | None:
    who, question, _ = asking
    source = OUTSIDE[question.version] if asking.source == "outside" else ""
    family = socket.AF_INET if question.version == 4 else socket.AF_INET6
    token = os.urandom(12)
    if question.proto == "icmp":
        proto = socket.IPPROTO_ICMP if question.version == 4 else socket.IPPROTO_ICMPV6
        sock = who.socket(family, socket.SOCK_RAW, proto)
    else:
        sock = who.socket(family, socket.SOCK_STREAM if question.proto == "tcp" else socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        if source:
            sock.bind((source, 0))
        if question.proto == "icmp":
            sock.sendto(echo_request(question.version, token), (question.address, 0))
        else:
            try:
                sock.connect((question.address, question.port))
            except BlockingIOError:
                pass
            if question.proto == "udp":
                sock.send(b"?")
    except OSError:
        sock.close()
        return None
    return Asked(asking, sock, token)


def _read(asked: Asked) -> tuple[bool, bool]:
    """Whether that was all, and whether it was the answer."""
    try:
        data = asked.sock.recv(2048)
    except BlockingIOError:
        return False, False
    except OSError:
        return True, False
    question = asked.asking.question
    if question.proto == "icmp":
        good = is_echo_reply(question.version, data, asked.token)
        return good, good
    return True, data.decode().split(" ")[0] == question.who


def gateway(network: str) -> dict[int, str]:
    number = list(NETWORKS).index(network) + 1
    return {4: f"10.{number}.0.1", 6: f"fd00:{number}::1"}


# -- the world --------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(tmp_path: Path, host: Host) -> Iterator[Proxy]:
    """The forwarder; it is there until the controller is gone."""
    (tmp_path / "run").mkdir()
    with Proxy.running(tmp_path / "run") as proxy:
        yield proxy


@pytest.fixture
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(params=["nftables", "iptables"])
def world(
    request: pytest.FixtureRequest,
    proxy: Proxy,
    start_controller: Callable[..., Controller],
    lan: Lan,
    servers: Servers,
) -> Iterator[World]:
    host: Host = request.getfixturevalue("host")
    sysctl.write(("net", "ipv6", "conf", "default", "accept_dad"), 0)
    controller = start_controller(request.param, proxy=proxy.client)
    eth0 = lan.rtnl.link("eth0")
    assert eth0 is not None
    lan.rtnl.add_address(eth0.index, OUTSIDE[4], 32)
    lan.rtnl.add_address(eth0.index, OUTSIDE[6], 128)
    made = {}
    for number, (name, options) in enumerate(NETWORKS.items(), 1):
        configs = [IpamConfig(subnet=f"10.{number}.0.0/24"), IpamConfig(subnet=f"fd00:{number}::/64")]
        made[name] = controller.create_network(
            name, ipam=configs, ipv6=True, internal=name == "internal", options=options
        )
        lan.rtnl.add_route(RouteInfo(destination=configs[0].subnet, gateway=Lan.host_address))
        lan.rtnl.add_route(RouteInfo(destination=configs[1].subnet, gateway=Lan.host_address6))
    world = World(host, lan, {}, {}, {})
    with ExitStack() as stack:
        for number, (name, network) in enumerate(CONTAINERS.items()):
            sandbox = controller.create_sandbox(name)
            endpoint = made[network].create_endpoint(name)
            endpoint.join(sandbox)
            inside = world.inside[name] = stack.enter_context(inside_of(controller, sandbox))
            world.addresses[name, 4], world.addresses[name, 6] = endpoint.record.ip, endpoint.record.ip6
            port = world.published[name] = 8000 + 10 * number
            for proto in ("tcp", "udp"):
                sandbox.publish(parse_publish(f"{port}:80/{proto}"))
                for address in ("127.0.0.1", "[::1]"):
                    sandbox.publish(parse_publish(f"{address}:{port + 1}:82/{proto}"))
            for served in (80, 81, 82):
                servers.serve(name, inside, served)
        # a UDP server on every address would answer with another one than it was asked at
        for version in (4, 6):
            gateways = [gateway(network)[version] for network in NETWORKS]
            for address in (HOST[version], *gateways):
                servers.serve("host", host, 5000, address)
            for address in (LAN[version], OUTSIDE[version]):
                servers.serve("lan", lan, 5000, address)
        yield world


# -- the tables -------------------------------------------------------------------------------------------------------

ALL = {f"{proto}{version}" for proto in ("tcp", "udp") for version in (4, 6)}
PINGS = {"icmp4", "icmp6"}


def cell(found: set[str], every: set[str]) -> str:
    """yes, no, or what alone is answered: IPv4, UDP, ..."""
    if found == every or not found:
        return "yes" if found else "no"
    for version in (4, 6):
        if found == {name for name in every if name.endswith(str(version))}:
            return f"IPv{version}"
    for proto in ("tcp", "udp"):
        if found == {name for name in every if name.startswith(proto)}:
            return proto.upper()
    return ", ".join(sorted(found))


def kinds(answered: Iterable[Asking], cell: str) -> set[str]:
    return {f"{asking.question.proto}{asking.question.version}" for asking in answered if asking.question.cell == cell}


def parties(world: World, target: str) -> Iterator[tuple[str, Namespace, str]]:
    """(party, namespace, source) of everybody who may ask for *target*."""
    neighbours = {"web": "peer", "open": "open2", "routed": "routed2", "inner": "inner2"}
    for party in PARTIES:
        if party == "self":
            yield party, world.inside[target], ""
        elif party == "neighbour":
            yield party, world.inside[neighbours[target]], ""
        elif party == "host":
            yield party, world.host, ""
        elif party in ("lan", "outside"):
            yield party, world.lan, party
        elif party != target:
            yield party, world.inside[party], ""


def inward(world: World) -> Iterator[str]:
    for target, kind in TARGETS.items():
        yield f"### To a container of {'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        yield ""
        yield "| from | " + " | ".join(COLUMNS.values()) + " |"
        yield "|---" * (1 + len(COLUMNS)) + "|"
        asked = {
            party: [
                Asking(who, question, source)
                for question in world.questions(target)
                if party == "host" or question.cell != "loopback"  # everybody has a loopback of its own
            ]
            for party, who, source in parties(world, target)
        }
        answered = ask(asking for askings in asked.values() for asking in askings)
        for party, askings in asked.items():
            cells = [
                cell(kinds(answered & {*askings}, column), PINGS if column == "ping" else ALL)
                if any(asking.question.cell == column for asking in askings)
                else "-"
                for column in COLUMNS
            ]
            yield f"| {PARTIES[party]} | " + " | ".join(cells) + " |"
        yield ""


PLACES = {
    "gateway": "the host, at the network's gateway",
    "host": "the host, at its address of the LAN",
    "lan": "the LAN",
    "outside": "outside",
}


def outward(world: World) -> Iterator[str]:
    yield "### From a container to where no container is"
    yield ""
    yield "| from a container of a | " + " | ".join(f"{place} | ping" for place in PLACES.values()) + " |"
    yield "|---" * (1 + 2 * len(PLACES)) + "|"
    for name, kind in TARGETS.items():
        places = {"gateway": gateway(CONTAINERS[name]), "host": HOST, "lan": LAN, "outside": OUTSIDE}
        questions = [
            Question(place, proto, version, addresses[version], 5000, "lan" if place in ("lan", "outside") else "host")
            for place, addresses in places.items()
            for version in (4, 6)
            for proto in ("tcp", "udp", "icmp")
        ]
        answered = ask(Asking(world.inside[name], question) for question in questions)
        cells = [cell(kinds(answered, place) & every, every) for place in PLACES for every in (ALL, PINGS)]
        yield f"| {kind} | " + " | ".join(cells) + " |"
    yield ""


def test_who_reaches_whom_is_what_the_page_says(world: World) -> None:
    tables = "\n".join([*inward(world), *outward(world)])
    text = PAGE.read_text()
    begin, end = "<!-- measured: begin -->\n", "<!-- measured: end -->"
    if os.environ.get("PYNET_WRITE_ISOLATION"):
        head, tail = text.partition(begin)[0], text.partition(end)[2]
        PAGE.write_text(f"{head}{begin}\n{tables}\n{end}{tail}")
        return
    written = re.search(f"{re.escape(begin)}(.*?){re.escape(end)}", text, re.DOTALL)
    assert written is not None
    assert tables.strip("\n").split("\n") == written[1].strip("\n").split("\n")
