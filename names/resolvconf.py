"""resolv.conf(5): read, and watched.

    /etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf        a chain of links, each in a directory
    `-- watched: every directory on the way, and the file at its end

Who changes the file hardly ever writes into it: NetworkManager and systemd-resolved rename another one onto it, a VPN client
points the link elsewhere, and then a watch of the file is a watch of something that is gone.  So directories are watched by
inotify(7), for these names alone; the file as well, because one that is mounted in its place (a container's) changes where no
directory tells of it.  Every event means the same, look again: the chain is followed anew, and whoever wants to know is told
when it says another thing than before.  A file that is away says nothing: what was known stays until there is one again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import operator
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..netlib.kernel import syscall

PATH: Final = "/etc/resolv.conf"
LARGEST: Final = 64 << 10
"""Bytes that are read; the C library stops nowhere, but nobody has that many servers."""
SERVERS, DOMAINS, OPTIONS = 8, 32, 32
"""As many are taken: glibc takes 3 servers (MAXNS), and any number of domains since 2.26."""
NDOTS, TIMEOUT, ATTEMPTS = 15, 30, 5
"""glibc's RES_MAXNDOTS, RES_MAXRETRANS, RES_MAXRETRY: more is taken for these."""
QUIET: Final = 0.02
"""Seconds from an event until it is read: who replaces a file causes several."""
SLOW: Final = 5.0
"""Seconds between looks where the kernel gives no watch (max_user_watches, max_user_instances)."""
_HOPS: Final = 40
"""Links that are followed: the kernel's own limit (path_resolution(7))."""

_MASK: Final = functools.reduce(
    operator.or_,
    (
        *(syscall.IN_MODIFY, syscall.IN_ATTRIB, syscall.IN_CLOSE_WRITE, syscall.IN_MOVED_FROM, syscall.IN_MOVED_TO),
        *(syscall.IN_CREATE, syscall.IN_DELETE, syscall.IN_DELETE_SELF, syscall.IN_MOVE_SELF),
    ),
)
_EVENT = struct.Struct("iIII")


@dataclass(frozen=True)
class ResolvConf:
    servers: tuple[str, ...] = ()
    """Addresses in order, IPv6 perhaps with a scope (``fe80::1%eth0``)."""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """As written: ``ndots:2``, ``edns0``."""

    @property
    def ndots(self) -> int | None:
        return self._number("ndots", NDOTS)

    @property
    def timeout(self) -> int | None:
        """Seconds."""
        return self._number("timeout", TIMEOUT)

    @property
    def attempts(self) -> int | None:
        return self._number("attempts", ATTEMPTS)

    @property
    def rotate(self) -> bool:
        return "rotate" in self.options

    def _number(self, name: str, most: int) -> int | None:
        """The last one counts; one that is no number is none."""
        found = None
        for option in self.options:
            key, colon, value = option.partition(":")
            if key == name and colon and value.isascii() and value.isdigit():
                found = min(int(value[:9]), most)
        return found


def parse(text: str) -> ResolvConf:
    """What *text* says to who reads it as glibc does: what can not be understood is passed over, the last of ``search`` and
    ``domain`` counts, options add up.  Bounded, whatever the text is."""
    servers, search, options = dict[str, None](), tuple[str, ...](), dict[str, None]()
    for line in text[:LARGEST].split("\n"):
        if line[:1] in ("#", ";"):
            continue
        word, *values = line.split()[: DOMAINS + 1] or [""]
        if word == "nameserver" and values:
            address = _address(values[0])
            if address is not None and len(servers) < SERVERS:
                servers[address] = None
        elif word == "domain" and values:
            search = (values[0],)
        elif word == "search":
            search = tuple(values)
        elif word == "options":
            for option in values:
                if len(options) < OPTIONS:
                    options.pop(option, None)
                    options[option] = None
    return ResolvConf(tuple(servers), search, tuple(options))


def _address(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return str(address)


def read(path: str = PATH) -> ResolvConf | None:
    """What the file says; None where there is none that can be read, or an empty one: whoever writes into it has truncated it.
    One without servers means the host itself (resolv.conf(5))."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # a FIFO or a device would have us wait
            return None
        data = os.read(fd, LARGEST)
    except OSError:
        return None
    finally:
        os.close(fd)
    if not data:
        return None
    found = parse(data.decode("utf-8", "replace"))
    return found if found.servers else ResolvConf(("127.0.0.1",), found.search, found.options)


def chain(path: str) -> list[str]:
    """*path*, and what each link on the way leads to, as far as it goes: the last one may not exist."""
    hops = [os.path.abspath(path)]
    while len(hops) <= _HOPS:
        try:
            target = os.readlink(hops[-1])
        except OSError:
            break
        directory = os.path.realpath(os.path.dirname(hops[-1]))
        hops.append(os.path.normpath(os.path.join(directory, target)))
    return hops


class Watched:
    """A resolv.conf, read again whenever it may have changed; belongs to the running event loop."""

    def __init__(self, path: str, changed: Callable[[ResolvConf], object]) -> None:
        """*changed* is called with what it says from now on, if it says another thing; ``now`` is what it says first."""
        self._path, self._changed = path, changed
        self._loop = asyncio.get_running_loop()
        self.now: ResolvConf | None = None
        """None: there was no such file yet."""
        self.looked = 0
        """Times that it was read."""
        self._fd = -1
        self._watches: dict[int, set[bytes] | None] = {}
        """Watch -> names in that directory that matter; None: a file."""
        self._timer: asyncio.TimerHandle | None = None
        self._look(tell=False)

    def close(self) -> None:
        """Watch no longer; more than once is well."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._unwatch()

    def _unwatch(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._watches.clear()

    def _look(self, *, tell: bool = True) -> None:
        self._timer = None
        watching = self._watch()  # before it is read: what changes in between is an event
        self.looked += 1
        found = read(self._path)
        if not watching:
            self._timer = self._loop.call_later(SLOW, self._look)
        if found is not None and found != self.now:
            self.now = found
            if tell:
                self._changed(found)

    def _watch(self) -> bool:
        """Watches for the chain as it is now.  False where the kernel has none to give."""
        self._unwatch()
        try:
            self._fd = syscall.inotify_init1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
            hops = chain(self._path)
            for hop in hops:
                directory, name = os.path.split(hop)
                while directory != "/" and not os.path.isdir(directory):  # made later: then its parent tells
                    directory, name = os.path.split(directory)
                watch = syscall.inotify_add_watch(self._fd, directory, _MASK | syscall.IN_ONLYDIR)
                names = self._watches.setdefault(watch, set())
                if names is not None:
                    names.add(os.fsencode(name))
            with contextlib.suppress(FileNotFoundError):
                self._watches.setdefault(syscall.inotify_add_watch(self._fd, hops[-1], _MASK), None)
        except OSError:  # ENOSPC, EMFILE: too many watch already; or a directory went meanwhile
            self._unwatch()
            return False
        self._loop.add_reader(self._fd, self._read)
        return True

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except (BlockingIOError, InterruptedError):
            return
        at, matters = 0, False
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            names = self._watches.get(watch)
            if not names or not name or name in names or mask & syscall.IN_Q_OVERFLOW:
                matters = True
        if matters and self._timer is None:
            self._timer = self._loop.call_later(QUIET, self._look)
