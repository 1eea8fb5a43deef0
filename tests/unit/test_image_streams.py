"""Compression, digests and tar headers: bytes in, entries out."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import importlib.util
import io
import lzma
import sys
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynet.netlib.errors import NotSupported
from pynet.runtime.images.errors import InvalidArchive
from pynet.runtime.images.inflate import PIECE, Inflated
from pynet.runtime.images.limits import Budget, Limits
from pynet.runtime.images.tarstream import Entry, TarReader

DATA = bytes(range(256)) * 5000 + b"\0" * 3_000_000


class Dribble:
    """A source that gives less than was asked for, as sockets do."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file, self._step = io.BytesIO(data), step

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._step))


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def two_members(data: bytes) -> bytes:
    """As pigz writes: several members, padded."""
    return gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + b"\0" * 100


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip members": two_members,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "none": bytes,
}
if importlib.util.find_spec("zstandard"):
    import zstandard

    PACKERS["zstd"] = zstandard.ZstdCompressor(write_checksum=True).compress
    PACKERS["zstd frames"] = lambda data: b"".join(
        map(zstandard.ZstdCompressor(write_checksum=True).compress, (data[:9], data[9:]))
    )


@pytest.fixture(params=["isal", "zlib"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    else:
        pytest.importorskip("isal")
    return str(request.param)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("step", [7000, 1 << 20])
def test_both_digests_and_the_bytes(kind: str, step: int, engine: str) -> None:
    raw, copy = PACKERS[kind](DATA), io.BytesIO()
    stream = Inflated(Dribble(raw, step), copy=copy)
    assert stream.read(10) == DATA[:10]
    pieces = list(stream.pieces(len(DATA)))
    assert b"".join(pieces) == DATA[10:]
    assert max(map(len, pieces)) <= PIECE
    stream.drain()
    assert (stream.digest, stream.diff_id) == (sha(raw), sha(DATA))
    assert sha(copy.getvalue()) == stream.copy_digest == sha(raw if kind.startswith(("gzip", "zstd")) else DATA)


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind != "none"])
def test_a_stream_cut_short_is_an_error(kind: str, engine: str) -> None:
    raw = PACKERS[kind](DATA)
    stream = Inflated(io.BytesIO(raw[: len(raw) * 2 // 3]))
    with pytest.raises(InvalidArchive, match=f"corrupt {kind.split(maxsplit=1)[0]} stream"):
        stream.drain()


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if " " not in kind and kind != "none"])
def test_a_flipped_byte_is_an_error(kind: str, engine: str) -> None:
    raw = bytearray(PACKERS[kind](DATA))
    raw[len(raw) // 2] ^= 0x55
    with pytest.raises(InvalidArchive, match=f"corrupt {kind} stream"):
        Inflated(io.BytesIO(bytes(raw))).drain()


def test_garbage_behind_a_gzip_member_is_an_error(engine: str) -> None:
    with pytest.raises(InvalidArchive):
        Inflated(io.BytesIO(gzip.compress(b"x") + b"no gzip at all")).drain()


def test_a_bomb_is_bounded_in_size_and_in_memory(engine: str) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b"\0" * (1 << 20)) for _ in range(64)) + packer.flush()
    stream = Inflated(io.BytesIO(bomb), budget=Budget(Limits(bytes=8 << 20)))
    got = 0
    with pytest.raises(InvalidArchive, match="larger than 8388608 bytes when unpacked"):
        for piece in stream.pieces(1 << 40):
            assert len(piece) <= PIECE
            got += len(piece)
    assert got <= 8 << 20


def test_a_zstd_bomb_is_bounded_in_size_and_in_memory() -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (256 << 20))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        stream = Inflated(io.BytesIO(bomb), budget=Budget(Limits(bytes=200 << 20)))
        with pytest.raises(InvalidArchive, match="larger than 209715200 bytes when unpacked"):
            for piece in stream.pieces(1 << 40):
                assert len(piece) <= PIECE
        assert tracemalloc.get_traced_memory()[1] < 70 << 20
    finally:
        tracemalloc.stop()


def test_a_zstd_window_that_takes_more_memory_than_zstd_itself_gives_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=29)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(InvalidArchive, match="corrupt zstd stream"):
        Inflated(io.BytesIO(packer.compress(DATA) + packer.flush())).drain()


def test_frames_of_zstd_that_are_to_be_skipped() -> None:
    """As zstd:chunked has them at its end (RFC 8878, section 3.1.2)."""
    zstandard = pytest.importorskip("zstandard")
    skipped = b"\x50\x2a\x4d\x18" + (3000).to_bytes(4, "little") + b"x" * 3000
    raw = zstandard.ZstdCompressor().compress(b"hello") + skipped
    stream = Inflated(Dribble(raw, 100))
    assert b"".join(stream.pieces(100)) == b"hello"
    stream.drain()
    assert stream.digest == sha(raw)


