"""What an upstream said: read once, kept, and said again to whoever asks the same.  Pure.

    read(data, wire)            -> Reply, or ValueError for what no client shall be given
    Reply.say(question, ...)    -> bytes               id, name as asked, TTLs that have aged, OPT, cut to the asker's room

An upstream's message is kept as one piece, ``body``: all its records but the OPT, which is between neighbours (RFC 6891 6.2.6).
Compression pointers mean places in the message, and the question before the body always has the same length, so they
stay right; what changes, TTLs, is in places that are known.  Nothing is taken out of one answer into another: what
an upstream adds about other names is told to who asked for this one, and believed by nobody.

``read`` looks at every record, and at names in those types that may be compressed: pointers go back only (so none goes round),
names have at most 255 bytes, records end where they say.  What passes can be given to any client.
"""

from __future__ import annotations

import struct
from array import array
from typing import Final

from .asking import ERROR, only, passed_on
from .message import (
    AA,
    AAAA,
    AD,
    ANY,
    CD,
    CNAME,
    DO,
    HEADER,
    MAX_NAME,
    MAX_UDP,
    MX,
    NOERROR,
    NS,
    NXDOMAIN,
    OPCODE,
    OPT,
    PTR,
    QR,
    RA,
    RD,
    SERVFAIL,
    SOA,
    SRV,
    TC,
    A,
    Question,
    whole,
)

DNAME, RRSIG = 39, 46
LONGEST: Final = 86400
"""Seconds that an answer is kept at most (RFC 8767 4: implementations cap; a day is the usual one)."""
LONGEST_NEGATIVE: Final = 3600
"""The same of a name's or type's absence (RFC 2308 5: one to three hours work well)."""

_header = struct.Struct(">HHHHHH")
_fixed = struct.Struct(">HHIH")
_ttl = struct.Struct(">I")
_opt = struct.Struct(">BHHIH")
_SIZES: Final = {A: 4, AAAA: 16}
_NAMES: Final = {NS: 0, CNAME: 0, PTR: 0, DNAME: 0, MX: 2, SRV: 6}
"""Types whose data ends in a name that a compression pointer may stand in (RFC 3597 4, RFC 1035 3.3; SRV: some do), and
how many bytes are before it."""


