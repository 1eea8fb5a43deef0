"""Netlink transport: messages in, acknowledged answers out, for rtnetlink(7) and nfnetlink alike.

    Message, Message, ...  --one send-->  kernel works through them in the sender's context
                           <--receive--   echoes, an NLMSG_ERROR for each that failed, and one for the last (0 is the ack)

Order of things and why:

* The kernel handles a request inside send(2), so every answer already lies in the socket when send returns, and a
  dump's next part is made while the one before is read.  Reading therefore never has to block; the poll below is
  only for the case that this ever ceases to be true, and it is bounded.
* A message that fails does not stop those behind it in the same datagram.  The *first* failure is raised, with the step
  that the message stood for; what came after it may have happened, and undoing is the caller's (delete the link, or
  the namespace).
* NETLINK_EXT_ACK gives the kernel's own words in the error; NETLINK_CAP_ACK keeps the request out of it.
* Answers come in the order of the messages, so only the last one asks for an ack: when that is there, so are the
  failures before it.
* A send is cut into datagrams of at most CHUNK messages: the answers must fit the receive buffer, or the kernel drops
  them (ENOBUFS).  What is in one datagram is done as a whole even if this process is killed meanwhile: no signal stops
  the kernel in the middle of it.
* The socket is connected to the kernel (port 0), so the kernel refuses what anybody else sends to it.  A socket that
  was made inside a sandbox could otherwise be answered by whoever has CAP_NET_ADMIN in there.
* One lock per socket: a socket may be used from any thread.  A socket belongs to the network namespace of the thread
  that made it, keeps that namespace alive, and works from any other thread.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x8, 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12

CHUNK = 64
RECEIVE_SIZE = 1 << 18  # a dump's part is at most 32 KiB, an echo a few; one read is one datagram
ANSWER_TIMEOUT = 10.0
DUMP_ATTEMPTS = 20

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")


class NetlinkError(OSError):
    """The kernel refused a step.  ``errno`` as usual, ``step`` what was tried, ``kernel_text`` its own words or ""."""

    def __init__(self, number: int, step: str, kernel_text: str = "") -> None:
        super().__init__(number, os.strerror(number))
        self.step = step
        self.kernel_text = kernel_text

    def __str__(self) -> str:
        words = f" ({self.kernel_text})" if self.kernel_text else ""
        return f"{self.step}: {self.strerror}{words}"


class Message(NamedTuple):
    """One request; ``step`` names it in errors."""

    step: str
    type: int
    flags: int
    body: bytes


class Answer(NamedTuple):
    """One data message of the kernel, without its header."""

    type: int
    flags: int
    body: bytes


# -- attributes -----------------------------------------------------------------------------------------------------


def attribute(kind: int, data: bytes) -> bytes:
    """One nlattr, padded to four bytes."""
    length = 4 + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length & 3)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from *offset* to the end, by type.  A truncated tail is left out, never read past."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def number(data: bytes | None) -> int:
    """An unsigned attribute, in the order of the machine; 0 for one that is not there."""
    return int.from_bytes(data, "little" if struct.pack("=H", 1)[0] else "big") if data else 0


def signed(data: bytes | None) -> int | None:
    """An s32, None for one that is not there."""
    return struct.unpack("=i", data)[0] if data else None


def string(data: bytes | None) -> str:
    """A text that ends with a zero; "" for one that is not there."""
    return (data or b"").rstrip(b"\0").decode(errors="replace")


# -- the socket -----------------------------------------------------------------------------------------------------


class NetlinkSocket:
    """A netlink socket of *protocol* in the calling thread's namespace, or a ready one passed in (and then owned)."""

    def __init__(self, protocol: int, sock: socket.socket | None = None) -> None:
        self.sock = sock or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK):
                self.sock.setsockopt(SOL_NETLINK, option, 1)
            self.sock.connect((0, 0))
        except BaseException:
            self.sock.close()
            raise
        self._lock = threading.Lock()
        self._sequence = 0

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transact(
        self,
        messages: Sequence[Message],
        *,
        ignore: tuple[int, ...] = (),
        at_once: int = CHUNK,
        closing: Message | None = None,
    ) -> list[Answer]:
        """Send *messages*, *at_once* in a datagram, and wait until all are done; return the data answers (echoes, gets).

        With *closing* they are one datagram that ends with it: nfnetlink's end of a transaction, which kernels before 6.10
        never acknowledge.  Raises NetlinkError for the first one that failed with an errno outside *ignore*; later datagrams
        are not sent.
        """
        answers: list[Answer] = []
        if closing is not None:
            at_once = len(messages)
        with self._lock:
            for start in range(0, len(messages), at_once):
                failed = self._exchange(messages[start : start + at_once], answers, ignore, closing)
                if failed is not None:
                    raise failed
        return answers

    def _exchange(
        self,
        messages: Sequence[Message],
        answers: list[Answer],
        ignore: tuple[int, ...],
        closing: Message | None,
    ) -> NetlinkError | None:
        first = self._send(messages, NLM_F_REQUEST, last=NLM_F_ACK, closing=closing)
        last = len(messages) - 1
        failed: NetlinkError | None = None
        while True:
            for kind, flags, sequence, body in self._receive(messages[0].step):
                position = sequence - first
                if not 0 <= position <= last:
                    continue  # a late answer to a request that was given up
                if kind != NLMSG_ERROR:
                    answers.append(Answer(kind, flags, body))
                    continue
                error = _error(kind, flags, body, messages[position].step)
                if error is not None and error.errno not in ignore and failed is None:
                    failed = error
                refused = closing is not None and position == 0 and error is not None
                if position == last or refused:  # who may not begin a transaction is told nothing of its messages
                    return failed

    def dump(self, message: Message) -> list[Answer]:
        """All objects that *message* (a GET) selects; asked again when the table changed under the dump."""
        with self._lock:
            for _attempt in range(DUMP_ATTEMPTS):
                answers, intact = self._dump(message)
                if intact:
                    return answers
        raise NetlinkError(errno.EAGAIN, message.step, "the table kept changing while it was read")

    def _dump(self, message: Message) -> tuple[list[Answer], bool]:
        first = self._send([message], NLM_F_REQUEST | NLM_F_DUMP)
        answers: list[Answer] = []
        intact = True
        while True:
            for kind, flags, sequence, body in self._receive(message.step):
                if sequence != first:
                    continue
                intact = intact and not flags & NLM_F_DUMP_INTR
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    error = _error(kind, flags, body, message.step)
                    if error is not None:
                        raise error
                    return answers, intact
                answers.append(Answer(kind, flags, body))

    def _send(self, messages: Sequence[Message], flags: int, *, last: int = 0, closing: Message | None = None) -> int:
        """Send all in one datagram, with *flags*, the final one with *last* too; return the first sequence number.

        *closing* comes behind them all.
        """
        first = self._sequence + 1
        final = self._sequence + len(messages)
        parts: list[bytes] = []
        for message in (*messages, closing) if closing is not None else messages:
            self._sequence += 1
            length = _HEADER.size + len(message.body)
            its = message.flags | flags | (last if self._sequence == final else 0)
            parts.append(_HEADER.pack(length, message.type, its, self._sequence, 0) + message.body)
            if length & 3:
                parts.append(bytes(-length & 3))
        try:
            self.sock.send(b"".join(parts))
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, messages[0].step) from error
        return first

    def _receive(self, step: str) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one datagram: (type, flags, sequence, body)."""
        try:
            try:
                data = self.sock.recv(RECEIVE_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.sock, select.POLLIN)
                if not poll.poll(ANSWER_TIMEOUT * 1000):
                    raise NetlinkError(errno.ETIMEDOUT, step, "the kernel gave no answer") from None
                data = self.sock.recv(RECEIVE_SIZE, socket.MSG_DONTWAIT)
        except NetlinkError:
            raise
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, step) from error
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
            if not _HEADER.size <= length <= len(data) - offset:
                raise NetlinkError(errno.EBADMSG, step, "a message of an impossible length")
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def _error(kind: int, flags: int, body: bytes, step: str) -> NetlinkError | None:
    """The error that an NLMSG_ERROR or NLMSG_DONE carries, None for success."""
    number = -_INT.unpack_from(body)[0] if len(body) >= 4 else 0
    if number <= 0:
        return None
    words = ""
    if flags & NLM_F_ACK_TLVS:
        # an NLMSG_DONE has its words right behind the error (af_netlink.c, netlink_dump_done); in an NLMSG_ERROR the
        # request's header comes first, and its body unless NLM_F_CAPPED
        at = 4
        if kind == NLMSG_ERROR:
            capped = flags & NLM_F_CAPPED or len(body) < 4 + _HEADER.size
            length = _HEADER.size if capped else _HEADER.unpack_from(body, 4)[0]
            at += (length + 3) & ~3
        words = attributes(body, at).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return NetlinkError(number, step, words)
