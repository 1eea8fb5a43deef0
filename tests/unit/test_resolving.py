"""How a container resolves: its own options, the engine's, the host's."""

from __future__ import annotations

from argparse import Namespace

import pytest

from pynet.engine.container.record import Container
from pynet.engine.container.resolving import HEADER, Resolving, extra_hosts, is_named, naming
from pynet.engine.daemon_options import parse_arguments
from pynet.engine.name_options import NameOptions
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.model import Naming

HOST = "nameserver 127.0.0.53\nsearch home.example\noptions edns0 trust-ad\n"


def options(**given: list[str]) -> dict[str, list[str]]:
    return {"Dns": [], "DnsSearch": [], "DnsOptions": [], **given}


def container(mode: str = "net", *, networks: tuple[str, ...] = ("net",), domain: str = "") -> Container:
    return Container(
        id="0" * 64,
        name="box",
        created=0.0,
        image_id="",
        config={"Hostname": "here", "Domainname": domain},
        host_config={"NetworkMode": mode},
        rootfs={},
        mounts=[],
        networks={name: {} for name in networks},
    )


def rendered(host: str = HOST, defaults: NameOptions | None = None, given: dict[str, list[str]] | None = None) -> str:
    text = Resolving.of(options(**given or {}), defaults or NameOptions(), host).render()
    assert text.startswith(f"{HEADER}\nnameserver 127.0.0.11\n")
    return text.removeprefix(f"{HEADER}\nnameserver 127.0.0.11\n")


COMMENT = "\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n"


def test_the_host_says_what_nobody_else_does() -> None:
    assert rendered() == (
        f"search home.example\noptions edns0 trust-ad ndots:0\n{COMMENT}"
        "# ExtServers: [host(127.0.0.53)]\n# Overrides: []\n# Option ndots from: internal\n"
    )
    assert rendered("nameserver 192.0.2.1\noptions ndots:3\n") == (
        f"options ndots:3\n{COMMENT}# ExtServers: [host(192.0.2.1)]\n# Overrides: []\n# Option ndots from: host\n"
    )
    assert rendered("") == f"options ndots:0\n{COMMENT}# Overrides: []\n# Option ndots from: internal\n"


def test_a_containers_own_options_come_before_the_engines() -> None:
    engine = NameOptions(("192.0.2.2",), ("corp.example",), ("rotate",))
    assert rendered(defaults=engine) == (
        f"search corp.example\noptions rotate ndots:0\n{COMMENT}"
        "# ExtServers: [192.0.2.2]\n# Overrides: [nameservers search options]\n# Option ndots from: internal\n"
    )
    own = {"Dns": ["192.0.2.3"], "DnsSearch": ["."], "DnsOptions": ["ndots:1"]}
    assert rendered(defaults=engine, given=own) == (
        f"options ndots:1\n{COMMENT}"
        "# ExtServers: [192.0.2.3]\n# Overrides: [nameservers search options]\n# Option ndots from: override\n"
    )


def test_names_are_served_where_a_container_has_networks_of_its_own() -> None:
    assert is_named(container()) and is_named(container("bridge", networks=("bridge",)))
    assert is_named(container("none", networks=()))  # it was disconnected from none, and may join another
    for mode, networks in (("host", ("host",)), ("none", ("none",)), ("container:web", ())):
        assert not is_named(container(mode, networks=networks))
    resolving = Resolving.of(options(DnsOptions=["ndots:2"]), NameOptions(("192.0.2.2",)), HOST)
    assert naming(container(domain="corp"), resolving, [("db", "192.0.2.9")]) == Naming(
        own=("here", "here.corp"),
        hosts=(("db", "192.0.2.9"),),
        servers=("192.0.2.2",),
        search=("home.example",),
        ndots=2,
    )
    assert naming(container("host"), resolving, []) is None


def test_the_gateway_of_the_host_has_an_address_of_each_family() -> None:
    host_config = {"ExtraHosts": ["db:192.0.2.7", "six:[2001:db8::7]", "up:host-gateway"]}
    assert extra_hosts(host_config, ["192.0.2.1", "2001:db8::1"]) == [
        ("db", "192.0.2.7"),
        ("six", "2001:db8::7"),
        ("up", "192.0.2.1"),
        ("up", "2001:db8::1"),
    ]


def parsed(*words: str) -> Namespace:
    return parse_arguments(list(words))


def test_the_engines_options_are_judged() -> None:
    assert NameOptions.of(parsed("--dns", "192.0.2.1", "--dns=2001:db8::1", "--dns-opt=ndots:1")) == NameOptions(
        ("192.0.2.1", "2001:db8::1"), (), ("ndots:1",)
    )
    assert NameOptions.of(parsed()) == NameOptions()
    for words, text in (
        (("--dns", "dns.example"), "invalid argument 'dns.example' for --dns: it is not an IP address"),
        (("--dns-search", "a b"), "invalid argument 'a b' for --dns-search: it is one word"),
        (
            ("--host-gateway-ip", "192.0.2.1", "--host-gateway-ip", "192.0.2.2"),
            "only one IPv4 and one IPv6 host gateway IP address can be specified",
        ),
    ):
        with pytest.raises(InvalidArgument, match=text):
            NameOptions.of(parsed(*words))
