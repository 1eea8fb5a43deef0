"""sysctl: values below /proc/sys.

What stands below /proc/sys/net belongs to the network namespace of the *calling thread*; for another namespace these
functions are run by NetnsThread.call.  A name is text with dots ("net.ipv4.ip_forward"), or a tuple of components
where one of them may itself hold a dot: ("net", "ipv4", "conf", "eth0.100", "rp_filter").
"""

from __future__ import annotations

import errno
import os
import re
from ipaddress import ip_address

from ..errors import InvalidArgument

Name = str | tuple[str, ...]

_ROOT = "/proc/sys"
_NUMBER = re.compile(r"(-?)(?:0[xX]([0-9a-fA-F]{1,16})|0([0-7]{1,22})|([0-9]{1,20}))")


def path(name: Name) -> str:
    """Where *name* stands; InvalidArgument for what would lead out of /proc/sys."""
    parts = tuple(name.split(".")) if isinstance(name, str) else name
    if not parts or any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise InvalidArgument(f"invalid sysctl name {name!r}")
    return "/".join((_ROOT, *parts))


def read(name: Name) -> str:
    """The value, its blanks made single spaces.  FileNotFoundError if this kernel or namespace has no such name.

    "" for one that was never set: stable_secret says EIO then (net/ipv6/addrconf.c, addrconf_sysctl_stable_secret).
    """
    try:
        with open(path(name), encoding="utf-8") as file:
            return " ".join(file.read().split())
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return ""


def same(found: str, wanted: str | int) -> bool:
    """Whether *wanted*, written, is read as *found*: the kernel takes "0x10" and "020" for 16, and has its own way with
    addresses."""
    return [*map(_meaning, found.split())] == [*map(_meaning, str(wanted).split())]


def _meaning(word: str) -> object:
    if number := _NUMBER.fullmatch(word):
        sign, hexadecimal, octal, decimal = number.groups()
        value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
        return -value if sign else value
    try:
        return ip_address(word)
    except ValueError:
        return word


def write(name: Name, value: str | int) -> None:
    """Set it, in one write(2), which is what /proc/sys takes.  The errors of open(2) and write(2) carry the path."""
    where = path(name)
    fd = os.open(where, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, f"{value}\n".encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (value {str(value)!r})", where) from None
    finally:
        os.close(fd)


def ensure(name: Name, value: str | int) -> str | None:
    """Set it if it has another value; return that, for the undo, or None if nothing had to be done."""
    old = read(name)
    if same(old, value):
        return None
    write(name, value)
    return old
