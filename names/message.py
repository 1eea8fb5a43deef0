"""The wire format of what is asked and answered often: a query of one question in, replies out.  Pure.

    parse    bytes -> Question | Malformed                                                    RFC 1035 4.1, RFC 6891
    reply    (Question, code, records) -> bytes, cut between records to what the asker has room for

     0  id | QR opcode AA TC RD RA - AD CD rcode | four counts      12 bytes
    12  labels ... 0 | type | class                                 the question, kept as asked: ``Question.wire``
        0 | 41 | payload size | code version DO | length | options  OPT, if any

A query has one question and at most a few additional records.  A name in the first question has nothing before it that a
compression pointer could mean, so a pointer is an error there and no loop can exist; and a name in a reply is the question's own,
by a pointer to byte 12.  Names are compared folded (RFC 4343) and repeated as they came (0x20).  What else the format knows
(records of an upstream's reply, texts) is rare here, and presentation.py's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, OPT, TSIG, IXFR, AXFR, ANY = (
    *(1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 41, 250, 251, 252, 255),
)
IN: Final = 1

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE: Final = 0x7800
DO: Final = 0x8000
"""In the lower half of an OPT's TTL (RFC 3225)."""

HEADER: Final = 12
PLAIN_UDP: Final = 512
"""What an asker without EDNS has room for (RFC 1035 4.2.1)."""
MAX_UDP: Final = 1232
"""What is sent over UDP at most, and said to be taken: fits into IPv6's least MTU (dnsflagday.net/2020)."""
MAX_TCP: Final = 65535
MAX_NAME: Final = 255
"""On the wire, with lengths and the root (RFC 1035 2.3.4)."""
_MAX_ADDITIONAL: Final = 4
"""A query has an OPT, perhaps a TSIG or SIG(0); more is no query that anybody sends."""

_header = struct.Struct(">HHHHHH")
_two = struct.Struct(">HH")
_fixed = struct.Struct(">HHIH")
_opt = struct.Struct(">BHHIH")
_record = struct.Struct(">HHHIH")
_OWNER: Final = 0xC000 | HEADER


class Question(NamedTuple):
    name: bytes
    """Folded, labels joined by dots, none at the end; b"" is the root.  A dot or a backslash within a label has a
    backslash before it."""
    type: int
    klass: int
    wire: bytes
    """Name, type and class as asked, case kept: what a reply repeats."""
    id: int
    recursion: bool
    edns: int | None = None
    """Payload size that the asker has room for; None: it speaks no EDNS."""
    dnssec_ok: bool = False
    checking_disabled: bool = False
    options: bytes = b""
    """The EDNS options as they came: code, length, data of each (RFC 6891 6.1.2)."""
    authentic: bool = False
    """AD: it wants to know whether what it is told was validated (RFC 6840 5.7)."""

    @property
    def room(self) -> int:
        """The most that a reply over UDP may have."""
        return PLAIN_UDP if self.edns is None else max(PLAIN_UDP, min(self.edns, MAX_UDP))


class Malformed(NamedTuple):
    """No question that we answer."""

    why: str
    reply: bytes | None
    """None: say nothing (a response, or less than a header)."""


class Record(NamedTuple):
    type: int
    ttl: int
    data: bytes
    owner: bytes | None = None
    """A name on the wire; None is the question's."""


def parse(data: bytes) -> Question | Malformed:
    """What *data*, a message without TCP's length before it, asks."""
    if len(data) < HEADER:
        return Malformed("shorter than a header", None)
    id, flags, questions, answers, authority, additional = _header.unpack_from(data)
    if flags & QR:
        return Malformed("a response", None)
    if flags & OPCODE:
        return _refusal("opcode is not QUERY", data, NOTIMP)
    if questions != 1 or answers or authority or additional > _MAX_ADDITIONAL or flags & TC:
        return _refusal("not one question and nothing else", data, FORMERR)
    at, labels, end = HEADER, [], len(data) - 4
    while True:
        if at >= end + 1:
            return _refusal("ends within the question", data, FORMERR)
        length = data[at]
        if not length:
            break
        if length > 63:
            return _refusal("a pointer, or a label that is too long", data, FORMERR)
        labels.append(data[at + 1 : at + 1 + length])
        at += length + 1
    at += 1
    if at > end:
        return _refusal("ends within the question", data, FORMERR)
    if at - HEADER > MAX_NAME:
        return _refusal("the name is too long", data, FORMERR)
    type, klass = _two.unpack_from(data, at)
    at += 4
    name = b".".join(labels)
    if name.count(b".") >= len(labels) > 0 or b"\\" in name:
        name = b".".join(label.replace(b"\\", b"\\\\").replace(b".", b"\\.") for label in labels)
    question = Question(
        *(name.lower(), type, klass, data[HEADER:at], id, bool(flags & RD)),
        checking_disabled=bool(flags & CD),
        authentic=bool(flags & AD),
    )
    if additional:
        found = _additional(data, at, additional, question)
        if isinstance(found, Malformed):
            return found
        question = found
    elif at != len(data):
        return _refusal("bytes after the end", data, FORMERR)
    if type == OPT:
        return Malformed("OPT is nothing to ask for", reply(question, FORMERR))
    if klass != IN:
        return Malformed("class is not IN", reply(question, REFUSED))
    return question


