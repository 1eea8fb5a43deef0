"""The capture format, read by a reader of its own; and the client that passes on whole blocks of it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.cli.commands.capture import MOST_BLOCK, Blocks
from pynet.cli.http1 import BadResponse
from pynet.netlib import pcapng
from pynet.netlib.errors import InvalidArgument, NotSupported
from pynet.netlib.kernel.libpcap import DLT_EN10MB, MOST, compile_filter
from pynet.netlib.kernel.packets import Packet

from support import pcap

HEAD = pcapng.header("pynet test", [("eth0", pcapng.LINKTYPE_ETHERNET), ("tun0", pcapng.LINKTYPE_RAW)], 65535, "udp")


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1 << 62), st.binary(max_size=70), st.booleans())))
def test_what_is_written_is_read(entries: list[tuple[int, int, bytes, bool]]) -> None:
    packets = [(number, Packet(time, len(data) + 7, out, data)) for number, time, data, out in entries]
    contents = pcap.read(HEAD + b"".join(pcapng.packet(n, p) for n, p in packets) + pcapng.statistics(1, 5, 9, 3))
    assert contents.application == "pynet test"
    assert contents.interfaces == [("eth0", 1, 65535), ("tun0", 101, 65535)]
    assert [(p.interface, p.length, p.data, p.outgoing) for p in contents.packets] == [
        (("eth0", "tun0")[n], p.length, p.data, p.outgoing) for n, p in packets
    ]
    assert [p.time for p in contents.packets] == [p.time / 1e9 for _, p in packets]
    assert contents.drops == {"tun0": 3}


@given(st.lists(st.integers(1, 200), max_size=40))
def test_a_stream_that_is_cut_anywhere_comes_out_in_whole_blocks(cuts: list[int]) -> None:
    stream = HEAD + b"".join(pcapng.packet(0, Packet(n, 60, False, bytes(60))) for n in range(20))
    stream += pcapng.statistics(0, 1, 20, 4) + pcapng.statistics(1, 1, 20, 2) + pcapng.statistics(0, 2, 20, 5)
    blocks, rest, out = Blocks(), stream, b""
    for cut in cuts:
        out += blocks.feed(rest[:cut])
        rest = rest[cut:]
        pcap.read(out)
    out += blocks.feed(rest)
    assert out == stream
    assert (blocks.packets, blocks.dropped) == (20, 7)


@pytest.mark.parametrize("length", [0, 8, 13, MOST_BLOCK + 4])
def test_a_stream_that_is_no_capture_is_refused(length: int) -> None:
    with pytest.raises(BadResponse, match="no pcapng"):
        Blocks().feed(struct.pack("<III", 6, length, 0))


@given(st.binary(max_size=64))
def test_whatever_a_statistics_block_has_in_it_is_survived(body: bytes) -> None:
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", 12 + len(body))
    Blocks().feed(struct.pack("<I", 5) + length + body + length)


def compiled(expression: str) -> bytes:
    try:
        return compile_filter(expression, DLT_EN10MB, 96)
    except NotSupported as error:
        pytest.skip(str(error))


def test_a_filter_becomes_a_program_that_returns_the_snaplen_or_nothing() -> None:
    program = compiled("udp port 53")
    assert len(program) % 8 == 0
    returns = {k for code, _, _, k in struct.iter_unpack("=HBBI", program) if code == 6}
    assert returns == {0, 96}


@pytest.mark.parametrize("expression", ["port", "tcp port 70000", "(udp", "no such words"])
def test_what_libpcap_does_not_understand_is_refused_with_its_words(expression: str) -> None:
    compiled("udp")
    with pytest.raises(InvalidArgument, match=r"invalid filter .*: "):
        compile_filter(expression, DLT_EN10MB, 96)


@pytest.mark.parametrize("expression", ["x" * (MOST + 1), "udp\0", "host \udcff"])
def test_what_libpcap_is_not_given_is_refused(expression: str) -> None:
    with pytest.raises(InvalidArgument, match="too long, or has a NUL"):
        compile_filter(expression, DLT_EN10MB, 96)
