"""What a tmpfs is asked for: "size=64m,mode=1777,exec"."""

from __future__ import annotations

from ...netlib.kernel import syscall as k

_ATTRIBUTES = {
    "ro": k.MOUNT_ATTR_RDONLY,
    "nosuid": k.MOUNT_ATTR_NOSUID,
    "nodev": k.MOUNT_ATTR_NODEV,
    "noexec": k.MOUNT_ATTR_NOEXEC,
}
_OPPOSITES = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec"}
SAFE = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC


def options(text: str) -> tuple[list[tuple[str, str | None]], int]:
    """tmpfs(5) options and mount attributes of "size=64m,exec"; without a word on it: nosuid, nodev, noexec, as Docker."""
    attributes = SAFE
    found: list[tuple[str, str | None]] = []
    for word in filter(None, text.split(",")):
        key, equals, value = word.partition("=")
        if key in _ATTRIBUTES:
            attributes |= _ATTRIBUTES[key]
        elif key in _OPPOSITES:
            attributes &= ~_ATTRIBUTES[_OPPOSITES[key]]
        else:
            found.append((key, value if equals else None))
    return found, attributes
