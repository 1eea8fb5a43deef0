"""Byte streams of archives: what compression it is, both digests, in bounded memory.

    source.read -> raw bytes (sha256 = digest) -> gzip | xz | bzip2 | zstd | none -> bytes (sha256 = diff id)

A layer is known by two digests: of the blob as it is stored and of the tar inside.  Both are taken on the way, so a
layer is read once.  Output comes in pieces of at most PIECE whatever the input expands to, and its sum is bounded, so
a decompression bomb costs neither memory nor an unbounded amount of disk.  gzip may have many members (pigz, stargz)
and padding of zeros behind them (RFC 1952, section 2.2).  isal, when installed, is about three times as fast as zlib.
"""

from __future__ import annotations

import bz2
import hashlib
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

from ...netlib.errors import NotSupported
from .errors import InvalidArchive
from .limits import Budget, Limits

PIECE = 1 << 18
HEAD = 6
"""Bytes that are enough to know every compression."""

_MAGICS = ((b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"))


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression_of(head: bytes) -> str:
    """ "gzip", "xz", "bzip2", "zstd" or "" by the first bytes."""
    return next((name for magic, name in _MAGICS if head.startswith(magic)), "")


class Inflated:
    """The decompressed bytes of *source*; ``digest`` and ``diff_id`` are right once it was read to its end.

    What is read is written to *copy* on the way: as it came, but decompressed where OCI knows no media type for the
    compression (image-spec, layer.md: tar, tar+gzip, tar+zstd).
    """

    def __init__(self, source: Readable, *, budget: Budget | None = None, copy: BinaryIO | None = None) -> None:
        self._source, self._budget = source, budget or Budget(Limits())
        self._raw, self._plain = hashlib.sha256(), hashlib.sha256()
        self._buffer, self._position = b"", 0
        head = b""
        while len(head) < HEAD and (more := source.read(PIECE)):
            head += more
        self.compression = compression_of(head)
        self.copy_compression = self.compression if self.compression in ("gzip", "zstd") else ""
        self._copy_raw = copy if self.copy_compression else None
        self._copy_plain = None if self.copy_compression else copy
        self._note(head)
        self._pieces = _DECODERS[self.compression](head, self._more)

    @property
    def digest(self) -> str:
        return f"sha256:{self._raw.hexdigest()}"

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._plain.hexdigest()}"

    @property
    def copy_digest(self) -> str:
        """The digest of what was written to the copy."""
        return self.digest if self.copy_compression else self.diff_id

    def _more(self) -> bytes:
        data = self._source.read(PIECE)
        self._note(data)
        return data

    def _note(self, raw: bytes) -> None:
        self._raw.update(raw)
        if self._copy_raw is not None:
            self._copy_raw.write(raw)

    def _fill(self) -> bool:
        """The next piece into the buffer; False at the end."""
        try:
            piece = next(self._pieces, b"")
        except (lzma.LZMAError, OSError, EOFError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's, not the decompressor's (bz2 raises a bare OSError on bad data)
            raise InvalidArchive(f"corrupt {self.compression} stream: {error}") from error
        self._plain.update(piece)
        self._budget.spend_bytes(len(piece))
        if self._copy_plain is not None:
            self._copy_plain.write(piece)
        self._buffer, self._position = piece, 0
        return bool(piece)

    def read(self, size: int, /) -> bytes:
        """Exactly *size* bytes, fewer only at the end."""
        end = self._position + size
        if end <= len(self._buffer):
            data = self._buffer[self._position : end]
            self._position = end
            return data
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        """*size* bytes as they come, fewer only at the end."""
        while size:
            if self._position >= len(self._buffer) and not self._fill():
                return
            data = self._buffer[self._position : self._position + size]
            self._position += len(data)
            size -= len(data)
            yield data

    def drain(self) -> None:
        """Read to the end: the digests cover every byte, also those behind the tar's end mark."""
        while self._fill():
            pass


_More = Callable[[], bytes]


def _plain(data: bytes, more: _More) -> Iterator[bytes]:
    while data:
        yield data
        data = more()


def _gzip(data: bytes, more: _More) -> Iterator[bytes]:
    try:
        engine: Any = importlib.import_module("isal.isal_zlib")
    except ImportError:
        engine = zlib
    try:
        while data:
            decoder: Any = engine.decompressobj(wbits=31)
            while not decoder.eof:
                out: bytes = decoder.decompress(data, PIECE)
                if out:
                    yield out
                data = decoder.unconsumed_tail
                # a full piece may mean that more output waits although all input is taken
                if not data and not decoder.eof and len(out) < PIECE and not (data := more()):
                    raise EOFError("it is truncated")
            data = decoder.unused_data or more()
            while data and not data.strip(b"\0"):
                data = more()
            data = data.lstrip(b"\0")
    except engine.error as error:
        raise ValueError(str(error)) from error


def _stream(make: Callable[[], Any]) -> Callable[[bytes, _More], Iterator[bytes]]:
    """bz2 and lzma, which share an interface; streams may follow one another, xz ones with padding between."""

    def pieces(data: bytes, more: _More) -> Iterator[bytes]:
        while data:
            decoder = make()
            while not decoder.eof:
                out: bytes = decoder.decompress(data, PIECE)
                if out:
                    yield out
                data = b""
                if decoder.needs_input and not decoder.eof and not (data := more()):
                    raise EOFError("it is truncated")
            data = (decoder.unused_data or more()).lstrip(b"\0")

    return pieces


ZSTD_FED = 1 << 10
"""Bytes given to zstandard at once, which has no bound on what it answers: a block of 4 bytes may stand for 128 KiB of one
byte (RFC 8878, section 3.1.1.2.2), so this is at most 32 MiB.  Larger pieces are no faster."""
ZSTD_WINDOW = 1 << 27
"""Largest window, which is memory: what `zstd -d` takes without being asked for more."""


def _zstd(data: bytes, more: _More) -> Iterator[bytes]:
    """Frames may follow one another; those to be skipped (zstd:chunked has them) are frames without content."""
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError:
        yield from _stream(_standard_zstd().ZstdDecompressor)(data, more)
        return
    context: Any = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    try:
        fed = 0  # of data
        while data:
            decoder: Any = context.decompressobj()
            while not decoder.eof:
                if fed >= len(data):
                    data, fed = more(), 0
                    if not data:
                        raise EOFError("it is truncated")
                out: bytes = decoder.decompress(data[fed : fed + ZSTD_FED])
                fed = min(fed + ZSTD_FED, len(data)) - len(decoder.unused_data)
                for start in range(0, len(out), PIECE):
                    yield out[start : start + PIECE]
            if fed == len(data):
                data, fed = more(), 0
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _standard_zstd() -> Any:
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        raise NotSupported(
            "zstd archives can not be read here: the Python package zstandard is not installed",
            hint="pip install 'pynet-containers[fast]' (or decompress it first: `zstd -d`)",
        ) from None


_DECODERS: dict[str, Callable[[bytes, _More], Iterator[bytes]]] = {
    "": _plain,
    "gzip": _gzip,
    "bzip2": _stream(bz2.BZ2Decompressor),
    "xz": _stream(lambda: lzma.LZMADecompressor(memlimit=1 << 28)),
    "zstd": _zstd,
}
