"""The keys that leave an attached stream: how they are written, and how they are found in what is typed.  Pure.

    ctrl-p,ctrl-q    single characters stand for themselves; ctrl-@ to ctrl-_; DEL.  Empty means these two

(moby, pkg/term: ToBytes and NewEscapeProxy.)  Both ends look for them: the engine for clients that do not, the command
so that it knows why the stream ended.
"""

from __future__ import annotations

from ...netlib.errors import InvalidArgument

DEFAULT_KEYS = "ctrl-p,ctrl-q"
_HINT = "write for example ctrl-p,ctrl-q or a"


def parse_keys(text: str | None) -> bytes:
    """``ctrl-p,ctrl-q`` to the bytes that a terminal sends, b"\\x10\\x11"."""
    keys = bytearray()
    for name in (text or DEFAULT_KEYS).split(","):
        if len(name) == 1 and name.isascii():
            keys += name.encode()
        elif name.startswith("ctrl-") and len(name) == 6 and ("a" <= name[5] <= "z" or name[5] in "@[\\]^_"):
            keys.append(ord(name[5].upper()) - 64)
        elif name == "DEL":
            keys.append(127)
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided", hint=_HINT)
    return bytes(keys)


class DetachScanner:
    """Finds the keys in what is typed; those that turn out not to be all of them are passed on late, none are lost."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What to pass on; ``detached`` says afterwards whether the keys were complete, and then nothing follows."""
        out = bytearray()
        for byte in data:
            self._held += bytes((byte,))
            while not self._keys.startswith(self._held):
                out.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                self.detached = True
                break
        return bytes(out)
