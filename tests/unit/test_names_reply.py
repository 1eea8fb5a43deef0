"""What an upstream says, read by our code: held against dnspython, and against bytes that nobody should send."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.names import asking, message, reply
from pynet.names.asking import Asking
from pynet.names.message import Question
from pynet.names.reply import Reply

NAME = "www.Example.org."


def question(name: str = NAME, type: str = "A", **options: object) -> Question:
    data = dns.message.make_query(name, type, **options).to_wire()  # type: ignore[arg-type]
    parsed = message.parse(data)
    assert isinstance(parsed, Question)
    return parsed


def said(asked: Question, *records: str, code: int = 0, authority: tuple[str, ...] = (), flags: int = 0x8180) -> bytes:
    """The bytes of an upstream's answer; records as in a zone file, at the question's name where they name none."""
    response = dns.message.Message(7)
    response.flags = dns.flags.Flag(flags)
    response.set_rcode(dns.rcode.Rcode.make(code))
    name = dns.name.from_wire(b"\0" * 12 + asked.wire, 12)[0]
    response.question.append(dns.rrset.RRset(name, dns.rdataclass.IN, dns.rdatatype.RdataType.make(asked.type)))
    for section, lines in ((response.answer, records), (response.authority, authority)):
        for line in lines:
            owner, ttl, type, data = line.split(None, 3)
            section.append(dns.rrset.from_text(name if owner == "@" else owner, int(ttl), "IN", type, data))
    return response.to_wire(want_shuffle=False)


def read(asked: Question, *records: str, **how: object) -> Reply:
    return reply.read(said(asked, *records, **how), asked.wire)  # type: ignore[arg-type]


SOA = "example.org. 900 SOA ns.example.org. root.example.org. 1 2 3 4 300"


def test_a_positive_answer_is_kept_for_its_smallest_ttl_and_ages() -> None:
    asked = question()
    got = read(asked, "@ 300 CNAME web.example.org.", "web.example.org. 60 A 192.0.2.1")
    assert got.answers and got.ttl == 60
    told = dns.message.from_wire(got.say(asked, room=512, age=50))
    assert [rrset.ttl for rrset in told.answer] == [250, 10]
    assert told.id == asked.id and str(told.question[0].name) == NAME
    assert [rrset.ttl for rrset in dns.message.from_wire(got.say(asked, room=512, ttl=30)).answer] == [30, 30]
    assert [rrset.ttl for rrset in dns.message.from_wire(got.say(asked, room=512, age=50)).answer] == [250, 10]


@pytest.mark.parametrize(
    ("records", "authority", "code", "kept"),
    [
        ((), (SOA,), 3, 300),
        ((), (SOA,), 0, 300),
        ((), ("example.org. 20 SOA ns.example.org. root.example.org. 1 2 3 4 300",), 0, 20),
        (("@ 10 CNAME web.example.org.",), (SOA,), 3, 10),
        ((), ("example.org. 90000 SOA ns.example.org. root.example.org. 1 2 3 4 90000",), 3, 3600),
        ((), (), 3, None),
        ((), (), 0, None),
        ((), (SOA,), 2, None),
        (("@ 0 A 192.0.2.1",), (), 0, None),
        (("@ 2147483647 A 192.0.2.1",), (), 0, 86400),
    ],
    ids=["nxdomain", "nodata", "soa-ttl", "cname", "capped", "no-soa", "nodata-no-soa", "servfail", "zero", "long"],
)
def test_how_long_an_answer_may_be_kept(
    records: tuple[str, ...], authority: tuple[str, ...], code: int, kept: int | None
) -> None:
    assert read(question(), *records, authority=authority, code=code).ttl == kept


def test_a_ttl_with_the_highest_bit_is_zero() -> None:
    asked = question()
    data = said(asked, "@ 1 A 192.0.2.1").replace(b"\0\0\0\1\0\4", b"\x80\0\0\1\0\4")
    assert reply.read(data, asked.wire).ttl is None


def test_a_soa_is_not_told_to_last_longer_than_the_absence() -> None:
    asked = question()
    told = dns.message.from_wire(read(asked, authority=(SOA,), code=3).say(asked, room=512, age=290))
    assert told.authority[0].ttl == 10 and told.rcode() == dns.rcode.NXDOMAIN


def test_a_referral_is_no_answer_to_who_wants_recursion() -> None:
    asked = question()
    data = said(asked, authority=("example.org. 60 NS ns.example.org.",), flags=0x8100)
    assert not reply.read(data, asked.wire).answers
    assert reply.read(data, asked.wire, recursion=False).answers


def test_an_answer_is_told_in_the_case_of_who_asks() -> None:
    asked = question("www.example.org")
    sent = asking.mixed(asked.wire)
    while sent == asked.wire:
        sent = asking.mixed(asked.wire)
    record = sent[:-4] + struct.pack(">HHIH", 1, 1, 60, 4) + b"\1\2\3\4"  # an owner without compression
    data = struct.pack(">HHHHHH", 7, 0x8180, 1, 1, 0, 0) + sent + record
    told = reply.read(data, sent).say(asked, room=512)
    assert told.count(b"\3www\7example\3org\0") == 2


def test_options_of_neighbours_and_the_clients_subnet_are_not_passed_on() -> None:
    options = [
        dns.edns.GenericOption(dns.edns.OptionType.make(10), b"12345678"),
        dns.edns.ECSOption("192.0.2.0", 24),
        dns.edns.GenericOption(dns.edns.OptionType.make(12), b"\0\0"),
    ]
    asked = question(use_edns=0, options=options)
    assert Asking.of(asked).options == b"" and Asking.of(asked).shared
    unknown = dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"x")
    wanting = Asking.of(question(use_edns=0, options=[*options, unknown]))
    assert wanting.options == b"\xfd\xe9\0\1x" and not wanting.shared
    sent = dns.message.from_wire(wanting.message(asked.wire, 3))
    assert [option.otype for option in sent.options] == [65001]
    assert sent.payload == 1232 and sent.id == 3


def test_an_opt_answers_an_opt_and_the_flags_are_ours() -> None:
    plain, wanting = question(), question(use_edns=0, want_dnssec=True)
    data = said(plain, "@ 60 A 192.0.2.1", flags=0x85B0)  # AA, RA, AD, CD
    got = reply.read(data, plain.wire)
    told = dns.message.from_wire(got.say(plain, room=512))
    assert told.edns == -1 and dns.flags.to_text(told.flags) == "QR RD RA"
    told = dns.message.from_wire(got.say(wanting, room=512))
    assert told.edns == 0 and told.ednsflags & dns.flags.DO and dns.flags.to_text(told.flags) == "QR RD RA AD"
    told = dns.message.from_wire(got.say(plain._replace(authentic=True), room=512))
    assert dns.flags.to_text(told.flags) == "QR RD RA AD"


def test_an_error_that_edns_alone_has_words_for() -> None:
    plain, speaks = question(), question(use_edns=0)
    opt = b"\0" + struct.pack(">HHIH", 41, 1232, 1 << 24, 0)
    data = said(plain, code=0)[:10] + b"\0\1" + plain.wire + opt
    got = reply.read(data, plain.wire)
    assert got.code == message.BADVERS
    assert dns.message.from_wire(got.say(speaks, room=512)).rcode() == dns.rcode.BADVERS
    assert dns.message.from_wire(got.say(plain, room=512)).rcode() == dns.rcode.SERVFAIL


@given(room=st.integers(60, 1232))
def test_what_does_not_fit_is_cut_between_records(room: int) -> None:
    asked = question()
    got = read(asked, *(f"@ 60 A 192.0.2.{number}" for number in range(40)))
    told = got.say(asked, room=room)
    parsed = dns.message.from_wire(told)
    count = sum(len(rrset) for rrset in parsed.answer)
    assert len(told) <= room < len(told) + 16 or count == 40
    assert bool(parsed.flags & dns.flags.TC) == (count < 40)


def test_an_additional_record_may_be_missing_without_a_word() -> None:
    asked = question(type="MX")
    response = dns.message.from_wire(said(asked, "@ 60 MX 1 mail.example.org."))
    response.additional.append(dns.rrset.from_text("mail.example.org.", 60, "IN", "A", "192.0.2.1"))
    got = reply.read(response.to_wire(), asked.wire)
    told = dns.message.from_wire(got.say(asked, room=len(response.to_wire()) - 1))
    assert told.answer and not told.additional and not told.flags & dns.flags.TC


labels = st.text("abcXYZ0-", min_size=1, max_size=12)
names = st.lists(labels, min_size=1, max_size=5).map(lambda parts: ".".join(parts) + ".")
lines = st.one_of(
    st.builds("@ {} A 192.0.2.{}".format, st.integers(0, 9999), st.integers(0, 255)),
    st.builds("{} {} CNAME {}".format, names, st.integers(0, 9999), names),
    st.builds("{} {} MX 1 {}".format, names, st.integers(0, 9999), names),
    st.builds("{} {} TXT {}".format, names, st.integers(0, 9999), labels),
    st.builds("{} {} SRV 1 2 3 {}".format, names, st.integers(0, 9999), names),
    st.builds("{} {} SOA {} {} 1 2 3 4 5".format, names, st.integers(0, 9999), names, names),
)


@given(names, st.lists(lines, max_size=8), st.lists(lines, max_size=3), st.integers(0, 100))
def test_what_passes_through_says_what_dnspython_reads(
    name: str, records: list[str], authority: list[str], age: int
) -> None:
    asked = question(name)
    data = said(asked, *records, authority=tuple(authority))
    told = dns.message.from_wire(reply.read(data, asked.wire).say(asked, room=65535, age=age))
    theirs = dns.message.from_wire(data)
    soa = dns.rdatatype.SOA
    for ours, section in ((told.answer, theirs.answer), (told.authority, theirs.authority)):
        assert ours == section
        for one, other in zip(ours, section, strict=True):
            least = other.ttl if other.rdtype != soa or section is theirs.answer else min(other.ttl, 5)
            assert one.ttl == max(least - age, 0)


def _header(answers: int = 1, authority: int = 0, additional: int = 0) -> bytes:
    return struct.pack(">HHHHHH", 7, 0x8180, 1, answers, authority, additional)


_A = struct.pack(">HHIH", 1, 1, 60, 4) + b"\1\2\3\4"


@pytest.mark.parametrize(
    "records",
    [
        b"\xc0\xff" + _A,
        b"\xc0\x21" + _A,
        b"\1a\xc0\x21" + _A,
        b"\xc0\x00" + _A,
        b"\x40" + _A,
        b"\xc0",
        b"\xc0\x0c" + _A[:-1],
        b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 400) + b"\1\2\3\4",
        b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 5) + b"\1\2\3\4\5",
        b"\xc0\x0c" + struct.pack(">HHIH", 5, 1, 60, 2) + b"\xc0\x2d",
        b"\xc0\x0c" + struct.pack(">HHIH", 5, 1, 60, 3) + b"\1a\0",
        b"\xc0\x0c" + struct.pack(">HHIH", 6, 1, 60, 2) + b"\0\0",
        b"".join(b"\x3f" + b"a" * 63 for _ in range(4)) + b"\0" + _A,
        b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0),
        b"",
    ],
    ids=[
        *("after-the-end", "itself", "before-itself", "header", "label-type", "half-a-pointer", "short-address"),
        *("length", "wide-address", "loop-in-data", "ok-cname", "soa", "long-name", "opt-in-answer", "nothing"),
    ],
)  # fmt: skip
def test_what_no_client_shall_be_given_is_refused(records: bytes, request: pytest.FixtureRequest) -> None:
    asked = question()
    data = _header() + asked.wire + records
    if "ok-" in request.node.name:
        assert dns.message.from_wire(reply.read(data, asked.wire).say(asked, room=512)).answer
        return
    with pytest.raises(ValueError):
        reply.read(data, asked.wire)


def test_pointers_to_names_in_data_of_any_type_may_be_followed() -> None:
    """A type that we do not read has a name in its data, which a later owner points into (compression by a careless server)."""
    asked = question()
    start = 12 + len(asked.wire)
    unknown = b"\xc0\x0c" + struct.pack(">HHIH", 65280, 1, 60, 8) + b"\0\1" + b"\1x\xc0\x10" + b"\0\0"
    place = start + 2 + 10 + 2
    data = _header(2) + asked.wire + unknown + struct.pack(">H", 0xC000 | place) + _A
    got = reply.read(data, asked.wire)
    assert str(dns.message.from_wire(got.say(asked, room=512)).answer[1].name) == "x.Example.org."


def test_what_stands_after_the_opt_or_the_end_is_not_passed_on() -> None:
    asked = question()
    opt = b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0)
    data = _header(1, 0, 2) + asked.wire + b"\xc0\x0c" + _A + opt + b"\xc0\x0c" + _A + b"rubbish"
    told = dns.message.from_wire(reply.read(data, asked.wire).say(asked, room=512))
    assert told.answer and not told.additional and told.edns == -1


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_any_bytes_are_read_or_refused(rest: bytes, answers: int, authority: int, additional: int) -> None:
    asked = question()
    try:
        got = reply.read(_header(answers, authority, additional) + asked.wire + rest, asked.wire)
    except ValueError:
        return
    for room in (512, 100, 65535):
        assert len(got.say(asked, room=room, age=3)) <= room


@given(st.data())
def test_an_answer_with_bytes_turned_is_read_or_refused(data: st.DataObject) -> None:
    asked = question()
    original = bytearray(
        said(asked, "@ 300 CNAME web.example.org.", "web.example.org. 60 A 192.0.2.1", authority=(SOA,))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(12 + len(asked.wire), len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = reply.read(bytes(original), asked.wire)
    except ValueError:
        return
    assert len(got.say(asked, room=512, age=1)) <= 512


def test_a_pointer_to_a_pointer_is_the_name_that_it_leads_to() -> None:
    asked = question()
    start = 12 + len(asked.wire)
    first = b"\xc0\x0c" + struct.pack(">HHIH", 5, 1, 60, 2) + b"\xc0\x0c"
    second = b"\xc0\x0c" + struct.pack(">HHIHH", 5, 1, 60, 2, 0xC000 | (start + len(first) - 2))
    data = struct.pack(">HHHHHH", 1, 0x8180, 1, 2, 0, 0) + asked.wire + first + second
    assert reply.read(data, asked.wire).say(asked, room=512, age=0).count(b"\xc0\x0c") >= 2


def test_a_message_full_of_pointers_takes_no_time() -> None:
    """64 KiB in which each pointer leads to the one before: read once each, not once for each that leads there."""
    asked = question(type="TXT")
    start = 12 + len(asked.wire)
    links = bytearray(b"\xc0\x0c")
    while len(links) < 12000:
        links += struct.pack(">H", 0xC000 | (start + 12 + len(links) - 2))
    record = b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 60, len(links)) + links
    owners = b"".join(struct.pack(">H", 0xC000 | (start + 12 + len(links) - 2)) + _A for _ in range(3000))
    with pytest.raises(ValueError):
        reply.read(_header(3001) + asked.wire + record + owners, asked.wire)


def test_case_is_mixed_in_letters_alone() -> None:
    wire = b"\3www\7ex-1pl3\3org\0\0\x41\0\1"  # type 65 is an A
    seen = {asking.mixed(wire) for _ in range(200)}
    assert len(seen) > 100
    assert {one.lower()[:-4] + one[-4:] for one in seen} == {wire}
    assert asking.letters(wire) == 10 and asking.mixed(b"\0\0\1\0\1") == b"\0\0\1\0\1"


@pytest.mark.parametrize("turn", ["id", "case", "opcode", "query", "type"])
def test_an_answer_belongs_to_its_question_alone(turn: str) -> None:
    asked = question()
    data = said(asked, "@ 60 A 192.0.2.1")
    assert asking.belongs(data, 7, asked.wire)
    wrong = {
        "id": b"\0\x08" + data[2:],
        "case": data.replace(b"Example", b"example"),
        "opcode": data[:2] + b"\xa0" + data[3:],
        "query": data[:2] + b"\1" + data[3:],
        "type": data.replace(asked.wire, asked.wire[:-3] + b"\x1c\0\1"),
    }
    assert not asking.belongs(wrong[turn], 7, asked.wire)