class Reply:
    """What an upstream said; frozen but for the last ageing of it."""

    __slots__ = (
        "_age",
        "_aged",
        "authenticated",
        "body",
        "code",
        "counts",
        "lame",
        "marks",
        "options",
        "truncated",
        "ttl",
    )

    def __init__(
        self,
        code: int,
        body: bytes = b"",
        counts: tuple[int, int, int] = (0, 0, 0),
        marks: array[int] | None = None,
        *,
        ttl: int | None = None,
        authenticated: bool = False,
        truncated: bool = False,
        lame: bool = False,
        options: bytes = b"",
    ) -> None:
        self.code = code
        """With EDNS's upper bits."""
        self.body = body
        self.counts = counts
        """Records of answer, authority and additional section."""
        self.marks = marks or array("I")
        """Of each record: where in the body its TTL is, its TTL, where it ends."""
        self.ttl = ttl
        """Seconds that it may be kept; None: not at all."""
        self.authenticated = authenticated
        self.truncated = truncated
        self.lame = lame
        """A referral, from somebody who was asked to follow them."""
        self.options = options
        """What the upstream's OPT had that is passed on."""
        self._age, self._aged = -1, b""

    @property
    def answers(self) -> bool:
        """Whether it settles the question: else somebody else may know better."""
        return self.code in (NOERROR, NXDOMAIN) and not self.lame and not self.truncated

    def say(
        self, question: Question, *, room: int, age: int = 0, ttl: int | None = None, shared: bool = False
    ) -> bytes:
        """The reply to *question*, which is what was asked.  *age* in seconds is taken off every TTL, or *ttl* takes the place of
        all; *room* in bytes; *shared*: it was asked for somebody else, whose options are not this one's but for RFC 8914's."""
        code = self.code if question.edns is not None or self.code < 16 else SERVFAIL
        flags = QR | RA | code & 15
        if question.recursion:
            flags |= RD
        if question.checking_disabled:
            flags |= CD
        if self.authenticated and (question.dnssec_ok or question.authentic):
            flags |= AD
        if self.truncated:
            flags |= TC
        body = self._aged if age == self._age and ttl is None else self._at(age, ttl)
        tail, (answers, authority, additional) = b"", self.counts
        if question.edns is not None:
            options = only(self.options, ERROR) if shared and self.options else self.options
            tail = (
                _opt.pack(0, OPT, MAX_UDP, code >> 4 << 24 | (DO if question.dnssec_ok else 0), len(options)) + options
            )
        room -= HEADER + len(question.wire) + len(tail)
        if len(body) > room:
            body, (answers, authority, additional), missing = self._cut(body, room)
            flags |= missing
        return b"".join(
            (
                _header.pack(question.id, flags, 1, answers, authority, additional + bool(tail)),
                question.wire,
                body,
                tail,
            )
        )

    def _at(self, age: int, ttl: int | None) -> bytes:
        """The body with the TTLs of that moment; asked for again within its second it is at hand."""
        body, marks = bytearray(self.body), self.marks
        for at in range(0, len(marks), 3):
            _ttl.pack_into(body, marks[at], max(marks[at + 1] - age, 0) if ttl is None else ttl)
        aged = bytes(body)
        if ttl is None:
            self._age, self._aged = age, self.body if aged == self.body else aged
        return aged

    def _cut(self, body: bytes, room: int) -> tuple[bytes, tuple[int, int, int], int]:
        """As much of *body* as there is room for: it ends between records, and an additional one may be missing (RFC 2181 9)."""
        ends = [end for end in self.marks[2::3] if end <= room]
        left, counts = len(ends), list[int]()
        for count in self.counts:
            counts.append(min(count, left))
            left -= counts[-1]
        missing = counts[:2] != list(self.counts[:2])
        return body[: ends[-1] if ends else 0], (counts[0], counts[1], counts[2]), TC if missing else 0

    @property
    def size(self) -> int:
        """Bytes of memory, its last ageing with it; what CPython's objects take is in there (tests measure it)."""
        return 2 * len(self.body) + 4 * len(self.marks) + len(self.options) + 300


def read(data: bytes, wire: bytes, *, recursion: bool = True, longest: int = LONGEST) -> Reply:
    """What *data* says, which belongs to the question *wire*.  ValueError where a client would be harmed by it."""
    _, flags, _, *counts = _header.unpack_from(data)
    start = HEADER + len(wire)
    type = int.from_bytes(wire[-4:-2], "big")
    names = _Names(data, wire)
    at, size = start, len(data)
    code, options, cut = flags & 15, b"", 0
    marks, kept = array("I"), [0, 0, 0]
    name, echoed = wire[:-4], list[int]()
    positive, absent = False, None
    lowest = longest
    if flags & OPCODE:
        raise ValueError("not the answer to a query")
    for section, count in enumerate(counts):
        for _ in range(count):
            begin = at
            at = names.past(at)
            if at + 10 > size:
                raise ValueError("ends within a record")
            kind, _, ttl, length = _fixed.unpack_from(data, at)
            at += 10
            end = at + length
            if end > size:
                raise ValueError("ends within a record")
            if kind == OPT:
                if section != 2 or cut or data[begin]:
                    raise ValueError("an OPT where none can be")
                code |= ttl >> 24 << 4
                options = data[at:end]
                at, cut = end, begin
                continue
            if (
                cut
            ):  # what stands after the OPT would have to move, and names in it with it: additional, nobody misses it
                at = end
                continue
            names.check(kind, at, end)
            if data.startswith(name, begin):
                echoed.append(begin - start)
            ttl = 0 if ttl >> 31 else min(ttl, longest)  # RFC 2181 8
            if kind == SOA and section == 1:
                ttl = min(ttl, int.from_bytes(data[end - 4 : end], "big"))  # RFC 2308 3, 5
                absent = ttl if absent is None else min(absent, ttl)
            elif not section:
                positive = positive or kind == type or type == ANY
            lowest = min(lowest, ttl)
            marks.extend((at - 6 - start, ttl, end - start))
            kept[section] += 1
            at = end
    if at != size and not cut:
        cut = at  # bytes after the end: not passed on
    if options and not whole(options):
        raise ValueError("ends within an option")
    body = data[start : cut or size]
    if echoed and len(name) > 1:  # the case is what we sent: not what its asker wrote
        plain = bytearray(body)
        for place in echoed:
            plain[place : place + len(name)] = name.lower()
        body = bytes(plain)
    truncated = bool(flags & TC)
    lame = (
        recursion and not truncated and code == NOERROR and not counts[0] and absent is None and not flags & (AA | RA)
    )
    keep: int | None = lowest if positive and code == NOERROR else None
    if not positive and code in (NOERROR, NXDOMAIN) and absent is not None:
        keep = min(lowest, LONGEST_NEGATIVE)
    return Reply(
        code,
        body,
        (kept[0], kept[1], kept[2]),
        marks,
        ttl=keep if keep and not truncated else None,
        authenticated=bool(flags & AD),
        truncated=truncated,
        lame=lame,
        options=passed_on(options) if options else b"",
    )


