"""The wire format: ours beside dnspython's on random queries, and what is no query."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from typing import Any

import pytest
from dns.message import from_wire

from pynet.names import message
from pynet.names.message import AAAA, FORMERR, IN, MAX_UDP, NOERROR, OPT, REFUSED, TXT, A, Malformed, Question, Record

QUERIES = 100_000 if os.environ.get("PYNET_THOROUGH") else 4_000
HEAD, END = struct.Struct(">HHHHHH"), struct.Struct(">HH")
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
COOKIE = b"\x00\x0a\x00\x08clientck"


def random_name(chance: random.Random) -> bytes:
    """A name on the wire; one in ten of any bytes, one in ten as long as there may be."""
    long, wild = chance.random() < 0.1, chance.random() < 0.1
    wire = b""
    for _ in range(130 if long else chance.randrange(6)):
        size = chance.choice((1, 1, 2, 63)) if long else chance.randrange(1, 20)
        label = chance.randbytes(size) if wild else bytes(chance.choices(LETTERS, k=size))
        if len(wire) + size + 2 > 255:
            break
        wire += bytes((size,)) + label
    return wire + b"\0"


def random_options(chance: random.Random) -> bytes:
    return b"".join(
        END.pack(chance.choice((65001, 65002)), size) + chance.randbytes(size)
        for size in (chance.randrange(30) for _ in range(chance.randrange(3)))
    )


def opt(size: int, ttl: int, options: bytes = b"", owner: bytes = b"\0") -> bytes:
    return owner + struct.pack(">HHIH", OPT, size, ttl, len(options)) + options


def ask(
    name: bytes = b"\2db\0", type: int = A, *, flags: int = 0x0100, tail: bytes = b"", more: int = 0, klass: int = IN
) -> bytes:
    return HEAD.pack(4711, flags, 1, 0, 0, more) + name + END.pack(type, klass) + tail


def random_query(chance: random.Random) -> bytes:
    flags = chance.choice((0x0100, 0x0100, 0, 0x0110, 0x0120, 0x0010))
    # types and options whose data dnspython would want to be something are not among these: it is a parser of records
    type = chance.choice((1, 28, 12, 15, 16, 33, 65, 257, 65280, chance.randrange(1, 41)))
    edns = chance.random() < 0.5
    tail = opt(chance.randrange(65536), chance.choice((0, 0x8000)), random_options(chance)) if edns else b""
    return ask(random_name(chance), type, flags=flags, tail=tail, more=int(edns))


def folded(library: Any) -> bytes:
    """The name of a message of dnspython's in our notation."""
    labels = library.question[0].name.labels[:-1]
    return b".".join(label.lower().replace(b"\\", b"\\\\").replace(b".", b"\\.") for label in labels)


def agrees(question: Question, library: Any) -> bool:
    (asked,) = library.question
    return (
        question.name == folded(library)
        and (question.type, question.klass) == (asked.rdtype, asked.rdclass)
        and question.id == library.id
        and question.recursion == bool(library.flags & message.RD)
        and question.checking_disabled == bool(library.flags & message.CD)
        and question.edns == (library.payload if library.edns >= 0 else None)
        and question.dnssec_ok == bool(library.ednsflags & message.DO)
    )


def test_queries_are_read_as_dnspython_reads_them() -> None:
    chance = random.Random(1)
    for _ in range(QUERIES):
        data = random_query(chance)
        question = message.parse(data)
        assert isinstance(question, Question), (data, question)
        assert agrees(question, from_wire(data)), (data, question)
        assert question.wire == data[12 : 12 + len(question.wire)]


def test_replies_are_what_dnspython_reads() -> None:
    chance = random.Random(2)
    for _ in range(QUERIES):
        question = message.parse(random_query(chance))
        assert isinstance(question, Question)
        records = [
            Record(type, chance.randrange(2**31), chance.randbytes(4 if type == A else 16))
            for type in (chance.choice((A, AAAA)) for _ in range(chance.randrange(5)))
        ]
        code, ours = chance.choice((0, 0, 3, 5)), chance.random() < 0.5
        room = chance.choice((question.room, 65535, chance.randrange(65536)))
        data = message.reply(question, code, records, authoritative=ours, truncate_at=room)
        assert len(data) <= max(room, 12 + len(question.wire) + 11 * (question.edns is not None))
        read = from_wire(data)
        assert (read.question[0].name.to_wire() or b"") + END.pack(question.type, IN) == question.wire
        assert (read.id, read.rcode()) == (question.id, code)
        assert bool(read.flags & message.AA) == ours
        assert (read.edns >= 0) == (question.edns is not None)
        # dnspython joins records of one type: count them, and look at the first of each
        found = [(record.rdtype, record.to_wire()) for records in read.answer for record in records]
        whole = {(record.type, record.data) for record in records[: HEAD.unpack_from(data)[3]]}
        assert {(type, wire) for type, wire in found} == whole
        assert bool(read.flags & message.TC) == (HEAD.unpack_from(data)[3] < len(records))


