"""The PROXY protocol's headers, read back as the specification tells a receiver to."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.netlib.errors import InvalidArgument
from pynet.proxy.dataplane import transparent
from pynet.proxy.dataplane.proxyproto import header
from pynet.proxy.ports import Target, parse_target

IPv4, IPv6 = ipaddress.IPv4Address, ipaddress.IPv6Address
_PORT = st.integers(0, 65535)
_V4 = st.tuples(st.ip_addresses(v=4).map(str), _PORT)
# not ::ffff:0:0/96, which is the other case
_V6 = st.tuples(st.integers(1 << 48, (1 << 128) - 1).map(lambda number: str(IPv6(number))), _PORT).map(
    lambda pair: (*pair, 0, 0)
)
_MAPPED = _V4.map(lambda pair: (f"::ffff:{pair[0]}", pair[1], 0, 0))


def read_v1(data: bytes) -> tuple[str, int, str, int]:
    """Section 2.1, to the letter: one space between words, no leading zeros, CRLF, at most 107 bytes."""
    assert len(data) <= 107
    assert data.endswith(b"\r\n")
    assert data.count(b"\n") == 1
    words = data[:-2].decode("ascii").split(" ")
    assert len(words) == 6
    assert words[0] == "PROXY"
    version = {"TCP4": 4, "TCP6": 6}[words[1]]
    for ip in words[2:4]:
        assert ipaddress.ip_address(ip).version == version
    for port in words[4:]:
        assert str(int(port)) == port
    return words[2], int(words[4]), words[3], int(words[5])


def read_v2(data: bytes) -> tuple[str, int, str, int]:
    """Section 2.2: the length covers all that follows the first 16 bytes."""
    assert data[:12] == b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
    command, family, length = struct.unpack("!BBH", data[12:16])
    assert command == 0x21
    assert length == len(data) - 16
    if family == 0x11:
        assert length == 12
        source, destination, here, there = struct.unpack("!4s4sHH", data[16:])
        return str(IPv4(source)), here, str(IPv4(destination)), there
    assert family == 0x21
    assert length == 36
    source, destination, here, there = struct.unpack("!16s16sHH", data[16:])
    return str(IPv6(source)), here, str(IPv6(destination)), there


@pytest.mark.parametrize(("version", "read"), [(1, read_v1), (2, read_v2)])
class TestBothVersions:
    @given(data=st.data(), family=st.sampled_from([_V4, _V6]))
    def test_say_who_talks_to_whom(
        self, version: int, read: object, data: st.DataObject, family: st.SearchStrategy[tuple[str, int]]
    ) -> None:
        source, destination = data.draw(family), data.draw(family)
        got = read(header(version, source, destination))  # type: ignore[operator]  # pyright: ignore
        assert [ipaddress.ip_address(ip) for ip in got[::2]] == [
            ipaddress.ip_address(pair[0]) for pair in (source, destination)
        ]
        assert got[1::2] == (source[1], destination[1])

    @given(data=st.data())
    def test_a_mapped_address_is_ipv4(self, version: int, read: object, data: st.DataObject) -> None:
        source, destination = data.draw(_MAPPED), data.draw(_MAPPED)
        got = read(header(version, source, destination))  # type: ignore[operator]  # pyright: ignore
        assert got == (source[0][7:], source[1], destination[0][7:], destination[1])


def test_the_bytes_themselves() -> None:
    source, destination = ("192.0.2.7", 56324), ("203.0.113.9", 443)
    assert header(1, source, destination) == b"PROXY TCP4 192.0.2.7 203.0.113.9 56324 443\r\n"
    assert header(2, source, destination) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a 21 11 000c c0000207 cb007109 dc04 01bb"
    )
    longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 0, 0
    assert len(header(1, longest, longest)) == 104
    assert header(1, ("fe80::1%eth0", 1, 0, 3), ("2001:DB8::1", 2, 0, 0)) == b"PROXY TCP6 fe80::1 2001:db8::1 1 2\r\n"


def test_what_can_not_be_told_is_said_to_be_unknown() -> None:
    mixed = ("192.0.2.7", 1), ("::1", 2, 0, 0)
    assert header(1, *mixed) == b"PROXY UNKNOWN\r\n"
    # PROXY with AF_UNSPEC: a receiver uses the addresses of the connection
    assert header(2, *mixed)[12:] == b"\x21\x00\x00\x00"


# -- transparent mode chooses an address ---------------------------------------------------------------------------


def _target(ip: str) -> Target:
    return parse_target([ip, 80])


@pytest.mark.parametrize(
    ("client", "target", "expected"),
    [
        (("192.0.2.7", 1), "10.0.0.2", "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "10.0.0.2", "192.0.2.7"),
        (("2001:db8::7", 1, 0, 0), "fd00::2", "2001:db8::7"),
        (("2001:db8::7", 1, 0, 0), "10.0.0.2", None),
        (("192.0.2.7", 1), "fd00::2", None),
        (("127.0.0.1", 1), "10.0.0.2", None),
        (("127.0.0.9", 1), "127.0.0.1", "127.0.0.9"),
        (("::1", 1, 0, 0), "fd00::2", None),
        (("::1", 1, 0, 0), "::1", "::1"),
        (("fe80::7", 1, 0, 2), "fd00::2", None),
        (("169.254.1.1", 1), "10.0.0.2", None),
    ],
)
def test_the_address_that_a_target_sees(client: tuple[str, int], target: str, expected: str | None) -> None:
    assert transparent.source(client, _target(target)) == expected


def test_the_specification_of_a_listener_in_the_other_family_is_refused() -> None:
    with socket.socket(socket.AF_INET) as listener, pytest.raises(InvalidArgument, match="one address"):
        transparent.check(listener, _target("fd00::2"))
