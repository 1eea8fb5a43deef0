"""What a sandbox is answered: rows of docs/dns.md one by one, then random questions over random views beside a slow model."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
from dataclasses import replace

import pytest

from pynet.names import answers
from pynet.names.answers import Answer
from pynet.names.message import AAAA, ANY, AXFR, HINFO, MX, NOERROR, NXDOMAIN, PTR, REFUSED, SRV, A, Question, wire_name
from pynet.names.zones import Zones, fold
from pynet.netlib.naming import Names, View

QUESTIONS = 100_000 if os.environ.get("PYNET_THOROUGH") else 10_000

DB = Names("e-db", "n1", "back", ("db", "0123456789ab", "Store"), ("10.0.0.2", "fd00::2"))
WEB = Names("e-web", "n1", "back", ("web", "Store"), ("10.0.0.3",))
FAR = Names("e-far", "n2", "front", ("far", "db"), ("10.1.0.2",))
VIEW = View(
    "s",
    ("n1",),
    (
        ("host.docker.internal", ("172.17.0.1",)),
        ("me", ("10.0.0.9", "fd00::9")),
        ("me", ("10.0.0.8",)),
        ("WEB.link", ("10.0.0.3",)),
    ),
)


def zones(view: View = VIEW) -> Zones:
    made = Zones()
    made.tell([view], [DB, WEB, FAR])
    return made


def ask(name: str, type: int = A) -> Question:
    wire = wire_name(name) + type.to_bytes(2, "big") + b"\0\1"
    return Question(fold(name), type, 1, wire, 7, True)


def find(name: str, type: int = A, view: View = VIEW) -> Answer | None:
    return answers.find(zones(view), "s", ask(name, type))


def addresses(answer: Answer | None) -> list[str]:
    assert answer is not None
    assert answer.code == NOERROR
    assert all(record.ttl == 600 for record in answer.records)
    return [str(ipaddress.ip_address(record.data)) for record in answer.records]


@pytest.mark.parametrize(
    ("name", "type", "expected"),
    [
        ("db", A, ["10.0.0.2"]),
        ("DB", AAAA, ["fd00::2"]),
        ("db.back", A, ["10.0.0.2"]),
        ("Db.Back", A, ["10.0.0.2"]),
        ("0123456789ab", A, ["10.0.0.2"]),
        ("store", A, ["10.0.0.2", "10.0.0.3"]),
        ("store.back", AAAA, ["fd00::2"]),
        ("web", AAAA, []),
        ("web", MX, []),
        ("me", A, ["10.0.0.9", "10.0.0.8"]),
        ("me", AAAA, ["fd00::9"]),
        ("host.docker.internal", A, ["172.17.0.1"]),
        ("host.docker.internal", AAAA, []),
        ("web.LINK", A, ["10.0.0.3"]),
        ("localhost", A, ["127.0.0.1"]),
        ("a.b.localhost", AAAA, ["::1"]),
        ("localhost", MX, []),
    ],
)
def test_a_known_name_is_answered_and_never_forwarded(name: str, type: int, expected: list[str]) -> None:
    assert addresses(find(name, type)) == expected


@pytest.mark.parametrize(
    "name", ["far", "far.front", "db.front", "x.db", "back", "db.back.back", "example.com", "", "2.0.1.10.in-addr.arpa"]
)
def test_a_name_that_is_on_no_network_of_the_sandbox_is_forwarded(name: str) -> None:
    assert find(name) is None


def test_the_first_network_that_has_such_an_address_answers() -> None:
    both = replace(VIEW, networks=("n2", "n1"))
    assert addresses(find("db", A, both)) == ["10.1.0.2"]
    assert addresses(find("db", AAAA, both)) == ["fd00::2"]
    assert addresses(find("db.back", A, both)) == ["10.0.0.2"]
    assert addresses(find("db", MX, both)) == []
    assert addresses(find("db", A, replace(VIEW, hosts=(("db", ("192.0.2.1",)),)))) == ["192.0.2.1"]
    assert addresses(find("db", AAAA, replace(VIEW, hosts=(("db", ("192.0.2.1",)),)))) == []


@pytest.mark.parametrize(
    ("name", "target", "port"),
    [
        ("_80._tcp.db", "db", 80),
        ("_65535._udp.DB.back", "DB.back", 65535),
        ("_443._TCP.me", "me", 443),
        ("_1._sctp.db", "db", 1),
    ],
)
def test_a_port_of_a_name_is_a_service(name: str, target: str, port: int) -> None:
    answer = find(name, SRV)
    assert answer is not None and answer.code == NOERROR
    (record,) = answer.records
    assert (record.type, record.data) == (SRV, bytes(4) + port.to_bytes(2, "big") + wire_name(target))
    assert [(one.type, one.owner) for one in answer.additional][-1] == (AAAA, wire_name(target))
    assert {len(one.data) for one in answer.additional} == {4, 16}


def test_a_service_has_its_port_by_name() -> None:
    try:
        port = socket.getservbyname("domain", "udp")
    except OSError:
        pytest.skip("this machine has no /etc/services")
    answer = find("_domain._udp.web", SRV)
    assert answer is not None
    assert answer.records[0].data == bytes(4) + port.to_bytes(2, "big") + b"\3web\0"


@pytest.mark.parametrize(
    "name", ["_0._tcp.db", "_65536._tcp.db", "_nonsense._tcp.db", "_._tcp.db", "_-1._tcp.db", "_\xb2._tcp.db"]
)
def test_a_port_that_is_none_is_no_name(name: str) -> None:
    answer = find(name, SRV)
    assert answer is not None and (answer.code, answer.records) == (NXDOMAIN, ())


def test_services_of_others_are_forwarded() -> None:
    for name in ("_80._tcp.example.com", "_80._tcp.far", "_80._quic.db", "_80._tcp", "_tcp.db", "_80"):
        assert find(name, SRV) is None
    answer = find("_80._tcp.db", A)
    assert answer is not None and (answer.code, answer.records) == (NOERROR, ())


def test_addresses_have_names() -> None:
    for address, name in (
        ("10.0.0.2", "db.back"),
        ("fd00::2", "db.back"),
        ("10.0.0.3", "web.back"),
        ("127.0.0.1", "localhost"),
    ):
        answer = find(ipaddress.ip_address(address).reverse_pointer, PTR)
        assert answer is not None
        assert [record.data for record in answer.records] == [wire_name(name)]
        other = find(ipaddress.ip_address(address).reverse_pointer.upper(), A)
        assert other is not None and (other.code, other.records) == (NOERROR, ())
    assert find("2.0.1.10.in-addr.arpa", PTR) is None
    assert find("2.0.1.10.in-addr.arpa", PTR, replace(VIEW, networks=("n2",))) is not None


def test_names_of_networks_that_are_no_labels_are_left_out_of_pointers() -> None:
    odd = Zones()
    odd.tell([VIEW], [replace(DB, network_name="a" * 64), replace(WEB, network_name="x..y", names=("b" * 64,))])
    answer = answers.find(odd, "s", ask("2.0.0.10.in-addr.arpa", PTR))
    assert answer is not None and answer.records[0].data == wire_name("db")
    assert answers.find(odd, "s", ask("3.0.0.10.in-addr.arpa", PTR)) is None


def test_some_types_have_an_answer_whatever_the_name() -> None:
    for name in ("db", "example.com", "nobody"):
        for view in (VIEW, replace(VIEW, outside=False)):
            answer = find(name, ANY, view)
            assert answer is not None
            assert [(one.type, one.data) for one in answer.records] == [(HINFO, b"\7RFC8482\0")]
            refused = find(name, AXFR, view)
            assert refused is not None and refused.code == REFUSED


def test_where_only_internal_networks_are_nothing_is_asked_outside() -> None:
    """CVE-2024-29018: a name that is asked outside tells something outside."""
    inside = replace(VIEW, outside=False)
    for name, type in (
        ("example.com", A),
        ("nobody", AAAA),
        ("", 2),
        ("1.1.1.1.in-addr.arpa", PTR),
        ("_80._tcp.x", SRV),
    ):
        answer = find(name, type, inside)
        assert answer is not None and answer.code == NXDOMAIN
    assert addresses(find("db", A, inside)) == ["10.0.0.2"]
    assert find("example.com", A, replace(inside, upstreams=("192.0.2.1",))) is None, (
        "from inside, where its routes hold"
    )


def test_single_labels_are_not_forwarded_where_ndots_says_so() -> None:
    for ndots, forwarded in ((None, True), (0, True), (1, False), (5, False)):
        view = replace(VIEW, ndots=ndots)
        assert (find("nobody", A, view) is None) == forwarded
        assert find("no.body", A, view) is None
        assert find("", 2, view) is None
        assert addresses(find("db", A, view)) == ["10.0.0.2"]


def test_a_sandbox_without_a_view_is_refused() -> None:
    answer = answers.find(zones(), "another", ask("db"))
    assert answer is not None and answer.code == REFUSED


def test_records_take_turns() -> None:
    answer = find("store")
    assert answer is not None and answer.turns == 2
    question = ask("store")
    replies = [answer.reply(question, turn) for turn in range(4)]
    assert replies[0] == replies[2] != replies[1] == replies[3]
    first = b"\xc0\x0c\0\1\0\1\0\0\2\x58\0\4\x0a\0\0\2"
    assert replies[0].index(first) < replies[1].index(first)


# -- changes ---------------------------------------------------------------------------------------------------------


def test_a_stamp_says_whom_a_change_concerns() -> None:
    made = Zones()
    made.tell([View("a", ("n1",)), View("b", ("n2",)), View("c", ("n1", "n2"))], [DB, FAR])

    def stamps() -> list[int]:
        return [made.stamp(sandbox) for sandbox in "abc"]

    def changed(*told: Names, gone: tuple[str, ...] = ()) -> str:
        before = stamps()
        made.tell(names=told, gone_endpoints=gone)
        return "".join(who for who, was, now in zip("abc", before, stamps(), strict=True) if was != now)

    assert changed(WEB) == "ac"
    assert changed(WEB, DB) == "", "told again, nothing is another"
    assert changed(replace(FAR, names=("afar",))) == "bc"
    assert changed(gone=("e-web", "nobody")) == "ac"
    assert changed(gone=("e-db",)) == "ac", "the last of a network"
    assert changed(gone=("e-db",)) == ""
    assert changed(DB) == "ac"
    assert changed(replace(DB, network="n2", network_name="front")) == "abc", "another network"
    assert changed(DB, gone=("e-db",)) == "abc", "told and gone at once is there"
    assert changed(replace(FAR, names=("far",))) == "bc"
    assert changed(gone=("e-db",)) == "ac", "though what is left is as old as what was newest before"
    before = stamps()
    made.tell([View("b", ("n2",)), View("a", ("n1",), ndots=1)])
    assert [was != now for was, now in zip(before, stamps(), strict=True)] == [True, False, False]
    made.tell(gone_views=("a", "x"))
    assert made.stamp("a") == 0 == made.stamp("x")


def test_a_change_with_a_wrong_address_changes_nothing() -> None:
    made = zones()
    for views, names in (
        ([], [FAR, replace(DB, addresses=("nonsense",))]),
        ([View("s", hosts=(("x", ("10.0.0.256",)),))], []),
    ):
        before = made.generation
        with pytest.raises(ValueError):
            made.tell(views, names, ("s",), ("e-web",))
        assert (made.generation, set(made.names()), made.views()) == (before, {DB, WEB, FAR}, (VIEW,))


# -- beside a model --------------------------------------------------------------------------------------------------

LABELS = ("db", "web", "Cache", "a", "b", "x-1", "app.v2", "LONG-name-of-something", "localhost", "_x")
ADDRESSES = tuple(f"10.0.{high}.{low}" for high in range(2) for low in range(1, 9)) + tuple(
    f"fd00::{low:x}" for low in range(1, 9)
)


def model(views: dict[str, View], names: dict[str, Names], sandbox: str, name: str, type: int) -> object:
    """(code, addresses or targets in any order) or None: read through everything each time."""
    if sandbox not in views:
        return REFUSED, ()
    view, name = views[sandbox], name.lower()
    if type == ANY:
        return NOERROR, ("RFC8482",)

    def meaning(asked: str, family: int) -> list[str] | None:
        hosts = [address for host, those in view.hosts if host.lower() == asked for address in those]
        if any(host.lower() == asked for host, _ in view.hosts):
            return [one for one in hosts if ipaddress.ip_address(one).version == family]
        known = False
        for network in view.networks:
            here = [
                one
                for one in names.values()
                if one.network == network
                and asked
                in {form for each in one.names for form in (each.lower(), f"{each}.{one.network_name}".lower())}
            ]
            known = known or bool(here)
            those = [each for one in here for each in one.addresses if ipaddress.ip_address(each).version == family]
            if those:
                return those
        return [] if known else None

    found = meaning(name, {A: 4, AAAA: 6}.get(type, 0))
    if found is not None:
        return NOERROR, tuple(sorted(set(found)))
    port, _, rest = name.partition(".")
    proto, _, target = rest.partition(".")
    if port.startswith("_") and proto in ("_tcp", "_udp", "_sctp") and meaning(target, 4) is not None:
        number = port[1:]
        if not number.isdecimal() or not 0 < int(number) < 65536:
            return NXDOMAIN, ()
        return NOERROR, (f"{number} {target}",) if type == SRV else ()
    for network in view.networks:
        pointers = {
            f"{one.names[0]}.{one.network_name}"
            for one in names.values()
            for address in one.addresses
            if one.network == network and ipaddress.ip_address(address).reverse_pointer == name
        }
        if pointers:
            return NOERROR, tuple(sorted(pointers)) if type == PTR else ()
    if name == "localhost" or name.endswith(".localhost"):
        return NOERROR, {A: ("127.0.0.1",), AAAA: ("::1",)}.get(type, ())
    if (not view.outside and not view.upstreams) or (view.ndots and "." not in name):
        return NXDOMAIN, ()
    return None


def text(wire: bytes) -> str:
    labels: list[str] = []
    while wire[0]:
        labels.append(wire[1 : 1 + wire[0]].decode())
        wire = wire[1 + wire[0] :]
    return ".".join(labels)


def told(answer: Answer | None) -> object:
    if answer is None:
        return None
    shown: list[str] = []
    for record in answer.records:
        match record.type:
            case 1 | 28:
                shown.append(str(ipaddress.ip_address(record.data)))
            case 12:
                shown.append(text(record.data))
            case 33:
                shown.append(f"{int.from_bytes(record.data[4:6], 'big')} {text(record.data[6:]).lower()}")
            case _:
                shown.append(record.data[1:-1].decode())
    return answer.code, tuple(sorted(shown))


def some(chance: random.Random, those: tuple[str, ...], most: int) -> tuple[str, ...]:
    return tuple(chance.sample(those, chance.randrange(most + 1)))


def random_view(chance: random.Random, sandbox: str) -> View:
    hosts = tuple((chance.choice(LABELS), some(chance, ADDRESSES, 2)) for _ in range(chance.randrange(3)))
    return View(
        sandbox, some(chance, ("n0", "n1", "n2", "n3"), 3), hosts, some(chance, ("192.0.2.1",), 1),
        ndots=chance.choice((None, 0, 1)), outside=chance.random() < 0.7,
    )  # fmt: skip


def random_names(chance: random.Random, endpoint: str) -> Names:
    network = chance.randrange(4)
    names = some(chance, LABELS, 3) or ("lone",)
    return Names(endpoint, f"n{network}", ("back", "Front", "net.x", "a")[network], names, some(chance, ADDRESSES, 3))


def random_question(chance: random.Random) -> tuple[str, int]:
    name = chance.choice((*LABELS, "lone", "nobody", "example.com"))
    shape = chance.random()
    if shape < 0.3:
        name += "." + chance.choice(("back", "FRONT", "net.x", "a", "nowhere"))
    if 0.2 < shape < 0.4:
        name = f"_{chance.choice(('80', '0', '65536', 'nonsense'))}._{chance.choice(('tcp', 'UDP', 'quic'))}.{name}"
    if shape > 0.9:
        name = ipaddress.ip_address(chance.choice(ADDRESSES)).reverse_pointer
    if chance.random() < 0.3:
        name = "".join(chance.choice((letter.lower(), letter.upper())) for letter in name)
    return name, chance.choice((A, A, AAAA, AAAA, PTR, PTR, SRV, SRV, MX, ANY))


def test_random_questions_are_answered_as_by_the_model() -> None:
    chance = random.Random(9)
    sandboxes, endpoints = [f"s{n}" for n in range(4)], [f"e{n}" for n in range(12)]
    made, views, names = Zones(), dict[str, View](), dict[str, Names]()
    kept: dict[tuple[str, str, int], tuple[int, object]] = {}
    for round in range(QUESTIONS // 20):
        told_views = [random_view(chance, one) for one in some(chance, tuple(sandboxes), 1)]
        told_names = [random_names(chance, one) for one in some(chance, tuple(endpoints), 2)]
        gone_views, gone_names = (
            some(chance, tuple(sandboxes), 1) if round % 9 == 0 else (),
            some(chance, tuple(endpoints), 1),
        )
        made.tell(told_views, told_names, gone_views, gone_names)
        for gone in gone_views:
            views.pop(gone, None)
        for gone in gone_names:
            names.pop(gone, None)
        views |= {view.sandbox: view for view in told_views}
        names |= {one.endpoint: one for one in told_names}
        for _ in range(20):
            sandbox, (name, type) = chance.choice(sandboxes), random_question(chance)
            expected = model(views, names, sandbox, name, type)
            assert told(answers.find(made, sandbox, ask(name, type))) == expected, (
                views.get(sandbox),
                names,
                name,
                type,
            )
            stamp, was = kept.get((sandbox, name, type), (None, None))
            assert was == expected or stamp != made.stamp(sandbox), "what is kept by its stamp would be wrong now"
            kept[sandbox, name, type] = made.stamp(sandbox), expected