def test_damaged_queries_are_read_as_dnspython_reads_them_or_refused() -> None:
    """Nothing is taken for a question that is none; what is refused, and how, is in the tests below."""
    chance = random.Random(3)
    taken = 0
    for _ in range(QUERIES):
        data = bytearray(random_query(chance))
        for _ in range(chance.randrange(1, 4)):
            where = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[where] = chance.randrange(256)
                case 1:
                    del data[where:]
                case 2:
                    data[where:where] = chance.randbytes(chance.randrange(1, 5))
                case _:
                    data[where] ^= 1 << chance.randrange(8)
            if not data:
                break
        found = message.parse(bytes(data))
        if isinstance(found, Malformed):
            assert found.reply is None or (found.reply[:2] == data[:2] and found.reply[2] & 0x80)
            continue
        taken += 1
        try:
            library = from_wire(bytes(data))
        except Exception as error:  # it reads the data of options and records, which we pass over or on as they are
            assert data[11], (bytes(data), error)
            continue
        assert agrees(found, library), (bytes(data), found)
    assert taken > QUERIES // 20


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", None),
        (b"\0", None),
        (bytes(11), None),
        (ask(flags=0x8100), None),
        (ask(flags=0x1000), message.NOTIMP),
        (ask(flags=0x2800), message.NOTIMP),
        (bytes(12), FORMERR),
        (HEAD.pack(1, 0x100, 2, 0, 0, 0) + b"\1a\0\0\1\0\1" * 2, FORMERR),
        (HEAD.pack(1, 0x100, 1, 1, 0, 0) + b"\1a\0\0\1\0\1", FORMERR),
        (HEAD.pack(1, 0x100, 1, 0, 1, 0) + b"\1a\0\0\1\0\1", FORMERR),
        (HEAD.pack(1, 0x100, 1, 0, 0, 65535) + b"\1a\0\0\1\0\1", FORMERR),
        (ask(flags=0x0300), FORMERR),
        (ask(b"\xc0\x0c"), FORMERR),
        (ask(b"\1a\xc0\x0c"), FORMERR),
        (ask(b"\x40a\0"), FORMERR),
        (ask(b"\x80a\0"), FORMERR),
        (ask((b"\x3f" + b"a" * 63) * 4 + b"\0"), FORMERR),
        (ask(b"\1a" * 200 + b"\0"), FORMERR),
        (ask(b"\2db"), FORMERR),
        (ask()[:-1], FORMERR),
        (ask()[:-4], FORMERR),
        (ask(tail=b"x"), FORMERR),
        (ask(tail=bytes(65507 - 20)), FORMERR),
        (HEAD.pack(1, 0x100, 1, 0, 0, 0) + b"\1a" * 32761 + b"\0", FORMERR),
        (HEAD.pack(1, 0x100, 1, 0, 0, 4) + b"\xc0" * 65523, FORMERR),
        (ask(more=1), FORMERR),
        (ask(more=1, tail=opt(1232, 0)[:-1]), FORMERR),
        (ask(more=1, tail=opt(1232, 0, owner=b"\1a\0")), FORMERR),
        (ask(more=1, tail=opt(1232, 0, owner=b"\xc0\x0c")), FORMERR),
        (ask(more=2, tail=opt(1232, 0) * 2), FORMERR),
        (ask(more=1, tail=opt(1232, 0, b"\0\x0a\0\x09clientck")), FORMERR),
        (ask(more=1, tail=opt(1232, 1 << 16)), message.BADVERS),
        (ask(more=1, tail=opt(1232, 255 << 16)), message.BADVERS),
        (ask(type=OPT), FORMERR),
        (ask(klass=3), REFUSED),
        (ask(klass=255), REFUSED),
    ],
)  # fmt: skip
def test_what_is_no_question_has_the_answer_that_an_rfc_names(data: bytes, code: int | None) -> None:
    found = message.parse(data)
    assert isinstance(found, Malformed)
    if code is None:
        assert found.reply is None
        return
    assert found.reply is not None
    read = from_wire(found.reply)
    assert (read.rcode(), read.id) == (code, int.from_bytes(data[:2], "big"))
    assert not read.answer and read.flags & message.QR


