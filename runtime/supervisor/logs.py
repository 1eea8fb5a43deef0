"""From a container's output to its json-file log, without losing or doubling a byte when the supervisor is killed.

    container --FIFO--> tee(2) --> split into records --> journal --> write(log) --> read(FIFO) the same bytes --> journal

The FIFO is the buffer: it is held open by both sides, so it outlives either, and bytes leave it only when they are in
the log.  A line that has not ended stays in it (up to Docker's 16 KiB, then it is logged in parts), for at most
PARTIAL_SECONDS: then it is logged as it is, because followers read the log and a prompt ends without a newline.

The journal is one small record, written before a batch goes to the log and cleared after its bytes were taken.  A new
supervisor that finds it set knows where the log ended, how long the batch was and the checksum of its bytes: a
batch that is not whole is cut off and read again, a whole one that is still in the FIFO is taken out.

A terminal can not be peeked at: its output is logged as it is read, each piece at once.

Text is JSON of UTF-8; a byte that is none is kept as a lone surrogate (PEP 383), so a reader gets the very bytes back
with ``record["log"].encode("utf-8", "surrogateescape")``.  "time" has nanoseconds, always nine digits (RFC 3339).
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import time
from binascii import crc32
from collections.abc import Callable
from fcntl import ioctl

from .. import linux

PART = 16 << 10
"""Longest record (moby, daemon/logger/copier.go)."""
PARTIAL_SECONDS = 0.1
PIPE_SIZE = 65536
TURN_SECONDS = 0.01
"""How long one stream may keep the supervisor before everybody else has a turn."""
_TERMINAL_DRAIN = 1 << 20
"""Most bytes that are read from the terminal of an ended container: what still writes there is somebody else."""
_JOURNAL = struct.Struct("<QQQQQ")
"""Set (1 stdout, 2 stderr, 0 clear), log size before, length of the batch in the log, bytes taken, their CRC-32."""
STREAMS = {"stdout": 1, "stderr": 2}
_line = re.compile(rb"[^\n]*\n").findall


def split(data: bytes, *, partial: bool) -> tuple[list[bytes], int]:
    """Records of *data*, and how many bytes they are: whole lines, parts of long ones; with *partial* the rest too."""
    records: list[bytes] = []
    start = 0
    while start < len(data):
        # as many lines as end within one part of each other: thousands of short ones in one step
        end = start
        while (newline := data.rfind(b"\n", end, end + PART)) >= 0:
            end = newline + 1
        records += _line(data, start, end)
        start = end
        if len(data) - start >= PART:
            end = start + PART
        elif partial:
            end = len(data)
        else:
            break
        if end > start:
            records.append(data[start:end])
        start = end
    return records, start


def timestamp(nanoseconds: int) -> str:
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def encode(records: list[bytes], stream: str, nanoseconds: int) -> bytes:
    """The lines of the json-file log, of at least one record.

    All in one call of the encoder: they are a list whose items are parted by what ends one line and begins the next.
    """
    head, tail = '{"log":', f',"stream":"{stream}","time":"{timestamp(nanoseconds)}"}}\n'
    texts = [record.decode("utf-8", "surrogateescape") for record in records]
    items = json.dumps(texts, separators=(tail + head, ":"))
    return f"{head}{items[1:-1]}{tail}".encode("ascii")


class Log:
    """The log file and its journal.  An empty *path* throws everything away."""

    def __init__(self, path: str, journal: str) -> None:
        self.path = path
        self.fd = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.journal = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not os.fstat(self.journal).st_size:
                os.pwrite(
                    self.journal, bytes(_JOURNAL.size), 0
                )  # room for it, so that a disk that fills up later has it
            if path:
                self.fd = os.open(path, flags, 0o640)
        except OSError:
            os.close(self.journal)
            raise
        self.lost = 0
        """Bytes that could not be written (a full disk); the container is not made to wait for them."""

    def write(self, stream: str, data: bytes, records: list[bytes]) -> None:
        """Append *records*, which are the bytes *data*; ``taken`` ends the batch."""
        if self.fd < 0:
            return
        batch = encode(records, stream, time.time_ns())
        before = os.fstat(self.fd).st_size
        os.pwrite(self.journal, _JOURNAL.pack(STREAMS[stream], before, len(batch), len(data), crc32(data)), 0)
        view = memoryview(batch)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError:
            self.lost += len(data)
            if os.fstat(self.fd).st_size > before:
                os.ftruncate(self.fd, before)

    def taken(self) -> None:
        if self.fd >= 0:
            os.pwrite(self.journal, bytes(_JOURNAL.size), 0)

    def unfinished(self) -> tuple[str, int, int] | None:
        """(stream, bytes, checksum) of a batch that is in the log and perhaps still in the FIFO; None without one."""
        raw = os.pread(self.journal, _JOURNAL.size, 0)
        if len(raw) < _JOURNAL.size or self.fd < 0:
            return None
        number, before, length, taken, checksum = _JOURNAL.unpack(raw)
        if not number:
            return None
        size = os.fstat(self.fd).st_size
        if size != before + length:
            if size > before:  # else somebody has emptied it meanwhile
                os.ftruncate(self.fd, before)
            self.taken()
            return None
        stream = next(name for name, value in STREAMS.items() if value == number)
        return stream, taken, checksum

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        os.close(self.journal)
        self.fd = -1


class Peek:
    """A pipe into which the contents of another are copied to be looked at."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def look(self, fifo: int) -> bytes:
        """What *fifo* holds (at most PIPE_SIZE bytes); it keeps it."""
        try:
            count = linux.tee(fifo, self._write, PIPE_SIZE)
        except BlockingIOError:
            return b""
        data = b""
        while len(data) < count:
            data += os.read(self._read, count - len(data))
        return data

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def _waiting(fd: int) -> int:
    """Bytes that can be read from *fd* (FIONREAD, pipe(7))."""
    return int.from_bytes(ioctl(fd, linux.FIONREAD, bytes(4)), sys.byteorder)


