"""The pcapng file format (draft-ietf-opsawg-pcapng), as far as a capture needs it: values in, bytes out.

    section header, an interface description each, then packets and, from time to time, statistics

All blocks have their length at both ends, so a file that is cut between two blocks is whole.  Numbers are little-endian,
times nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from .kernel.packets import Packet

LINKTYPE_ETHERNET, LINKTYPE_RAW = 1, 101
SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
_MAGIC = 0x1A2B3C4D
_END = struct.pack("<HH", 0, 0)
USERAPPL, IF_NAME, IF_TSRESOL, IF_FILTER, EPB_FLAGS, ISB_IFRECV, ISB_OSDROP = 4, 2, 9, 11, 2, 4, 7
INBOUND, OUTBOUND = 1, 2


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) & 3)


def _option(code: int, data: bytes) -> bytes:
    return struct.pack("<HH", code, len(data)) + _padded(data)


def header(application: str, interfaces: Iterable[tuple[str, int]], snaplen: int, expression: str = "") -> bytes:
    """The head of a file; *interfaces* are (name, link type), numbered as they come."""
    parts = [_block(SECTION, struct.pack("<IHHq", _MAGIC, 1, 0, -1) + _option(USERAPPL, application.encode()) + _END)]
    for name, link in interfaces:
        options = _option(IF_NAME, name.encode()) + _option(IF_TSRESOL, b"\x09")
        if expression:
            options += _option(IF_FILTER, b"\0" + expression.encode())
        parts.append(_block(INTERFACE, struct.pack("<HHI", link, 0, snaplen) + options + _END))
    return b"".join(parts)


def packet(interface: int, one: Packet) -> bytes:
    head = struct.pack("<IIIII", interface, one.time >> 32, one.time & 0xFFFFFFFF, len(one.data), one.length)
    flags = struct.pack("<I", OUTBOUND if one.outgoing else INBOUND)
    return _block(PACKET, head + _padded(one.data) + _option(EPB_FLAGS, flags) + _END)


def statistics(interface: int, time: int, received: int, dropped: int) -> bytes:
    """What the kernel passed on so far, and what it dropped because nobody came to fetch it; the last one counts."""
    head = struct.pack("<III", interface, time >> 32, time & 0xFFFFFFFF)
    options = _option(ISB_IFRECV, struct.pack("<Q", received)) + _option(ISB_OSDROP, struct.pack("<Q", dropped))
    return _block(STATISTICS, head + options + _END)
