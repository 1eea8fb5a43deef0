"""Netlink's multicast: what was changed in the kernel, told as it happens, with the port of the socket that asked for it.

    group  --datagram, datagram, ...-->  read()  -->  [Event(type, port, body), ...], or None: some were lost

A socket that is not read in time loses messages (ENOBUFS, netlink(7)): then nobody knows what happened, which is told as None.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NamedTuple

from .netlink import SOL_NETLINK

NETLINK_ADD_MEMBERSHIP = 1  # linux/netlink.h
NFNLGRP_NFTABLES = 7  # linux/netfilter/nfnetlink.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_ROOM = 1 << 20
"""Bytes that may wait to be read."""
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port


class Event(NamedTuple):
    type: int
    port: int
    """The netlink port of who asked for the change, unique in its namespace and protocol; 0 is the kernel itself."""
    body: bytes


class EventSocket:
    """The messages of *groups* of a netlink *protocol*, in the namespace of *sock* (a new, unbound socket, owned from now on)."""

    def __init__(self, sock: socket.socket, *groups: int) -> None:
        self._sock = sock
        try:
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            except PermissionError:  # root of a user namespace
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            sock.bind((0, 0))
            for group in groups:
                sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def read(self) -> list[Event] | None:
        """All that waits; None when some was lost."""
        events: list[Event] = []
        lost = False
        while True:
            try:
                data, sender = self._sock.recvfrom(1 << 18)
            except BlockingIOError:
                return None if lost else events
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if sender[0] == 0:  # the kernel; who has CAP_NET_ADMIN may send to groups too
                events += _split(data)


def _split(data: bytes) -> list[Event]:
    events: list[Event] = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, port = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= len(data) - offset:
            break
        events.append(Event(kind, port, data[offset + _HEADER.size : offset + length]))
        offset += (length + 3) & ~3
    return events


def own_ports(protocol: int) -> frozenset[int]:
    """The ports of this process's sockets of a netlink *protocol* in the calling thread's namespace.

    /proc/net/netlink has the inode of every socket there, and /proc/self/fd tells which are ours (proc(5)).
    """
    ours: set[str] = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            ours.add(target[len("socket:[") : -1])
    found: set[int] = set()
    with open("/proc/thread-self/net/netlink", encoding="ascii") as lines:
        next(lines)
        for line in lines:
            words = line.split()
            if int(words[1]) == protocol and words[9] in ours:
                found.add(int(words[2]))
    return frozenset(found)
