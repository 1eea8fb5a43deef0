"""What options of several drivers are read with: text in, value out, ValueError with what is wrong."""

from __future__ import annotations

from ..netlib.ifname import HINT, is_ifname


def boolean(text: str) -> bool:
    # Go's strconv.ParseBool, which Docker uses for these options
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise ValueError("not true or false")


def mtu(text: str) -> int:
    """Bytes; 0 leaves the choice."""
    if not text.isascii() or not text.isdigit():
        raise ValueError("not a number of bytes")
    value = int(text)
    if value and not 68 <= value <= 65535:  # RFC 791 (68); the kernel's largest for veth
        raise ValueError("not between 68 and 65535")
    return value


def interface(text: str) -> str:
    if not is_ifname(text):
        raise ValueError(f"not an interface name: {HINT}")
    return text