def _take(fifo: int, count: int) -> None:
    """Take *count* bytes that were seen in *fifo*; fewer where the container, whose end reads too, was quicker."""
    try:
        while count:
            count -= len(os.read(fifo, count))
    except BlockingIOError:
        pass


class FifoStream:
    """One FIFO.  Watch ``fd`` edge-triggered: what stays in it for want of a newline is no news."""

    def __init__(self, path: str, name: str, log: Log, peek: Peek) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.name, self._log, self._peek = name, log, peek

    def recover(self) -> None:
        """Finish what a killed supervisor had begun."""
        batch = self._log.unfinished()
        if batch is None or batch[0] != self.name:
            return
        _, count, checksum = batch
        data = self._peek.look(self.fd)[:count]
        if len(data) == count and crc32(data) == checksum:
            _take(self.fd, count)
        self._log.taken()

    def pump(self, *, partial: bool = False) -> float | None:
        """Log what is there.  Seconds until this is to be called again, None when that is for the next event.

        0 after TURN_SECONDS: others have their turn first.  PARTIAL_SECONDS when the beginning of a line stays behind:
        then call it with *partial*.
        """
        end = time.monotonic() + TURN_SECONDS
        while taken := self._step(partial):
            if time.monotonic() >= end:
                return 0.0
        return None if taken is None else PARTIAL_SECONDS

    def drain(self) -> None:
        """Log what is in the FIFO now, and no more: another container may have it as its output, and go on writing."""
        left = _waiting(self.fd)
        while left > 0 and (taken := self._step(True)):
            left -= taken

    def _step(self, partial: bool) -> int | None:
        """Log one look into the FIFO: the bytes taken, 0 when only the beginning of a line is there, None on nothing."""
        data = self._peek.look(self.fd)
        if not data:
            return None
        records, count = split(data, partial=partial)
        if records:
            self._log.write(self.name, data[:count], records)
            _take(self.fd, count)
            self._log.taken()
        return count

    def close(self) -> None:
        os.close(self.fd)


class TerminalStream:
    """A pty master.  A slave is held open, so that it never hangs up while the container lives."""

    def __init__(self, master: int, open_slave: Callable[[int], int], log: Log) -> None:
        self.fd = master
        os.set_blocking(master, False)
        self._slave = open_slave(master)
        self._log = log

    def recover(self) -> None:
        if self._log.unfinished() is not None:
            self._log.taken()

    def pump(self, *, partial: bool = False) -> float | None:
        """As FifoStream's; *partial* is always so."""
        end = time.monotonic() + TURN_SECONDS
        while self._step():
            if time.monotonic() >= end:
                return 0.0
        return None

    def drain(self) -> None:
        left = _TERMINAL_DRAIN
        while left > 0 and (taken := self._step()):
            left -= taken

    def _step(self) -> int:
        try:
            data = os.read(self.fd, PIPE_SIZE)
        except OSError:  # BlockingIOError: nothing more; EIO: hung up
            return 0
        if data:
            records, _ = split(data, partial=True)
            self._log.write("stdout", data, records)
            self._log.taken()
        return len(data)

    def close(self) -> None:
        os.close(self._slave)
        os.close(self.fd)
