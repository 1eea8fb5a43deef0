"""What goes to an upstream, and what belongs to it when it comes back.  Pure.

Asking.message(wire, id)    -> bytes               with EDNS, without what is between two neighbours alone
mixed(wire)                 the question in a case that chance decides
belongs(data, id, wire)     whether a message answers it
"""

from __future__ import annotations

import secrets
import struct
from typing import Final, NamedTuple

from .message import AD, CD, DO, HEADER, MAX_UDP, OPT, QR, RD, Question

ECS, COOKIE, KEEPALIVE, PADDING, ERROR = 8, 10, 11, 12, 15
NEIGHBOURS: Final = frozenset({ECS, COOKIE, KEEPALIVE, PADDING})
"""Options that are not passed on: a client's subnet (RFC 7871 11.1: it is nobody's business), and what two neighbours agree upon
(RFC 7873, 7828, 7830)."""

_header = struct.Struct(">HHHHHH")
_two = struct.Struct(">HH")
_opt = struct.Struct(">BHHIH")
_LETTERS: Final = bytes(0x20 if chr(byte).isalpha() and byte < 128 else 0 for byte in range(256))


def mixed(wire: bytes) -> bytes:
    """*wire*, a question, with each letter of the name in a case that chance decides: draft-vixie-dnsext-dns0x20."""
    name = wire[:-4]
    letters = int.from_bytes(name.translate(_LETTERS), "big")
    flipped = int.from_bytes(name, "big") ^ letters & secrets.randbits(8 * len(name))
    return flipped.to_bytes(len(name), "big") + wire[-4:]


def letters(wire: bytes) -> int:
    """How many letters the name of a question has."""
    return wire[:-4].translate(_LETTERS).count(0x20)


def passed_on(options: bytes) -> bytes:
    """Those of EDNS's *options* (whole ones) that concern more than two neighbours."""
    kept, at = b"", 0
    while at < len(options):
        code, length = _two.unpack_from(options, at)
        if code not in NEIGHBOURS:
            kept += options[at : at + 4 + length]
        at += 4 + length
    return kept


def only(options: bytes, wanted: int) -> bytes:
    kept, at = b"", 0
    while at < len(options):
        code, length = _two.unpack_from(options, at)
        if code == wanted:
            kept += options[at : at + 4 + length]
        at += 4 + length
    return kept


class Asking(NamedTuple):
    """What is asked of an upstream: of a Question what matters to it."""

    wire: bytes
    """Folded."""
    recursion: bool = True
    dnssec_ok: bool = False
    checking_disabled: bool = False
    options: bytes = b""

    @classmethod
    def of(cls, question: Question) -> Asking:
        options = passed_on(question.options) if question.options else b""
        wire = question.wire.lower()[:-4] + question.wire[-4:]
        return cls(wire, question.recursion, question.dnssec_ok, question.checking_disabled, options)

    @property
    def shared(self) -> bool:
        """Whether the answer is the same for everybody who asks it: a cache may know it.  Who wants no recursion asks what
        the upstream itself knows, and an option may mean anything."""
        return self.recursion and not self.options

    def message(self, wire: bytes, id: int, *, edns: bool = True) -> bytes:
        """AD is always set: the upstream says then whether it validated, without records that nobody asked for (RFC 6840 5.7)."""
        flags = AD | (RD if self.recursion else 0) | (CD if self.checking_disabled else 0)
        head = _header.pack(id, flags, 1, 0, 0, int(edns)) + wire
        if not edns:
            return head
        return head + _opt.pack(0, OPT, MAX_UDP, DO if self.dnssec_ok else 0, len(self.options)) + self.options


def belongs(data: bytes, id: int, wire: bytes) -> bool:
    """Whether *data* answers *wire*, in the very case that it was sent in, by its id."""
    return (
        len(data) >= HEADER + len(wire)
        and data.startswith(wire, HEADER)
        and int.from_bytes(data[:2], "big") == id
        and data[2] & 0xF8 == QR >> 8
        and data[4:6] == b"\0\1"
    )
