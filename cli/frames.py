"""What travels on an attached stream: output in frames, and the keys that leave it.  Pure.

Without a terminal, stdout and stderr share the connection in frames (Engine API, "Attach to a container"):

    stream (u8: 0 stdin, 1 stdout, 2 stderr) | 0 0 0 | length (u32, big endian) | payload
"""

from __future__ import annotations

from ..netlib.errors import InvalidArgument
from .http1 import BadResponse

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


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


class DetachKeys:
    """Finds the key sequence that leaves an attached terminal; keys that only begin it are passed on late."""

    def __init__(self, text: str = DEFAULT_DETACH_KEYS) -> None:
        self._sequence = parse_keys(text)
        self._seen = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """-> what goes to the container, and whether the sequence is complete."""
        if not self._sequence:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._sequence[self._seen]:
                self._seen += 1
                if self._seen == len(self._sequence):
                    self._seen = 0
                    return bytes(out), True
                continue
            out += self._sequence[: self._seen]
            self._seen = 0
            if byte == self._sequence[0]:
                self._seen = 1
            else:
                out.append(byte)
        return bytes(out), False


def parse_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` -> b"\\x10\\x11"; single characters stand for themselves; empty switches detaching off."""
    keys = bytearray()
    for name in text.split(",") if text else ():
        if len(name) == 1 and name.isascii():
            keys += name.encode()
        elif name.startswith("ctrl-") and len(name) == 6 and ("a" <= name[5] <= "z" or name[5] in "@[\\]^_"):
            keys.append(ord(name[5].upper()) - 64)
        elif name == "DEL":
            keys.append(127)
        else:
            raise InvalidArgument(f"invalid detach keys: {text!r}", hint="write for example ctrl-p,ctrl-q or a")
    return bytes(keys)
