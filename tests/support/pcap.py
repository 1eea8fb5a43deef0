"""A small reader of pcapng, written from the draft (draft-ietf-opsawg-pcapng) and not from what pynet writes."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Captured:
    interface: str
    link: int
    time: float
    length: int
    data: bytes
    outgoing: bool

    @property
    def payload(self) -> bytes:
        """Behind the headers of Ethernet, IPv4 and UDP or TCP."""
        ip = self.data[14:]
        inner = ip[(ip[0] & 15) * 4 :]
        return inner[8:] if ip[9] == 17 else inner[(inner[12] >> 4) * 4 :]

    @property
    def ports(self) -> tuple[int, int]:
        ip = self.data[14:]
        source, destination = struct.unpack_from("!HH", ip, (ip[0] & 15) * 4)
        return source, destination

    @property
    def is_udp(self) -> bool:
        """Over IPv4.  The kernel says things of its own on every interface, over IPv6 and by IGMP."""
        return self.data[12:14] == b"\x08\x00" and self.data[23] == socket.IPPROTO_UDP


@dataclass
class Contents:
    application: str = ""
    interfaces: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    """Name, link type, snaplen."""
    packets: list[Captured] = field(default_factory=list[Captured])
    drops: dict[str, int] = field(default_factory=dict[str, int])


def options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while data:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            break
        found[code] = data[4 : 4 + length]
        data = data[4 + length + (-length % 4) :]
    return found


def read(data: bytes) -> Contents:
    """The contents of a whole file; AssertionError where it is no pcapng."""
    contents = Contents()
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, length - 4)[0] == length, "both lengths of a block are the same"
        body, data = data[8 : length - 4], data[length:]
        if kind == 0x0A0D0D0A:
            assert struct.unpack_from("<IHH", body) == (0x1A2B3C4D, 1, 0)
            contents.application = options(body[16:])[4].decode()
        elif kind == 1:
            link, _, snaplen = struct.unpack_from("<HHI", body)
            about = options(body[8:])
            assert about[9] == b"\x09", "times are nanoseconds"
            contents.interfaces.append((about[2].decode(), link, snaplen))
        elif kind == 6:
            number, high, low, captured, original = struct.unpack_from("<5I", body)
            name, link, snaplen = contents.interfaces[number]
            assert captured <= min(original, snaplen)
            flags = struct.unpack("<I", options(body[20 + captured + (-captured % 4) :])[2])[0]
            moment = (high << 32 | low) / 1e9
            contents.packets.append(Captured(name, link, moment, original, body[20 : 20 + captured], flags & 3 == 2))
        else:
            assert kind == 5, f"a block of the kind {kind}"
            name = contents.interfaces[struct.unpack_from("<I", body)[0]][0]
            contents.drops[name] = struct.unpack("<Q", options(body[12:])[7])[0]
    return contents
