"""Elements that are added and deleted by hand are those that libnftables makes of the same words, one transaction each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from pynet.netlib.firewall.intents import NetworkRules, PortRule
from pynet.netlib.firewall.nftables import render
from pynet.netlib.firewall.nftables.backend import NftablesBackend
from pynet.netlib.kernel.libnftables import Nft
from pynet.netlib.kernel.netlink import NetlinkError
from pynet.netlib.kernel.nft_elements import AT_ONCE, ElementSocket, pack
from pynet.plugins.testhost import Host

WORDS = {
    "ipv4_addr": "192.0.2.7",
    "ipv6_addr": "2001:db8::7",
    "inet_proto": "udp",
    "inet_service": "40000",
    "ifname": '"pb0123456789ab"',
}
PORT: render.Element = ("ports4", "tcp . 8080", "pb1", "10.1.0.2 . 80")


@pytest.fixture
def nft(host: Host) -> Iterator[Nft]:
    nft = Nft()
    for table in ("byhand", "bytext"):
        nft.run(render.base(table))
    yield nft
    for table in ("byhand", "bytext"):
        nft.run(render.destroy(table))
    nft.close()


@pytest.fixture
def elements(host: Host) -> Iterator[ElementSocket]:
    elements = ElementSocket()
    yield elements
    elements.close()


def held(nft: Nft, table: str, name: str) -> Any:
    what = render.SETS[name].split()[0]
    return [one[what].get("elem", []) for one in nft.list(f"list {what} inet {table} {name}") if what in one]


CASES = [(name, "accept") for name in sorted(render.KINDS)] + [("same", "goto no_icc")]
WIDE = {"ipv4_addr": ("10.1.0.0/16", "128.0.0.0/1"), "ipv6_addr": ("fd00:1::/64", "8000::/1")}
"""Subnets for sets of intervals; after the last of a family comes no key."""


@pytest.mark.parametrize(("name", "verdict"), CASES)
@pytest.mark.parametrize("wide", [0, 1])
def test_by_hand_and_by_text_are_the_same(
    nft: Nft, elements: ElementSocket, name: str, verdict: str, wide: int
) -> None:
    kinds, data = render.KINDS[name]
    comment = "pb0123456789ab" if data and data != ("verdict",) else ""
    key = [WIDE[k][wide] if name in render.INTERVALS and k in WIDE else WORDS[k] for k in kinds]
    value = verdict if data == ("verdict",) else " . ".join(WORDS[k] for k in data)
    element = (name, " . ".join(key), comment, value)
    nft.run(render.add("bytext", [element]))
    elements.change("byhand", [("add", render.packed(element))])
    assert held(nft, "byhand", name) == held(nft, "bytext", name) != [[]]
    elements.change("byhand", [("delete", render.packed(element))])
    nft.run(render.delete("bytext", [element]))
    assert held(nft, "byhand", name) == held(nft, "bytext", name) == [[]]


def test_a_transaction_is_all_or_nothing_and_names_the_step(nft: Nft, elements: ElementSocket) -> None:
    (there,), (other,) = render.packed(PORT), render.packed(("ports4", "udp . 53", "pb1", "10.1.0.3 . 53"))
    (moved,) = render.packed(("ports4", "tcp . 8080", "pb1", "10.1.0.9 . 80"))
    elements.change("byhand", [("add", [there])])
    elements.change("byhand", [("add", [there])])
    for changes, number in (
        ([("add", [other]), ("add", [moved])], errno.EEXIST),
        ([("add", [other]), ("delete", [other, other])], errno.ENOENT),
    ):
        with pytest.raises(NetlinkError) as caught:
            elements.change("byhand", changes)  # type: ignore[arg-type]
        assert caught.value.errno == number
        assert "elements of ports4" in str(caught.value)
        assert len(held(nft, "byhand", "ports4")[0]) == 1
    elements.change("byhand", [("delete", [there]), ("add", [moved])])
    ((_, target),) = held(nft, "byhand", "ports4")[0]
    assert target == {"concat": ["10.1.0.9", 80]}
    with pytest.raises(NetlinkError, match="No such file"):
        elements.change("nowhere", [("add", [other])])


@pytest.mark.parametrize("count", [AT_ONCE, AT_ONCE + 1])
def test_few_and_many_ports_at_once_are_all_there_and_all_gone(host: Host, count: int) -> None:
    backend = NftablesBackend("e1")
    try:
        network = NetworkRules("pb1", ("10.1.0.0/24",))
        backend.add_network(network)
        ports = [PortRule("tcp", "", 10000 + n, "10.1.0.2", 80, "pb1") for n in range(count)]
        backend.add_ports(ports)
        assert sorted(backend.state()[1], key=str) == sorted(ports, key=str)
        backend.remove_ports(ports)
        assert backend.state() == ([network], [])
    finally:
        backend.destroy()
        backend.close()


@pytest.mark.parametrize(
    ("kind", "word"),
    [("inet_proto", "icmp"), ("inet_service", "70000"), ("ipv4_addr", "::1"), ("ifname", "a" * 16), ("mark", "1")],
)
def test_a_word_that_is_none_of_its_type_is_refused(kind: str, word: str) -> None:
    with pytest.raises((ValueError, OSError)):
        pack([kind], [word])
