"""DHCP messages as values: to bytes and back.  Pure; what cannot be read is Malformed, whatever the bytes are.

    op htype hlen hops | xid | secs flags | ciaddr yiaddr siaddr giaddr | chaddr | sname | file | cookie | options...
    RFC 2131 2, figure 1; options RFC 2132; split ones RFC 3396

What is read is bounded by the datagram that it came in: each option is looked at once, and "sname" and "file" at most once more
(option 52).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = 1, 2, 3, 4, 5, 6, 7
_KINDS = range(1, 9)
BOOTREQUEST, BOOTREPLY = 1, 2
ETHERNET, MAC_LENGTH = 1, 6
BROADCAST = 0x8000
"""Flag: answer to everybody, for who has no address yet can not be reached otherwise (RFC 2131 4.1)."""
COOKIE = b"\x63\x82\x53\x63"  # RFC 2131 3
PAD, MASK, ROUTER, HOSTNAME, REQUESTED, LEASE_TIME, OVERLOAD, TYPE, SERVER, WANTED, MESSAGE = (
    *(0, 1, 3, 12, 50, 51, 52, 53, 54, 55, 56),
)
RENEWAL_TIME, REBINDING_TIME, END = 58, 59, 255
FOREVER = 0xFFFFFFFF  # RFC 2131 3.3
LEAST = 300
"""Bytes that a message has at least: BOOTP relays drop shorter ones (RFC 1542 2.1)."""
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")


class Malformed(ValueError):
    """Not a DHCP message, or none that makes sense."""


@dataclass(frozen=True, slots=True)
class Message:
    op: int
    kind: int
    """Option 53: DISCOVER, OFFER, ..."""
    xid: int
    mac: str
    """chaddr: "02:42:0a:00:00:02"."""
    flags: int = 0
    client: str = "0.0.0.0"
    """ciaddr: the address that the client has."""
    yours: str = "0.0.0.0"
    """yiaddr: the address that it gets."""
    options: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    """All but the kind."""

    def address(self, option: int) -> str:
        """The (first) address of an option; "" without it."""
        data = self.options.get(option, b"")
        return str(ipaddress.IPv4Address(data[:4])) if len(data) >= 4 else ""

    def seconds(self, option: int) -> int | None:
        data = self.options.get(option, b"")
        return int.from_bytes(data, "big") if len(data) == 4 else None

    @property
    def prefix(self) -> int | None:
        """The subnet mask as a prefix length; None without one that has its ones at the front."""
        data = self.options.get(MASK, b"")
        if len(data) != 4:
            return None
        inverse = int.from_bytes(data, "big") ^ 0xFFFFFFFF
        return 32 - inverse.bit_length() if not inverse & (inverse + 1) else None

    @property
    def text(self) -> str:
        """What a server says with a NAK, in printable ASCII."""
        return "".join(chr(byte) for byte in self.options.get(MESSAGE, b"") if 32 <= byte < 127)


def build(message: Message) -> bytes:
    fixed = _FIXED.pack(
        message.op,
        ETHERNET,
        MAC_LENGTH,
        0,
        message.xid,
        0,
        message.flags,
        ipaddress.IPv4Address(message.client).packed,
        ipaddress.IPv4Address(message.yours).packed,
        bytes(4),
        bytes(4),
        bytes.fromhex(message.mac.replace(":", "")),
        b"",
        b"",
        COOKIE,
    )
    options = bytes([TYPE, 1, message.kind])
    for code, data in message.options.items():
        for start in range(0, max(len(data), 1), 255):
            part = data[start : start + 255]
            options += bytes([code, len(part)]) + part
    return (fixed + options + bytes([END])).ljust(LEAST, b"\0")


def parse(data: bytes) -> Message:
    """The message in a datagram; Malformed."""
    if len(data) < _FIXED.size:
        raise Malformed(f"{len(data)} bytes are no message")
    op, htype, hlen, _, xid, _, flags, ciaddr, yiaddr, _, _, chaddr, sname, file, cookie = _FIXED.unpack_from(data)
    if cookie != COOKIE:
        raise Malformed("BOOTP without DHCP")
    if (htype, hlen) != (ETHERNET, MAC_LENGTH) or op not in (BOOTREQUEST, BOOTREPLY):
        raise Malformed("not between Ethernet hosts")
    options: dict[int, bytes] = {}
    _read(options, data[_FIXED.size :])
    overload = options.get(OVERLOAD, b"")
    if len(overload) == 1:
        for bit, more in ((1, file), (2, sname)):  # RFC 2131 4.1: in this order
            if overload[0] & bit:
                _read(options, more)
    kind = options.pop(TYPE, b"")
    if len(kind) != 1 or kind[0] not in _KINDS:
        raise Malformed("without a message type")
    return Message(
        op,
        kind[0],
        xid,
        chaddr[:MAC_LENGTH].hex(":"),
        flags,
        str(ipaddress.IPv4Address(ciaddr)),
        str(ipaddress.IPv4Address(yiaddr)),
        options,
    )


def _read(options: dict[int, bytes], data: bytes) -> None:
    """Add what stands in *data*; parts of one option belong together (RFC 3396 7)."""
    at = 0
    while at < len(data):
        code = data[at]
        if code == END:
            return
        if code == PAD:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            raise Malformed(f"option {code} is cut off")
        end = at + 2 + data[at + 1]
        options[code] = options.get(code, b"") + data[at + 2 : end]
        at = end
