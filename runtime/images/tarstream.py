"""Tar archives as a stream of entries: decided from bytes, nothing is touched.

    header 512 | data, padded to 512 | header | ... | two blocks of zeros

Understands POSIX ustar and pax (IEEE Std 1003.1, pax: "ustar Interchange Format", "pax Header Block"), GNU long names
and base-256 numbers, the v7 form, and extended attributes as ``SCHILY.xattr.*`` (star(5)).  Why not tarfile: it took
4.6 s where this way takes 1.3 s for a Debian layer of 170 MB, and its extraction resolves names as strings.

Rules: a bad checksum, a number that is none, an entry cut short or a missing end mark is InvalidArchive; sparse and
multi-volume entries are refused by name.  An entry's data must be read (``data``) before the next entry is asked for;
what was not read is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from .errors import InvalidArchive

BLOCK = 512
META_MAX = 8 << 20
"""Bytes of extended headers that one entry may have, and of the records that hold for all: an attribute is at most 64 KiB
(xattr(7)), a path 4 KiB."""
HEADERS_MAX = 16
"""Extended headers of one entry: pax, two long names and a global one are what tools write."""
RECORDS_MAX = 1000
"""Pax records that hold for one entry, and for all: what we use, that is attributes and a handful of others."""
PATH_MAX = 4096
"""Of a name or a link's target, with a zero byte at the end (limits.h)."""

