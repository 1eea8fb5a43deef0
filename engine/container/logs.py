"""A container's output: the json-file log that the supervisor writes, read for ``logs`` and ``attach``.

    {"log":"hello\\n","stream":"stdout","time":"2024-05-01T10:00:00.123456789Z"}        one line each

Whoever follows a container follows this file (inotify), and ends when the container has ended and the rest is read: the
supervisor writes all output before it tells the exit.  Bytes that are not UTF-8 are kept as lone surrogates.

On the wire, without a terminal, stdout and stderr share one stream in frames: ``[stream, 0, 0, 0, length (u32, big endian)]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from ...netlib.timestamps import parse_stamp
from ..inotify import Inotify

STDOUT, STDERR = 1, 2
CHUNK = 64 << 10
"""Bytes of a file that are read in one go: some milliseconds of the event loop when its lines are short."""
_STREAMS = {"stdout": STDOUT, "stderr": STDERR}
_HEADER = struct.Struct(">BxxxL")


class Entry(NamedTuple):
    stream: int
    time: str
    data: bytes


@dataclass(frozen=True)
class Selection:
    """What of the log is wanted."""

    stdout: bool = True
    stderr: bool = True
    since: int | None = None
    """Nanoseconds, as ``until``."""
    until: int | None = None
    timestamps: bool = False
    tail: int | None = None
    """The last so many lines of what is there; None is all."""

    def passes(self, entry: Entry) -> bool:
        if not (self.stdout if entry.stream == STDOUT else self.stderr):
            return False
        if self.since is None and self.until is None:
            return True
        moment = parse_stamp(entry.time) or 0
        return (self.since is None or moment >= self.since) and (self.until is None or moment <= self.until)

    def render(self, entry: Entry, *, framed: bool) -> bytes:
        data = f"{entry.time} ".encode() + entry.data if self.timestamps else entry.data
        return frame(entry.stream, data) if framed else data


def frame(stream: int, data: bytes) -> bytes:
    return _HEADER.pack(stream, len(data)) + data


def parse_line(line: bytes) -> Entry | None:
    """None for a line that is damaged (a full disk, a power cut): the others are still worth reading."""
    try:
        body = json.loads(line)
        return Entry(_STREAMS[body["stream"]], str(body["time"]), body["log"].encode("utf-8", "surrogateescape"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def tail_offset(fd: int, lines: int) -> int:
    """Where the last *lines* lines of a file begin; read backwards, so its length costs nothing."""
    end = os.fstat(fd).st_size
    if lines <= 0:
        return end
    # the newline that ends the last line begins no other
    position, wanted = end, lines + 1
    while position > 0:
        start = max(0, position - CHUNK)
        block = os.pread(fd, position - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) != -1:
            wanted -= 1
            if wanted == 0:
                return start + at + 1
        position = start
    return 0


class LogFile:
    """Reads entries in order, from where it stands; an unfinished last line waits for its rest."""

    def __init__(self, path: str, *, at_end: bool = False) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._offset = os.fstat(self._fd).st_size if at_end else 0
        self._rest = b""

    def close(self) -> None:
        os.close(self._fd)

    def skip_to_tail(self, lines: int) -> None:
        self._offset, self._rest = tail_offset(self._fd, lines), b""

    def read(self) -> bytes:
        """Whole lines that are there now, at most about a chunk of them; b"" when there are none."""
        data = os.pread(self._fd, CHUNK, self._offset)
        self._offset += len(data)
        block, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._rest += data
            return b""
        block, self._rest = self._rest + block + newline, rest
        return block

    @property
    def exhausted(self) -> bool:
        return os.fstat(self._fd).st_size <= self._offset


def parse_block(block: bytes) -> Iterator[Entry]:
    for line in block[:-1].split(b"\n"):
        entry = parse_line(line)
        if entry is not None:
            yield entry


_PLAIN = {
    name: re.compile(rb'^\{"log":"([^"\\]*)\\n","stream":"' + name.encode() + rb'","time":"[^"\\]*"\}$', re.MULTILINE)
    for name in _STREAMS
}
"""A line of output without anything that JSON escapes but its end: most lines of most containers."""


class _Heads(dict[int, bytes]):
    """Length of a text without its newline to its frame's header."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self._stream = stream

    def __missing__(self, length: int) -> bytes:
        head = self[length] = _HEADER.pack(self._stream, length + 1)
        return head


class Renderer:
    """Blocks of the log to what the client gets.  Plain blocks are rendered without looking at each line by itself.

    *joined*: lines of one stream that follow each other may share a frame.  ``attach`` has always given pieces of a stream;
    of ``logs`` programs expect a frame a line.
    """

    def __init__(self, selection: Selection, *, framed: bool, joined: bool) -> None:
        self._selection = selection
        self._framed = framed
        self._joined = joined
        s = selection
        self._plain = s.since is None and s.until is None and not s.timestamps
        self._heads = {name: _Heads(stream) for name, stream in _STREAMS.items()}

    def render(self, block: bytes) -> bytes:
        if self._plain:
            count = block.count(b"\n")
            for name, stream in _STREAMS.items():
                lines: list[bytes] = _PLAIN[name].findall(block)
                if lines and len(lines) == count:
                    return self._render_plain(lines, name, stream)
        entries = parse_block(block)
        return b"".join(self._selection.render(e, framed=self._framed) for e in entries if self._selection.passes(e))

    def _render_plain(self, lines: list[bytes], name: str, stream: int) -> bytes:
        if not (self._selection.stdout if stream == STDOUT else self._selection.stderr):
            return b""
        if self._framed and not self._joined:
            heads = self._heads[name]
            return b"\n".join([heads[len(line)] + line for line in lines]) + b"\n"
        data = b"\n".join(lines) + b"\n"
        return frame(stream, data) if self._framed else data


async def follow(log: LogFile, inotify: Inotify | None, ended: Future[int] | None) -> AsyncIterator[bytes]:
    """Blocks of whole lines: what is there, then (with *ended* given) what comes, until the container has ended.

    Each block is followed by a turn for the loop's others: a container that writes faster than we read has no end.
    """
    if ended is None or inotify is None:
        while not log.exhausted:
            yield log.read()
            await asyncio.sleep(0)
        return
    with inotify.follow(log.path) as grown:
        loop = asyncio.get_running_loop()
        ended.add_done_callback(lambda _: loop.call_soon_threadsafe(grown.set))
        while True:
            grown.clear()
            over = ended.done()  # before the last read: what is written before the end is read after it
            while not log.exhausted:
                yield log.read()
                await asyncio.sleep(0)
            if over:
                return
            await grown.wait()


Write = Callable[[bytes], Awaitable[None]]


async def send(
    log: LogFile,
    selection: Selection,
    write: Write,
    *,
    framed: bool,
    inotify: Inotify | None,
    ended: Future[int] | None,
    joined: bool = False,
) -> None:
    """Send what is selected, and follow when *ended* is given.  *joined* as in ``Renderer``."""
    if selection.tail is not None:
        log.skip_to_tail(selection.tail)
    renderer = Renderer(selection, framed=framed, joined=joined)
    async for block in follow(log, inotify, ended):
        out = renderer.render(block)
        if out:
            await write(out)
