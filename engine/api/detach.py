"""The keys that end an attach or an exec and leave the process alone: ctrl-p ctrl-q, or the client's own."""

from __future__ import annotations

from ...netlib.errors import InvalidArgument

_CONTROL = {chr(ord("a") + n): bytes([n + 1]) for n in range(26)} | {
    "@": b"\0", "[": b"\x1b", "\\": b"\x1c", "]": b"\x1d", "^": b"\x1e", "_": b"\x1f",
}  # fmt: skip
DEFAULT_KEYS = "ctrl-p,ctrl-q"


def parse_keys(text: str) -> bytes:
    """ "ctrl-p,ctrl-q" to the bytes that a terminal sends (moby, pkg/term ToBytes)."""
    keys = b""
    for word in (text or DEFAULT_KEYS).split(","):
        if len(word) == 1:
            keys += word.encode()
        elif word.startswith("ctrl-") and word[5:] in _CONTROL:
            keys += _CONTROL[word[5:]]
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return keys


class DetachScanner:
    """Finds the detach keys in what is typed; keys that turn out not to be a detach are passed on late, none are lost."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What to pass on."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self.detached = True
                    return bytes(out)
                continue
            out += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0] and len(self._keys) > 1:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out)
