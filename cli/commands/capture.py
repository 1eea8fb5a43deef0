"""``pynet capture``: the packets of a container as pcapng, to a file or a pipe.

    engine  --pcapng, cut anywhere-->  here  --whole blocks-->  FILE, or tcpdump -r -

Only whole blocks are written, so what is there is a file that can be read, however the capture ended.
"""

from __future__ import annotations

import os
import select
import stat
import struct
import sys
import threading

from ...netlib.errors import InvalidArgument, PynetError
from ..client import Client, quote
from ..http1 import BadResponse
from ..objects import path
from ..streams import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket

    from ..parser import Arguments, Parser, Run

_STATISTICS, _PACKET = 5, 6  # netlib/pcapng.py writes them
_OSDROP = 7
MOST_BLOCK = 16 << 20


def capture(parser: Parser) -> Run:
    parser.repeated(
        "-i", "--interface", metavar="NAME", help="interface of the container; any for all; else all but lo"
    )
    parser.option("-c", "--count", metavar="N", type=int, default=0, help="end after N packets")
    parser.option("-w", "--write", metavar="FILE", default="-", help="file to write; - is stdout, for a pipe (-)")
    parser.option("-s", "--snaplen", metavar="BYTES", type=int, default=0, help="only the first bytes of each packet")
    parser.argument("container")
    parser.rest("filter", metavar="FILTER", help="which packets: an expression of pcap-filter(7)")
    return run


def run(args: Arguments) -> int:
    if args.write == "-" and sys.stdout.isatty():
        raise InvalidArgument(
            "packets are no text for a terminal",
            hint=f"give -w FILE, or `pynet capture {args.container} | tcpdump -nr -`",
        )
    if args.count < 0 or args.snaplen < 0:
        raise InvalidArgument("a negative number of packets or bytes", hint="leave the option out for no limit")
    query = {"count": args.count, "snaplen": args.snaplen, "filter": " ".join(args.filter)}
    extra = "&".join(f"interface={quote(name)}" for name in args.interface)
    where = f"/pynet{path(args.container)}/capture"
    response = Client(args.settings).stream("GET", where, {k: v for k, v in query.items() if v}, extra=extra)
    fd = 1 if args.write == "-" else os.open(args.write, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    blocks = Blocks()
    _end_with_reader(fd, response.connection.sock)
    print("capturing; Ctrl-C ends it", file=sys.stderr)
    lost: PynetError | None = None
    try:
        for chunk in response.chunks():
            if whole := blocks.feed(chunk):
                write_all(fd, whole)
    except KeyboardInterrupt:
        pass
    except PynetError as error:
        lost = error  # what came so far is in the file, and counted
    except OSError as error:
        if fd == 1:
            raise
        raise OSError(error.errno, error.strerror, args.write) from None
    reader_left = _left(fd)
    if fd != 1:
        os.close(fd)
    packets = "1 packet" if blocks.packets == 1 else f"{blocks.packets} packets"
    print(f"{packets} captured, {blocks.dropped} dropped by the kernel", file=sys.stderr)
    if reader_left:
        raise BrokenPipeError
    if lost is not None:
        raise lost
    return 0


def _left(fd: int, wait: int = 0) -> bool:
    """Whether the reader of a pipe has gone; after *wait* milliseconds at most, -1 when it goes."""
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR is always told
    return any(events & select.POLLERR for _, events in poll.poll(wait))


def _end_with_reader(fd: int, engine: Socket) -> None:
    """End the stream when the reader of our output leaves (`| head -c 100`): a write would tell with the next packet alone."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return

    def watch() -> None:
        if _left(fd, -1):
            try:
                engine.shutdown(2)  # SHUT_RDWR
            except OSError:
                pass  # it is over already

    threading.Thread(target=watch, daemon=True).start()


class Blocks:
    """Takes a stream of pcapng in pieces and gives it back in whole blocks, which it counts."""

    def __init__(self) -> None:
        self.packets = 0
        self._rest = b""
        self._dropped: dict[int, int] = {}

    @property
    def dropped(self) -> int:
        return sum(self._dropped.values())

    def feed(self, piece: bytes) -> bytes:
        """All blocks that are whole with *piece*."""
        data = self._rest + piece
        end = 0
        while len(data) - end >= 12:
            kind, length = struct.unpack_from("<II", data, end)
            if not 12 <= length <= MOST_BLOCK or length & 3:
                raise BadResponse(f"the engine sent no pcapng: a block of {length} bytes")
            if len(data) - end < length:
                break
            if kind == _PACKET:
                self.packets += 1
            elif kind == _STATISTICS:
                self._count(data[end + 8 : end + length - 4])
            end += length
        self._rest = data[end:]
        return data[:end]

    def _count(self, body: bytes) -> None:
        """The number of drops in a statistics block: interface, time (8 bytes), options."""
        if len(body) < 12:
            return
        interface, offset = struct.unpack_from("<I", body)[0], 12
        while offset + 4 <= len(body):
            code, length = struct.unpack_from("<HH", body, offset)
            if code == _OSDROP and length == 8 and offset + 12 <= len(body):
                self._dropped[interface] = struct.unpack_from("<Q", body, offset + 4)[0]
            offset += 4 + length + (-length & 3)