def _additional(data: bytes, at: int, count: int, question: Question) -> Question | Malformed:
    """*question* with what its OPT says (RFC 6891 6.1.1: one, whose owner is the root); what else there is, is passed over."""
    for _ in range(count):
        owner = at
        at = _past(data, at)
        if at < 0 or at + _fixed.size > len(data):
            return _refusal("ends within a record", data, FORMERR)
        type, size, ttl, length = _fixed.unpack_from(data, at)
        at += _fixed.size
        if at + length > len(data):
            return _refusal("ends within a record", data, FORMERR)
        if type == OPT:
            if question.edns is not None or data[owner]:
                return _refusal("a second OPT, or one with a name", data, FORMERR)
            options = data[at : at + length]
            question = question._replace(edns=size, dnssec_ok=bool(ttl & DO), options=options)
            if ttl >> 16 & 0xFF:
                return Malformed("version of EDNS is not 0", reply(question, BADVERS))
            if not whole(options):
                return _refusal("ends within an option", data, FORMERR)
        at += length
    return question if at == len(data) else _refusal("bytes after the end", data, FORMERR)


def _past(data: bytes, at: int) -> int:
    """Where the name at *at* ends, -1 if it does not; what a pointer means is not looked at."""
    start = at
    while at < len(data) and at - start < MAX_NAME:
        length = data[at]
        if length >= 0xC0:
            return at + 2
        at += length + 1
        if length > 63:
            return -1
        if not length:
            return at
    return -1


def whole(options: bytes) -> bool:
    """Whether EDNS's *options* end where the last one says."""
    at = 0
    while at + 4 <= len(options):
        at += 4 + int.from_bytes(options[at + 2 : at + 4], "big")
    return at == len(options)


def _refusal(why: str, data: bytes, code: int) -> Malformed:
    """An error that repeats nothing but the header: what follows it can not be trusted to be a question."""
    id, flags = _two.unpack_from(data)
    return Malformed(why, _header.pack(id, QR | flags & (OPCODE | RD | CD) | RA | code, 0, 0, 0, 0))


def reply(
    question: Question,
    code: int,
    records: Sequence[Record] = (),
    *,
    additional: Sequence[Record] = (),
    authoritative: bool = False,
    truncate_at: int = MAX_UDP,
) -> bytes:
    """A reply of at most *truncate_at* bytes.  It ends between two records: TC where an answer is missing, nothing where only
    an additional one is (RFC 2181 9).  An OPT answers an OPT (RFC 6891 7)."""
    flags = QR | RA | code & 15
    if question.recursion:
        flags |= RD
    if question.checking_disabled:
        flags |= CD
    if authoritative:
        flags |= AA
    tail = b""
    if question.edns is not None:
        ttl = code >> 4 << 24 | (DO if question.dnssec_ok else 0)
        tail = _opt.pack(0, OPT, MAX_UDP, ttl, 0)
    room = truncate_at - HEADER - len(question.wire) - len(tail)
    parts, counts = [question.wire], [0, 0]
    for section, those in enumerate((records, additional)):
        for record in those:
            piece = _packed(record)
            room -= len(piece)
            if room < 0:
                break
            parts.append(piece)
            counts[section] += 1
        if room < 0:
            break
    if counts[0] < len(records):
        flags |= TC
    if tail:
        parts.append(tail)
    return _header.pack(question.id, flags, 1, counts[0], 0, counts[1] + bool(tail)) + b"".join(parts)


def _packed(record: Record) -> bytes:
    if record.owner is None:
        return _record.pack(_OWNER, record.type, IN, record.ttl, len(record.data)) + record.data
    return record.owner + _fixed.pack(record.type, IN, record.ttl, len(record.data)) + record.data


def truncated(question: Question) -> bytes:
    """The reply that sends its asker to TCP."""
    return reply(question, NOERROR, (Record(A, 0, b"\0" * 4),), truncate_at=0)


def wire_name(name: str) -> bytes:
    """*name*, dots between its labels, as it goes out.  ValueError for one that has no such form."""
    labels = [label.encode() for label in name.rstrip(".").split(".")] if name.rstrip(".") else []
    if any(not 0 < len(label) < 64 for label in labels) or sum(map(len, labels)) + len(labels) + 1 > MAX_NAME:
        raise ValueError(f"not a domain name: {name!r}")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
