"""What travels on an attached stream: output in frames.  Pure.

Without a terminal, stdout and stderr share the connection in frames (Engine API, "Attach to a container"):

    stream (u8: 0 stdin, 1 stdout, 2 stderr) | 0 0 0 | length (u32, big endian) | payload
"""

from __future__ import annotations

from .http1 import BadResponse


class Demultiplexer:
    """Bytes in, (stream number, bytes) out; a frame's payload is handed on as it comes, not when it is whole."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 1
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take in *data*; BadResponse when it is not framed."""
        pieces: list[tuple[int, bytes]] = []
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                pieces.append((self._stream, piece))
                continue
            missing = 8 - len(self._header)
            self._header, data = self._header + data[:missing], data[missing:]
            if len(self._header) == 8:
                if self._header[0] > 3 or self._header[1:4] != b"\0\0\0":
                    raise BadResponse(f"the stream is not in frames: {self._header!r}")
                self._stream, self._left = self._header[0], int.from_bytes(self._header[4:], "big")
                self._header = b""
        return pieces
