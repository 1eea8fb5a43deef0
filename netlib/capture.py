"""A capture: what passes the interfaces of a sandbox, as a stream of pcapng, made outside of it.

    sandbox's namespace            this process                                 whoever reads
    packet sockets, one each  -->  read: a batch in the order of time, as blocks  -->  file, tcpdump, tshark

Nothing runs in the sandbox and nothing is needed in it: a socket that was made inside works from everywhere.  It keeps the
namespace alive, too, so a capture ends by itself when its interfaces are gone or the sandbox is.

Memory is bounded: the kernel keeps some megabytes for each interface (kernel/packets.py) and drops what comes while
they are full; a batch has at most ``BATCH`` bytes, an equal share for each interface, and a packet more of each.  What was
dropped is in the stream, as statistics, whenever it has changed, and in ``dropped``.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Sequence

from . import pcapng
from .errors import InvalidArgument, NotFound, NotSupported
from .kernel.libpcap import DLT_EN10MB, DLT_RAW, compile_filter
from .kernel.packets import ARPHRD_ETHER, ARPHRD_LOOPBACK, HEADERLESS, Packet, PacketSocket, accept
from .tools import Inside, Tools
from .version import __version__

LOOPBACK = "lo"
ANY = "any"
MOST_SNAPLEN = 262144
"""Bytes of a packet, as for tcpdump: larger ones are not made by any interface of ours."""
BATCH = 256 << 10
LOOK = 1.0
"""Seconds between two looks for drops and for the sandbox's end."""


class Capture:
    """See the module's text.  One reader at a time; ``close`` may come from any thread."""

    def __init__(
        self,
        tools: Tools,
        path: str,
        *,
        interfaces: Sequence[str] = (),
        snaplen: int = 0,
        expression: str = "",
        count: int = 0,
    ) -> None:
        """Begin.  *interfaces* by name, ANY for all of them, none for all but the loopback; *snaplen* 0 is all of a packet;
        *expression* is a filter (pcap-filter(7)); after *count* packets it has ended, 0 is never.

        InvalidArgument (numbers, the filter), NotFound (an interface), NotSupported (the loopback is all there is; libpcap).
        """
        if not 0 <= snaplen <= MOST_SNAPLEN:
            raise InvalidArgument(f"invalid snaplen {snaplen}", hint=f"give 1 to {MOST_SNAPLEN} bytes, or 0 for all")
        if count < 0:
            raise InvalidArgument(f"invalid count {count}", hint="give the number of packets, or 0 for no end")
        self.captured = 0
        """Packets that were read."""
        self._left = count or -1
        self._snaplen = snaplen or MOST_SNAPLEN
        self._lock = threading.Lock()
        self._path = path
        self._told: dict[int, tuple[int, int]] = {}
        self._looked = time.monotonic()
        self._sockets: dict[int, PacketSocket] = {}
        self._epoll = select.epoll()
        try:
            with tools.inside(path) as inside:
                self._namespace = os.fstat(inside.fd).st_ino
                opened = inside.call(_open, _names(inside, interfaces))
            self._sockets.update(enumerate(opened))
            self.interfaces = tuple(one.ifname for one in opened)
            links = [_link(one) for one in opened]
            for number, one in self._sockets.items():
                one.listen(self._program(links[number], expression), self._snaplen)
                self._epoll.register(one.sock, select.EPOLLIN)
            described = [
                (one.ifname, pcapng.LINKTYPE_RAW if link == DLT_RAW else pcapng.LINKTYPE_ETHERNET)
                for one, link in zip(opened, links)
            ]
            self.header = pcapng.header(f"pynet {__version__}", described, self._snaplen, expression)
            """What the stream begins with."""
        except BaseException:
            self.close()
            raise

    def _program(self, link: int, expression: str) -> bytes:
        return compile_filter(expression, link, self._snaplen) if expression else accept(self._snaplen)

    @property
    def dropped(self) -> int:
        """Packets that the kernel dropped because nobody fetched them, as far as was looked."""
        return sum(dropped for _, dropped in self._told.values())

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return not self._sockets or not self._left

    def fileno(self) -> int:
        """Readable when ``read`` has something."""
        return self._epoll.fileno()

    def read(self) -> bytes:
        """Blocks of what has come; b"" for nothing yet.  Never waits; to be called again when ``fileno`` is readable,
        and after ``LOOK`` seconds."""
        with self._lock:
            blocks = self._packets()
            if time.monotonic() - self._looked >= LOOK or self.ended:
                self._looked = time.monotonic()
                blocks += self._statistics()
                self._drop_gone()
            return b"".join(blocks)

    def _packets(self) -> list[bytes]:
        found: list[tuple[int, Packet]] = []
        share = BATCH // max(
            1, len(self._sockets)
        )  # each has its own: one that floods must not keep the others waiting
        for number, one in list(self._sockets.items()):
            size = 0
            while self._left and size < share:
                try:
                    packet = one.receive()
                except OSError as error:
                    if error.errno != errno.ENODEV:
                        raise
                    self._drop(number)
                    break
                if packet is None:
                    break
                found.append((number, packet))
                size += len(packet.data)
                self._left -= 1 if self._left > 0 else 0
        found.sort(key=lambda entry: entry[1].time)
        self.captured += len(found)
        return [pcapng.packet(number, packet) for number, packet in found]

    def _statistics(self) -> list[bytes]:
        blocks: list[bytes] = []
        for number, one in self._sockets.items():
            one.count()
            last = (one.received, one.dropped)
            before = self._told.get(number)
            self._told[number] = last
            if before is None or before[1] != last[1] or self.ended:
                blocks.append(pcapng.statistics(number, time.time_ns(), *last))
        return blocks

    def _is_there(self) -> bool:
        """Whether the sandbox is still pinned; a socket of ours would keep its namespace alive."""
        try:
            return os.stat(self._path).st_ino == self._namespace
        except FileNotFoundError:
            return False

    def _drop_gone(self) -> None:
        is_there = self._is_there()
        for number, one in list(self._sockets.items()):
            if not is_there or not one.is_there():
                self._drop(number)

    def close(self) -> None:
        """Let go of the sandbox; twice is fine."""
        with self._lock:
            self._drop_all()
            self._epoll.close()

    def _drop_all(self) -> None:
        for number in list(self._sockets):
            self._drop(number)

    def _drop(self, number: int) -> None:
        self._sockets.pop(number).close()


def _names(inside: Inside, wanted: Sequence[str]) -> list[str]:
    links = [link.name for link in inside.rtnl.links() if link.up]
    if ANY in wanted:
        return links
    for name in wanted:
        if name not in links:
            raise NotFound(
                f"no interface {name} that is up in the sandbox", hint=f"there are {', '.join(links) or 'none'}"
            )
    found = list(dict.fromkeys(wanted)) or [name for name in links if name != LOOPBACK]
    if not found:
        raise NotSupported(
            "the sandbox has no interface but the loopback", hint="it is captured when it is named: -i lo"
        )
    return found


def _open(names: Sequence[str]) -> list[PacketSocket]:
    """In the sandbox's namespace: sockets that receive nothing yet."""
    opened: list[PacketSocket] = []
    try:
        for name in names:
            opened.append(PacketSocket(name))
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def _link(one: PacketSocket) -> int:
    if one.hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        return DLT_EN10MB
    if one.hardware in HEADERLESS:
        return DLT_RAW
    raise NotSupported(
        f"interface {one.ifname} has a link layer that is not captured (ARPHRD {one.hardware})",
        hint="name other interfaces with -i",
    )
