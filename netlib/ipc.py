"""Messages between pynet's own processes: JSON with file descriptors over a Unix stream socket.

    frame = length of the payload (u32, big endian) | number of descriptors (u32) | payload (UTF-8 JSON object)

Descriptors travel as SCM_RIGHTS with the frame's own bytes, at most 253 a sendmsg (SCM_MAX_FD, unix(7)); recvmsg stops
after bytes that brought descriptors, so they arrive in order and in time for the frame that they belong to.  A frame
that is too large, not JSON, nested too deeply, not an object, or that brings fewer descriptors than it promises or more,
is a ProtocolError, and the connection is of no more use: the receiver closes it.  Nothing here waits by itself: ``send``
and ``receive`` block when the socket does; ``drain``, ``queue`` and ``flush`` serve event loops.

Bounds.  A frame has ``MAX_PAYLOAD`` bytes and ``MAX_DESCRIPTORS`` at most; what may be longer goes in pages, each a frame.
``partial`` says that the peer is in the middle of a frame: an event loop gives it ``PATIENCE`` for the rest.

Every room may import this module.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections import deque
from typing import Any

MAX_PAYLOAD = 16 << 20
"""Largest payload in bytes, either way."""
MAX_DESCRIPTORS = 16384
"""Most descriptors in one frame."""
PATIENCE = 10.0
"""Seconds that the rest of a frame may take to arrive."""
SCM_MAX_FD = 253
_HEADER = struct.Struct("!II")
_CHUNK = 65536

Message = dict[str, Any]


class ProtocolError(Exception):
    """The peer sent something that is not a frame; close the connection."""


class TooFewDescriptors(OSError):
    """The limit of open files leaves no copy of what a message is to carry; it was not sent."""


class Channel:
    """One connection.  Not thread-safe: one thread at a time may send, and one at a time may receive."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._out: deque[tuple[bytes, list[int]]] = deque()

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket and every descriptor that arrived and was not taken."""
        self.sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        for _, fds in self._out:
            for fd in fds:
                os.close(fd)
        self._out.clear()

    # -- sending ---------------------------------------------------------------------------------------------

    @staticmethod
    def _pieces(message: Message, fds: list[int]) -> list[tuple[bytes, list[int]]]:
        try:
            payload = json.dumps(message, separators=(",", ":")).encode()
        except RecursionError as error:  # a value that came in and goes back, a "tag"
            raise ProtocolError("message is nested too deeply") from error
        if len(payload) > MAX_PAYLOAD or len(fds) > MAX_DESCRIPTORS:
            raise ProtocolError(f"message of {len(payload)} bytes with {len(fds)} descriptors is too large")
        data = _HEADER.pack(len(payload), len(fds)) + payload
        pieces: list[tuple[bytes, list[int]]] = []
        while len(fds) > SCM_MAX_FD:
            # each group needs at least one byte to ride on; the header alone has eight, the payload at least two
            pieces.append((data[:1], fds[:SCM_MAX_FD]))
            data, fds = data[1:], fds[SCM_MAX_FD:]
            if len(data) < 2:
                raise ProtocolError("message is too short for its descriptors")
        pieces.append((data, fds))
        return pieces

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        """Send one frame on a blocking socket.  The caller keeps its descriptors."""
        for data, group in self._pieces(message, list(fds or ())):
            view = memoryview(data)
            while view:
                sent = socket.send_fds(self.sock, [view], group) if group else self.sock.send(view)
                group, view = [], view[sent:]

    def queue(self, message: Message, fds: list[int] | None = None) -> bool:
        """Send one frame on a non-blocking socket; what does not fit waits for ``flush``, whose answer is returned.

        ProtocolError for a message that is too large and TooFewDescriptors where its descriptors can not be copied:
        nothing of it is sent then, and the next message may be.  Any other OSError is the connection's end.
        """
        pieces = self._pieces(message, list(fds or ()))
        own: list[int] = []
        try:
            for fd in fds or ():
                own.append(os.dup(fd))
        except OSError as error:
            for fd in own:
                os.close(fd)
            raise TooFewDescriptors(error.errno, f"no descriptor is left for a message: {error.strerror}") from error
        first = 0
        for data, group in pieces:
            self._out.append((data, own[first : first + len(group)]))
            first += len(group)
        return self.flush()

    def flush(self) -> bool:
        """Send what is queued.  True when nothing is left; else wait until the socket is writable and call again."""
        while self._out:
            data, group = self._out[0]
            try:
                sent = socket.send_fds(self.sock, [data], group) if group else self.sock.send(data)
            except BlockingIOError:
                return False
            for fd in group:
                os.close(fd)
            if sent < len(data):
                self._out[0] = (data[sent:], [])
            else:
                self._out.popleft()
        return True

    @property
    def pending(self) -> int:
        """Bytes queued and not yet sent: the owner drops a peer that lets this grow."""
        return sum(len(data) for data, _ in self._out)

    @property
    def partial(self) -> bool:
        """Whether the beginning of a frame is here and its rest is not."""
        return bool(self._buffer)

    # -- receiving -------------------------------------------------------------------------------------------

    def _read(self) -> bool:
        data, ancillary, flags, _ = self.sock.recvmsg(
            _CHUNK, socket.CMSG_SPACE(SCM_MAX_FD * 4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
                self._fds.extend(numbers)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError("descriptors were lost: the limit of open files is reached")
        if len(self._fds) > MAX_DESCRIPTORS:
            raise ProtocolError("more descriptors than a frame may carry")
        self._buffer += data
        return bool(data)

    def _take(self) -> tuple[Message, list[int]] | None:
        if len(self._buffer) < _HEADER.size:
            return None
        length, count = _HEADER.unpack_from(self._buffer)
        if length > MAX_PAYLOAD or count > MAX_DESCRIPTORS:
            raise ProtocolError(f"frame of {length} bytes with {count} descriptors is too large")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        # those of a frame ride on its own bytes: what is too much can only be the next one's
        if len(self._fds) < count or (len(self._buffer) == end and len(self._fds) > count):
            raise ProtocolError(f"frame promises {count} descriptors and brings {len(self._fds)}")
        payload = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        fds, self._fds = self._fds[:count], self._fds[count:]
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError) as error:
            message, text = None, str(error)
        else:
            text = "not an object"
        if not isinstance(message, dict):
            for fd in fds:
                os.close(fd)
            raise ProtocolError(f"payload is not a JSON object: {text}")
        return message, fds

    def receive(self) -> tuple[Message, list[int]] | None:
        """Wait for one frame on a blocking socket; None at the end of the stream.  The caller owns the descriptors."""
        while True:
            frame = self._take()
            if frame is not None:
                return frame
            if not self._read():
                if self._buffer:
                    raise ProtocolError("the stream ended inside a frame")
                return None

    def read(self) -> tuple[list[tuple[Message, list[int]]], bool]:
        """One recvmsg, which blocks when the socket does, and all frames that are whole now; False at the end."""
        is_open = self._read()
        return self._frames(is_open)

    def drain(self) -> tuple[list[tuple[Message, list[int]]], bool]:
        """All whole frames a non-blocking socket holds now, and whether the stream is still open."""
        is_open = True
        for _ in range(64):
            try:
                is_open = self._read()
            except BlockingIOError:
                break
            except ConnectionResetError:
                is_open = False
            if not is_open:
                break
        return self._frames(is_open)

    def _frames(self, is_open: bool) -> tuple[list[tuple[Message, list[int]]], bool]:
        """What stands whole before something that is no frame is given out, as the last that this stream says."""
        frames: list[tuple[Message, list[int]]] = []
        while True:
            try:
                frame = self._take()
            except ProtocolError:
                if not frames:
                    raise
                return frames, False
            if frame is None:
                return frames, is_open
            frames.append(frame)


def connect(path: str, timeout: float | None = None) -> Channel:
    """Connect to the control socket at *path*; OSError when nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return Channel(sock)


def listen(path: str, backlog: int = 64, mode: int = 0o600) -> socket.socket:
    """A non-blocking listening socket at *path*, created with *mode*; a stale socket there is replaced.

    The caller holds the lock that says nobody else serves this path.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        old = os.umask(0o777 & ~mode)
        try:
            sock.bind(path)
        finally:
            os.umask(old)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
