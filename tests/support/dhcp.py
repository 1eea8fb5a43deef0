"""A DHCP server for tests, which knows nothing of pynet's client: it reads and writes messages by hand (RFC 2131, RFC 2132).

It serves the segment of an interface of a namespace, from a thread, until the block ends.  What it was told stands in ``heard``;
a test says how it misbehaves.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from pynet.plugins.testhost import Namespace

from support.waiting import PATIENCE

KINDS = {1: "discover", 3: "request", 4: "decline", 7: "release"}
_SO_BINDTODEVICE = 25


@dataclass(frozen=True)
class Heard:
    kind: str
    mac: str
    client: str
    """ciaddr"""
    requested: str
    hostname: str
    xid: bytes
    source: str
    broadcast: bool


@dataclass
class DhcpServer:
    """Lends *addresses* of 192.0.2.0/24 in this order; one that was declined is never lent again."""

    namespace: Namespace
    addresses: list[str]
    server: str = "192.0.2.2"
    router: str = "192.0.2.2"
    mask: int = 24
    seconds: int = 3600
    options: bytes = b""
    """Further options of every answer, as they go over the wire."""
    nak: bool = False
    silent: set[str] = field(default_factory=set[str])
    """Kinds of messages that are not answered."""
    mangle: Callable[[bytes], bytes] = bytes
    """What goes over the wire in place of an answer."""
    ahead: Callable[[bytes], bytes] | None = None
    """What goes ahead of each answer, made of it."""
    heard: queue.Queue[Heard] = field(default_factory=queue.Queue[Heard])
    lent: dict[str, str] = field(default_factory=dict[str, str])
    """MAC address to address."""

    def __enter__(self) -> Self:
        self._sock = self.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, b"eth0\0")
        self._sock.bind(("0.0.0.0", 67))
        self._end, end = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, args=(end,), name="dhcp-server")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._thread.join()
        self._sock.close()

    def next(self, kind: str, timeout: float = PATIENCE) -> Heard:
        """The next message of this kind; what comes before it is passed over."""
        while True:
            heard = self.heard.get(timeout=timeout)
            if heard.kind == kind:
                return heard

    def _serve(self, end: socket.socket) -> None:
        import select

        with end:
            while True:
                ready, _, _ = select.select([self._sock, end], [], [])
                if end in ready:
                    return
                data, (source, _) = self._sock.recvfrom(2048)
                self._take(data, source)

    def _take(self, data: bytes, source: str) -> None:
        xid, flags = data[4:8], int.from_bytes(data[10:12], "big")
        ciaddr, mac = str(ipaddress.IPv4Address(data[12:16])), data[28:34].hex(":")
        options: dict[int, bytes] = {}
        at = 240
        while at < len(data) and data[at] != 255:
            if data[at]:
                options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
                at += 1 + data[at + 1]
            at += 1
        requested = str(ipaddress.IPv4Address(options[50])) if 50 in options else ""
        heard = Heard(
            KINDS.get(options[53][0], "other"),
            mac,
            ciaddr,
            requested,
            options.get(12, b"").decode(),
            xid,
            source,
            bool(flags & 0x8000),
        )
        self._answer(heard)
        self.heard.put(heard)

    def _answer(self, heard: Heard) -> None:
        if heard.kind in self.silent:
            return
        if heard.kind == "decline":
            self.addresses.remove(heard.requested)
            self.lent.pop(heard.mac, None)
        elif heard.kind == "release":
            self.lent.pop(heard.mac, None)
        elif heard.kind == "discover":
            free = [one for one in self.addresses if one not in self.lent.values()]
            wanted = heard.requested if heard.requested in free else self.lent.get(heard.mac, next(iter(free), ""))
            if wanted:
                self._send(heard, 2, wanted)
        elif heard.kind == "request":
            wanted = heard.requested or heard.client
            if self.nak:
                self._send(heard, 6, "0.0.0.0")
            else:
                self.lent[heard.mac] = wanted
                self._send(heard, 5, wanted)

    def _send(self, heard: Heard, kind: int, address: str) -> None:
        packed = [ipaddress.IPv4Address(one).packed for one in (heard.client, address, self.server, "0.0.0.0")]
        head = struct.pack("!BBBB", 2, 1, 6, 0) + heard.xid + struct.pack("!HH", 0, 0x8000 * heard.broadcast)
        head += b"".join(packed) + bytes.fromhex(heard.mac.replace(":", "")).ljust(16, b"\0") + bytes(192)
        options = bytes([53, 1, kind, 54, 4]) + ipaddress.IPv4Address(self.server).packed
        if kind == 6:
            options += bytes([56, 4]) + b"busy"
        else:
            mask = 0xFFFFFFFF << (32 - self.mask) & 0xFFFFFFFF
            options += bytes([1, 4]) + struct.pack("!I", mask) + bytes([51, 4]) + struct.pack("!I", self.seconds)
            if self.router:
                options += bytes([3, 4]) + ipaddress.IPv4Address(self.router).packed
        message = self.mangle(head + b"\x63\x82\x53\x63" + options + self.options + b"\xff")
        to = heard.client if heard.client != "0.0.0.0" and kind != 6 else "255.255.255.255"
        for one in (self.ahead(message), message) if self.ahead else (message,):
            self._sock.sendto(one, (to, 68))


def as_tlv(code: int, data: bytes) -> bytes:
    return bytes([code, len(data)]) + data


__all__: list[Any] = ["DhcpServer", "Heard", "as_tlv"]