def test_what_else_is_asked_along_is_passed_over() -> None:
    """RFC 6891 6.1.1: OPT stands anywhere; RFC 7873 5.4: a server without cookies ignores them; a TSIG is for nobody here."""
    tsig = b"\3key\0" + struct.pack(">HHIH", 250, 255, 0, 4) + b"blah"
    for tail in (opt(4096, 0x8000, COOKIE) + tsig, tsig + opt(4096, 0x8000, COOKIE)):
        question = message.parse(ask(more=2, tail=tail))
        assert isinstance(question, Question)
        assert (question.edns, question.dnssec_ok, question.options) == (4096, True, COOKIE)
        assert from_wire(message.reply(question, NOERROR)).options == ()


@pytest.mark.parametrize(
    ("size", "room"), [(None, 512), (0, 512), (511, 512), (1000, 1000), (1232, 1232), (65535, 1232)]
)
def test_a_reply_over_udp_has_the_room_that_the_asker_says(size: int | None, room: int) -> None:
    question = message.parse(ask() if size is None else ask(more=1, tail=opt(size, 0)))
    assert isinstance(question, Question)
    assert question.room == room
    records = [Record(A, 600, bytes((10, 0, 0, last))) for last in range(200)]
    data = message.reply(question, NOERROR, records, truncate_at=question.room)
    assert room - 16 < len(data) <= room
    read = from_wire(data)
    assert read.flags & message.TC
    assert [one.address for one in read.answer[0]] == [f"10.0.0.{last}" for last in range(len(read.answer[0]))]


def test_what_is_only_additional_is_left_out_without_truncation() -> None:
    question = message.parse(ask())
    assert isinstance(question, Question)
    fits = Record(TXT, 600, bytes((255,)) + b"x" * 255)
    data = message.reply(question, NOERROR, (fits,), additional=(Record(A, 600, bytes(4)), fits), truncate_at=512)
    read = from_wire(data)
    assert (len(read.answer), len(read.additional), read.flags & message.TC) == (1, 1, 0)
    assert from_wire(message.truncated(question)).flags & message.TC
    assert len(message.truncated(question)) == 20


def test_names_that_differ_differ() -> None:
    """A dot within a label is none between two, and a backslash is one."""
    names = {b"\3a.b\0", b"\1a\1b\0", b"\4a\\.b\0", b"\2a\\\1b\0", b"\1a\0", b"\0", b"\2a.\0", b"\2.a\0", b"\1.\0"}
    asked = [message.parse(ask(name)) for name in names]
    assert len({question.name for question in asked if isinstance(question, Question)}) == len(names)
    upper, lower = message.parse(ask(b"\2Db\0")), message.parse(ask(b"\2dB\0"))
    assert isinstance(upper, Question) and isinstance(lower, Question)
    assert upper.name == lower.name == b"db"
    assert from_wire(message.reply(upper, NOERROR)).question[0].name.to_text() == "Db."


@pytest.mark.parametrize("name", ["a..b", ".a", "a" * 64, ".".join(["a" * 60] * 5), "\udcff"])
def test_what_has_no_form_on_the_wire_is_said(name: str) -> None:
    with pytest.raises(ValueError):
        message.wire_name(name)


def test_a_name_goes_out() -> None:
    assert message.wire_name("db.Back") == message.wire_name("db.Back.") == b"\2db\4Back\0"
    assert message.wire_name("") == message.wire_name(".") == b"\0"
    assert len(message.wire_name(".".join(["a"] * 127))) == 255


def test_the_server_is_loaded_without_dnspython() -> None:
    code = "import sys, pynet.names.server, pynet.names.presentation; sys.exit('dns' in sys.modules)"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_what_people_are_shown_and_what_is_asked_for_them() -> None:
    from pynet.names import presentation

    question = message.parse(presentation.query("Db.example", "AAAA"))
    assert isinstance(question, Question)
    assert (question.name, question.type, question.edns) == (b"db.example", AAAA, MAX_UDP)
    plain = message.parse(presentation.query(".", "TYPE65280", payload=0))
    assert isinstance(plain, Question)
    assert (plain.name, plain.type, plain.edns) == (b"", 65280, None)
    data = message.reply(question, NOERROR, (Record(AAAA, 60, bytes(15) + b"\1"),))
    assert (presentation.code_name(data), presentation.lines(data)) == ("NOERROR", ["Db.example. 60 IN AAAA ::1"])
    assert (presentation.type_name(28), presentation.type_name(65280)) == ("AAAA", "TYPE65280")
    for wrong in (("a..b", "A"), ("a" * 64, "A"), ("db", "NONSENSE")):
        with pytest.raises(ValueError, match="cannot ask for"):
            presentation.query(*wrong)
    with pytest.raises(ValueError, match="no message"):
        presentation.lines(b"\0")