class _Names:
    """The names of one message, and how long each is from where a pointer may lead to."""

    __slots__ = ("_data", "_known")

    def __init__(self, data: bytes, wire: bytes) -> None:
        self._data = data
        self._known: dict[int, int] = {}
        left = len(wire) - 4
        at = HEADER
        while left:
            self._known[at] = left
            step = data[at] + 1
            at += step
            left -= step

    def past(self, at: int) -> int:
        """Where the name at *at* ends.  ValueError where it is none."""
        data, known = self._data, self._known
        if data[at : at + 2] == b"\xc0\x0c":  # the question's: nearly always
            return at + 2
        starts, here = list[int](), at
        while here < len(data):
            length = data[here]
            if length >= 0xC0:
                target = int.from_bytes(data[here : here + 2], "big") & 0x3FFF
                end = here + 2
                if target not in known:  # the tail of a name in data that we do not read: its own pointers go back, too
                    if not HEADER <= target < at:
                        raise ValueError("a compression pointer that does not lead back")
                    self._walk(target)
                tail = known[target]
                break
            if length > 63:
                raise ValueError("a label that is too long")
            starts.append(here)
            here += length + 1
            if not length:
                end, tail = here, 0
                break
        else:
            raise ValueError("ends within a name")
        if here - at + tail > MAX_NAME or end > len(data):
            raise ValueError("a name that is too long")
        for start in starts:
            known[start] = here - start + tail
        return end

    def _walk(self, target: int) -> None:
        """Learn of a name that stands before, pointer by pointer; each leads to before the last, so there is an end."""
        trail = [target]
        while True:
            at = trail[-1]
            while at < len(self._data) and 0 < self._data[at] < 0xC0:
                at += self._data[at] + 1
            if at + 1 >= len(self._data) or not self._data[at]:
                break
            before = int.from_bytes(self._data[at : at + 2], "big") & 0x3FFF
            if not HEADER <= before < trail[-1] or len(trail) > MAX_NAME:
                raise ValueError("a compression pointer that does not lead back")
            if before in self._known:
                break
            trail.append(before)
        for start in reversed(trail):
            self.past(start)
            if start not in self._known:  # a pointer to a pointer, without a label of its own
                pointed = int.from_bytes(self._data[start : start + 2], "big") & 0x3FFF
                self._known[start] = self._known[pointed]

    def check(self, kind: int, at: int, end: int) -> None:
        """The data of a record.  ValueError where it is not as its type wants it."""
        if kind in _NAMES:
            if end - at <= _NAMES[kind] or self.past(at + _NAMES[kind]) != end:
                raise ValueError("a name that does not end with its record")
        elif kind == SOA:
            if end - at < 22 or self.past(self.past(at)) != end - 20:
                raise ValueError("a SOA of another length")
        elif kind in _SIZES and end - at != _SIZES[kind]:
            raise ValueError("an address of another length")