Kind = Literal["file", "directory", "symlink", "hardlink", "fifo", "character", "block"]
_KINDS: dict[bytes, Kind] = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hardlink", b"2": "symlink",
    b"3": "character", b"4": "block", b"5": "directory", b"6": "fifo",
}  # fmt: skip
_REFUSED = {b"S": "sparse file", b"M": "multi-volume part", b"D": "GNU dump directory", b"N": "old GNU long name"}
_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse"
_USED = frozenset({b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"})
_TIME_MAX = 1 << 33


class Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def pieces(self, size: int) -> Iterator[bytes]: ...


@dataclass(slots=True)
class Entry:
    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def shown(self) -> str:
        return self.name.decode("utf-8", "backslashreplace")


class TarReader:
    """Iterate over the entries of *stream*; ``data()`` gives the bytes of the latest one."""

    def __init__(self, stream: Bytes) -> None:
        self._stream = stream
        self._unread = self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        records: dict[bytes, bytes] = {}
        headers = meta = 0
        while True:
            self._skip()
            header = self._stream.read(BLOCK)
            if len(header) < BLOCK:
                raise InvalidArchive(
                    "truncated tar archive: no end mark" if header else "truncated or empty tar archive"
                )
            if header.count(0) == BLOCK:
                return
            _verify(header)
            kind = header[156:157]
            size = _number(header[124:136])
            if size < 0:
                raise InvalidArchive("corrupt tar header: negative size")
            if kind in b"xgXLKV":
                headers, meta = headers + 1, meta + size
                if headers > HEADERS_MAX or meta > META_MAX:
                    raise InvalidArchive(
                        f"corrupt tar archive: {headers} extended headers of {meta} bytes for one entry"
                    )
                data = self._meta(size, kind)
                if kind in b"xX":
                    _update(records, data)
                elif kind == b"g":
                    _update(self._global, data)
                elif kind == b"L":
                    records.setdefault(b"path", data.split(b"\0", 1)[0])
                elif kind == b"K":
                    records.setdefault(b"linkpath", data.split(b"\0", 1)[0])
                continue
            entry = _entry(header, size, {**self._global, **records} if self._global else records)
            records = {}
            headers = meta = 0
            self._unread, self._padding = entry.size, -entry.size % BLOCK
            yield entry

    def data(self) -> Iterator[bytes]:
        """The latest entry's data, in pieces."""
        while self._unread:
            before = self._unread
            for piece in self._stream.pieces(self._unread):
                self._unread -= len(piece)
                yield piece
            if self._unread == before:
                raise InvalidArchive("truncated tar archive: an entry ends early")

    def _skip(self) -> None:
        for _ in self.data():
            pass
        if self._padding and len(self._stream.read(self._padding)) < self._padding:
            raise InvalidArchive("truncated tar archive: an entry ends early")
        self._padding = 0

    def _meta(self, size: int, kind: bytes) -> bytes:
        self._unread, self._padding = size, -size % BLOCK
        data = b"".join(self.data())
        return data if kind != b"V" else b""  # a volume label says nothing about entries


def _verify(header: bytes) -> None:
    """The checksum counts its own field as spaces; very old tars summed signed characters."""
    expected = _number(header[148:156])
    plain = sum(header) - sum(header[148:156]) + 8 * 0x20
    if expected != plain:
        signed = plain - 256 * sum(1 for i, c in enumerate(header) if c > 127 and not 148 <= i < 156)
        if expected != signed:
            raise InvalidArchive("corrupt tar header: bad checksum (or not a tar archive)")


def _number(raw: bytes) -> int:
    """Octal text, or GNU's base-256 when the top bit is set (tar(5))."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big")
        return value - (1 << 8 * len(raw)) if raw[0] & 0x40 else value & ~(0x80 << 8 * (len(raw) - 1))
    text = raw.split(b"\0", 1)[0].strip(b" ")
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise InvalidArchive(f"corrupt tar header: {raw!r} is no number") from None


def _update(records: dict[bytes, bytes], data: bytes) -> None:
    """Put the records of a pax header that mean something here into *records*."""
    for key, value in _pax_records(data):
        if key in _USED or key.startswith((_XATTR, _SPARSE)):
            records[key] = value
            if len(records) > RECORDS_MAX:
                raise InvalidArchive(f"corrupt pax header: more than {RECORDS_MAX} records")
    if sum(len(key) + len(value) for key, value in records.items()) > META_MAX:
        raise InvalidArchive(f"corrupt pax header: records of more than {META_MAX} bytes")


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """``"%d %s=%s\\n"`` records, the length counting itself."""
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        length = _decimal(data[position:space]) if space > 0 else 0
        record = data[space + 1 : position + length]
        key, equals, value = record.partition(b"=")
        if length <= 0 or position + length > len(data) or not equals or not value.endswith(b"\n"):
            raise InvalidArchive("corrupt pax header")
        yield key, value[:-1]
        position += length


def _decimal(raw: bytes) -> int:
    if not raw.isdigit() or len(raw) > 19:
        raise InvalidArchive(f"corrupt pax header: {raw[:40]!r} is no number")
    return int(raw)


def _pax_time(raw: bytes) -> int:
    """Seconds with a fraction, to nanoseconds, without the rounding of a float."""
    whole, _, fraction = raw.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    seconds = _decimal(whole.removeprefix(b"-"))
    nanoseconds = _decimal(fraction[:9].ljust(9, b"0")) if fraction else 0
    return sign * (seconds * 10**9 + nanoseconds)


def _entry(header: bytes, size: int, pax: dict[bytes, bytes]) -> Entry:
    kind_byte = header[156:157]
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:  # GNU's magic ("ustar  ") has times where the prefix would be
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    name = pax.get(b"path", name)
    link = pax.get(b"linkpath", header[157:257].split(b"\0", 1)[0])
    shown = name.decode("utf-8", "backslashreplace")
    if kind_byte in _REFUSED or any(key.startswith(_SPARSE) for key in pax):
        what = _REFUSED.get(kind_byte, "sparse file")
        raise InvalidArchive(f"{shown}: a {what} is not supported in an archive", hint="make it without `--sparse`")
    if len(name) >= PATH_MAX or len(link) >= PATH_MAX:
        raise InvalidArchive(f"{shown[:80]}...: a name is too long")
    kind = _KINDS.get(kind_byte)
    if kind is None:
        raise InvalidArchive(f"{shown}: unknown tar entry type {kind_byte!r}")
    if kind == "file" and name.endswith(b"/"):
        kind = "directory"  # how v7 tar wrote directories
    if b"size" in pax:
        size = _decimal(pax[b"size"])
    mtime = _pax_time(pax[b"mtime"]) if b"mtime" in pax else _number(header[136:148]) * 10**9
    device = (_number(header[329:337]), _number(header[337:345])) if kind in ("character", "block") else (0, 0)
    return Entry(
        name=name,
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=_decimal(pax[b"uid"]) if b"uid" in pax else _number(header[108:116]),
        gid=_decimal(pax[b"gid"]) if b"gid" in pax else _number(header[116:124]),
        mtime_ns=max(0, min(mtime, _TIME_MAX * 10**9)),
        size=size if kind == "file" else 0,  # other kinds have no data, whatever the field says
        link=link,
        device=device,
        xattrs={
            key[len(_XATTR) :].decode("utf-8", "surrogateescape"): value
            for key, value in pax.items()
            if key.startswith(_XATTR)
        },
    )