def test_zstd_without_its_library_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(NotSupported, match="zstandard is not installed") as caught:
        Inflated(io.BytesIO(b"\x28\xb5\x2f\xfd" + b"\0" * 100)).read(1)
    assert "pynet-containers[fast]" in caught.value.hint and "zstd -d" in caught.value.hint


# -- tar ---------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> list[tuple[Entry, bytes]]:
    reader = TarReader(Inflated(io.BytesIO(data)))
    return [(entry, b"".join(reader.data())) for entry in reader]


names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120).filter(
    lambda name: name not in (".", "..")
)
members = st.lists(
    st.tuples(
        st.lists(names, min_size=1, max_size=3).map("/".join),
        st.binary(max_size=1500),
        st.integers(0, 0o7777),
        st.integers(0, 2**31),
        st.integers(0, 2**33 - 1),
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(members, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_what_tarfile_writes_is_read_alike(items: list[tuple[str, bytes, int, int, int]], form: int) -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form, encoding="utf-8") as archive:
        for name, data, mode, uid, mtime in items:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = len(data), mode, uid, uid, mtime
            archive.addfile(info, io.BytesIO(data))
    assert [(e.name.decode(), data, e.mode, e.uid, e.gid, e.mtime_ns) for e, data in parse(output.getvalue())] == [
        (name, data, mode, uid, uid, mtime * 10**9) for name, data, mode, uid, mtime in items
    ]


def member(**fields: object) -> bytes:
    """An archive of one member, without data."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        for key, value in fields.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(b"x" * info.size))
    return output.getvalue()


def test_attributes_and_fractions_of_seconds() -> None:
    headers = {"SCHILY.xattr.user.k": "v", "mtime": "12.000000345"}
    ((entry, _),) = parse(member(pax_headers=headers))
    assert (entry.xattrs, entry.mtime_ns) == ({"user.k": b"v"}, 12_000_000_345)


def test_kinds() -> None:
    ((link, _),) = parse(member(type=tarfile.SYMTYPE, linkname="../../" + "x" * 150))
    assert (link.kind, link.link) == ("symlink", b"../../" + b"x" * 150)
    ((device, _),) = parse(member(type=tarfile.CHRTYPE, devmajor=5, devminor=300))
    assert (device.kind, device.device) == ("character", (5, 300))


GOOD = member(size=700)
BROKEN = {
    "empty": (b"", "truncated or empty"),
    "no tar": (b"hello, world" * 100, "not a tar archive|is no number"),
    "cut in a header": (GOOD[:300], "no end mark"),
    "cut in the data": (GOOD[:900], "an entry ends early"),
    "cut in the padding": (GOOD[:1250], "an entry ends early"),
    "cut between entries": (GOOD[:1536], "truncated or empty"),
    "bad checksum": (GOOD[:2] + b"b" + GOOD[3:], "bad checksum"),
    "sparse": (member(type=b"S"), "sparse file is not supported"),
    "pax sparse": (member(pax_headers={"GNU.sparse.major": "1"}), "sparse file is not supported"),
    "multi-volume": (member(type=b"M"), "multi-volume part is not supported"),
    "unknown kind": (member(type=b"Q"), "unknown tar entry type"),
    "size that is none": (member(pax_headers={"size": "-1"}), "no number"),
    "huge size": (member(pax_headers={"size": "9" * 18}), "an entry ends early"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_archives(case: str) -> None:
    data, message = BROKEN[case]
    with pytest.raises(InvalidArchive, match=message):
        parse(data)


def test_a_pax_record_that_lies_about_its_length() -> None:
    for record in (b"99 path=x\n", b"9 path=x", b"x path=a\n", b"5 a\n\n\n", b"0 a=b\n"):
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w") as archive:
            info = tarfile.TarInfo("x")
            info.type, info.size = tarfile.XHDTYPE, len(record)
            archive.addfile(info, io.BytesIO(record))
        with pytest.raises(InvalidArchive, match="corrupt pax header"):
            parse(output.getvalue())


@settings(max_examples=150)
@given(st.data())
def test_no_bytes_make_the_parser_do_anything_but_refuse(data: st.DataObject) -> None:
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    chksum = sum(raw[:148]) + 256 + sum(raw[156:512])
    raw[148:156] = b"%06o\0 " % chksum  # so that what follows the checksum is reached
    try:
        parse(bytes(raw))
    except InvalidArchive:
        pass
