"""The PROXY protocol's header: how a back end learns who the client is (haproxy, doc/proxy-protocol.txt).

    version 1   PROXY TCP4 192.0.2.7 192.0.2.1 51234 80\\r\\n                                     at most 107 bytes
    version 2   12 bytes of signature | 0x21 | family and transport | length | addresses | ports   28 or 52 bytes

The header describes the connection between the client and us, whatever the family of the one to the back end: a client
that came over IPv6 is TCP6 also where the back end is IPv4.  IPv4 on a socket for both families arrives as ::ffff:a.b.c.d
(RFC 4291, 2.5.5.2) and is told as IPv4, which is what it was on the wire.

Pure: addresses in, bytes out.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
VERSIONS = (1, 2)
_MAPPED = bytes(10) + b"\xff\xff"
_V2_PROXY, _V2_TCP4, _V2_TCP6 = 0x21, 0x11, 0x21


def packed(ip: str) -> bytes:
    """The 4 or 16 bytes of *ip*; 4 for an IPv4 address in IPv6's clothes.  A %scope is of this host only and goes."""
    if ":" not in ip:
        return socket.inet_pton(socket.AF_INET, ip)
    data = socket.inet_pton(socket.AF_INET6, ip.partition("%")[0])
    return data[12:] if data.startswith(_MAPPED) else data


def header(version: int, source: tuple[Any, ...], destination: tuple[Any, ...]) -> bytes:
    """The header of *version* for a TCP connection from *source* to *destination*: what accept and getsockname say.

    Addresses of two families can not be told in one header: such a connection is UNKNOWN, as the specification wants.
    """
    here, there = packed(source[0]), packed(destination[0])
    ports = source[1], destination[1]
    if version == 1:
        if len(here) != len(there):
            return b"PROXY UNKNOWN\r\n"
        family, name = (socket.AF_INET, "TCP4") if len(here) == 4 else (socket.AF_INET6, "TCP6")
        texts = socket.inet_ntop(family, here), socket.inet_ntop(family, there)
        return f"PROXY {name} {texts[0]} {texts[1]} {ports[0]} {ports[1]}\r\n".encode()
    if len(here) != len(there):
        return SIGNATURE + struct.pack("!BBH", _V2_PROXY, 0, 0)
    addresses = here + there + struct.pack("!HH", *ports)
    return (
        SIGNATURE + struct.pack("!BBH", _V2_PROXY, _V2_TCP4 if len(here) == 4 else _V2_TCP6, len(addresses)) + addresses
    )
