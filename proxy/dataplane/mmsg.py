"""Datagrams by the batch: recvmmsg(2) and sendmmsg(2) through ctypes.

    Slots      64 buffers of 64 KiB, shared by every UDP socket of the process (pages are touched as datagrams need)
    Receiver   headers that receive into the slots; beside each a *record*: the sender's address and, for sockets bound
               to a wildcard, the local address that was used (PKTINFO), as the kernel wrote them
    Sender     headers that send from the slots, all to one address
    Train      one header that sends what UDP_GRO has put together as it came: by UDP_SEGMENT, in one call (udp(7))

Many datagrams of one size that a client has sent by UDP_SEGMENT, as QUIC does, or that a network card has merged, arrive
as one: a *train* in one slot, with the size of its parts as control data.  Everybody else's arrive as they always did.

A record identifies a client, byte for byte, and nothing is parsed for a datagram of a client that is known.  A batch
costs two system calls where datagram by datagram would cost two each; asyncio's transports cost four to eight times the
time of either.

Single-threaded use only: what was received is valid until the next ``receive``.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import NamedTuple

BATCH = 64
"""Datagrams in one system call."""
SLOT = 65536
"""No datagram is longer: 65,507 bytes over IPv4, 65,527 over IPv6 without jumbograms (RFC 768, RFC 8200)."""

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg, _sendmmsg, _sendmsg = _libc.recvmmsg, _libc.sendmmsg, _libc.sendmsg
_sendmsg.restype = ctypes.c_ssize_t
_DONTWAIT = int(socket.MSG_DONTWAIT)
_NULL = ctypes.c_void_p(0)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Msghdr(ctypes.Structure):
    """recvmsg(2)"""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Mmsghdr(ctypes.Structure):
    """recvmmsg(2): *length* is the answer."""

    _fields_ = [("header", _Msghdr), ("length", ctypes.c_uint32)]


_HEADER = ctypes.sizeof(_Mmsghdr)
_LENGTH_AT = _Mmsghdr.length.offset
_CONTROL_AT = _Msghdr.control_length.offset
_LENGTHS = [struct.Struct(f"{_LENGTH_AT}xI{_HEADER - _LENGTH_AT - 4}x" * count) for count in range(BATCH + 1)]
_CONTROLS = [struct.Struct(f"{_CONTROL_AT}xN{_HEADER - _CONTROL_AT - 8}x" * count) for count in range(BATCH + 1)]
_IOVECS = [struct.Struct("NN" * count) for count in range(BATCH + 1)]


class Shape(NamedTuple):
    """What a record holds: the lengths of the address and of the control data."""

    family: int
    name: int
    control: int

    @property
    def record(self) -> int:
        return self.name + self.control


_CMSG = struct.Struct("Nii")
_SIZE = struct.Struct("i")
IPV4 = Shape(socket.AF_INET, 16, 0)
IPV6 = Shape(socket.AF_INET6, 28, 0)
IPV4_ANY = Shape(socket.AF_INET, 16, socket.CMSG_SPACE(12))
IPV6_ANY = Shape(socket.AF_INET6, 28, socket.CMSG_SPACE(20))
IP_PKTINFO = 8
"""linux/in.h; Python 3.11's socket module does not have it."""


UDP_SEGMENT, UDP_GRO = 103, 104
_GRO_SPACE = socket.CMSG_SPACE(4)


def merge_trains(sock: socket.SocketType) -> None:
    """Have trains delivered whole.  A kernel before 5.0 takes them apart, as without this."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError:
        pass


def shape_of(family: int, *, wildcard: bool) -> Shape:
    if family == socket.AF_INET:
        return IPV4_ANY if wildcard else IPV4
    return IPV6_ANY if wildcard else IPV6


def reply_control(shape: Shape, record: bytes) -> bytes:
    """Control data that makes an answer leave from where the datagram of *record* came to (ip(7), ipv6(7))."""
    if not shape.control:
        return b""
    info = record[shape.name + _CMSG.size :]
    if shape.family == socket.AF_INET:
        # in_pktinfo {ifindex, spec_dst, addr}.  spec_dst is the local address also for a broadcast; it is not known for
        # what was queued before the option was set, where addr is the destination.  ifindex 0: by the routing table
        local = info[4:8] if any(info[4:8]) else info[8:12]
        data = _CMSG.pack(_CMSG.size + 12, socket.IPPROTO_IP, IP_PKTINFO) + bytes(4) + local + bytes(4)
    else:
        # in6_pktinfo {addr, ifindex}.  A multicast group can not be a source; a link-local address needs its link
        local = bytes(16) if info[0] == 0xFF else info[:16]
        link = info[16:20] if local[0] == 0xFE and local[1] & 0xC0 == 0x80 else bytes(4)
        data = _CMSG.pack(_CMSG.size + 20, socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) + local + link
    return data.ljust(shape.control, b"\0")


class Slots:
    """The buffers, and the I/O vectors of whoever sends from them."""

    def __init__(self) -> None:
        self._data = ctypes.create_string_buffer(BATCH * SLOT)
        start = ctypes.addressof(self._data)
        self._bases = [start + SLOT * index for index in range(BATCH)]
        self._receive = (_Iovec * BATCH)(*(_Iovec(base, SLOT) for base in self._bases))
        self._send = (_Iovec * BATCH)()

    def receive_iov(self, index: int) -> int:
        return ctypes.addressof(self._receive) + ctypes.sizeof(_Iovec) * index

    def send_iov(self, index: int) -> int:
        return ctypes.addressof(self._send) + ctypes.sizeof(_Iovec) * index

    def aim(self, first: int, lengths: tuple[int, ...]) -> None:
        """Make the next send take the datagrams of these *lengths* from slot *first* on."""
        count = len(lengths)
        flat = [0] * (2 * count)
        flat[::2] = self._bases[first : first + count]
        flat[1::2] = lengths
        _IOVECS[count].pack_into(self._send, 0, *flat)

    def base(self, index: int) -> int:
        return self._bases[index]


class Receiver:
    def __init__(self, slots: Slots, shape: Shape | None = None, *, trains: bool = False) -> None:
        """*shape* None: for connected sockets, without records.  *trains*: the sockets have been told ``merge_trains``."""
        self.record = shape.record if shape else 0
        """Bytes of a record."""
        space = _GRO_SPACE if trains else 0
        self.stride = self.record + space
        """From one record to the next: the size of a train may stand before the rest of the control data."""
        self._name = shape.name if shape else 0
        control = self.record - self._name
        self._records = ctypes.create_string_buffer(max(1, self.stride * BATCH))
        self._headers = (_Mmsghdr * BATCH)()
        self._pointer = ctypes.c_void_p(ctypes.addressof(self._headers))
        start = ctypes.addressof(self._records)
        for index, message in enumerate(self._headers):
            header = message.header
            header.iov, header.iov_count = slots.receive_iov(index), 1
            # the name's length is an answer too, but on one shape of socket the answer is what was offered
            if shape:
                header.name, header.name_length = start + index * self.stride, shape.name
            if control + space:
                header.control = start + index * self.stride + self._name
                header.control_length = control + space
        self._fresh = bytes(self._headers)
        self._plain = [(control,) * count for count in range(BATCH + 1)]
        self._used = 0
        self._had_trains = False

    def receive(self, fd: int) -> int:
        """How many datagrams are in the slots now; 0 when none waits.  OSError takes a queued error away."""
        # the length of the control data is an answer, and must be offered anew
        ctypes.memmove(self._pointer, self._fresh, self._used * _HEADER)
        if self._had_trains:
            # the kernel does not write the padding of control data, where a train's is elsewhere: records are compared
            ctypes.memset(self._records, 0, len(self._records))
            self._had_trains = False
        count: int = _recvmmsg(fd, self._pointer, BATCH, _DONTWAIT, _NULL)
        if count >= 0:
            self._used = count
            return count
        self._used = 1
        number = ctypes.get_errno()
        if number in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(number, "recvmmsg")

    def trains(self, count: int) -> list[int] | None:
        """For each of *count* the size of a train's parts, 0 for a datagram; None when all are datagrams."""
        controls = _CONTROLS[count].unpack_from(self._headers)
        plain = self._plain[count]
        if controls == plain:
            return None
        self._had_trains = True
        sizes: list[int] = []
        for index, (length, usual) in enumerate(zip(controls, plain, strict=True)):
            at = index * self.stride + self._name + _CMSG.size
            sizes.append(_SIZE.unpack_from(self._records, at)[0] if length > usual else 0)
        return sizes

    def train_record(self, index: int) -> bytes:
        """The record of a train, as a datagram of the same client would have it."""
        record = self._records.raw[index * self.stride : (index + 1) * self.stride]
        return record[: self._name] + record[self._name + _GRO_SPACE :]

    def lengths(self, count: int) -> tuple[int, ...]:
        return _LENGTHS[count].unpack_from(self._headers)

    def records(self, count: int) -> bytes:
        """One every ``stride`` bytes; what is behind ``record`` bytes means nothing."""
        return self._records.raw[: count * self.stride]


class Sender:
    def __init__(self, slots: Slots, shape: Shape | None = None) -> None:
        """*shape* None: for connected sockets, without an address."""
        self._address = ctypes.create_string_buffer(max(1, shape.record if shape else 0))
        self._headers = (_Mmsghdr * BATCH)()
        self._start = ctypes.addressof(self._headers)
        self._pointer = ctypes.c_void_p(self._start)
        start = ctypes.addressof(self._address)
        for index, message in enumerate(self._headers):
            header = message.header
            header.iov, header.iov_count = slots.send_iov(index), 1
            if shape:
                header.name, header.name_length = start, shape.name
                if shape.control:
                    header.control, header.control_length = start + shape.name, shape.control

    def to(self, address: bytes) -> None:
        """Where the next sends go: name and control data, as long as the shape says."""
        self._address.raw = address

    def send(self, fd: int, count: int) -> int:
        """Send *count* datagrams from where the slots aim.  How many left.

        Errors are per datagram and datagrams may be lost: a queued ICMP error (ECONNREFUSED) is taken and the same
        datagram tried once more; one that can not go (EMSGSIZE) is skipped; when the queue is full (EAGAIN, ENOBUFS)
        the rest is lost, as on any link that is full.
        """
        sent: int = _sendmmsg(fd, self._pointer, count, _DONTWAIT)
        return sent if sent == count else self._send_rest(fd, count, sent)

    def _send_rest(self, fd: int, count: int, sent: int) -> int:
        position = left = max(sent, 0)
        refused = False
        while position < count:
            if sent <= 0:
                number = ctypes.get_errno()
                if number in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EBADF):
                    break
                if number == errno.ECONNREFUSED and not refused:
                    refused = True
                else:
                    position += 1
                    refused = False
                    if position == count:
                        break
            pointer = ctypes.c_void_p(self._start + position * _HEADER)
            sent = _sendmmsg(fd, pointer, count - position, _DONTWAIT)
            if sent > 0:
                position += sent
                left += sent
                refused = False
        return left


class Train:
    """Sends trains from the slots."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._name = ctypes.create_string_buffer(64)
        self._control = ctypes.create_string_buffer(128)
        self._iov = _Iovec()
        self._header = _Msghdr()
        self._header.iov, self._header.iov_count = ctypes.addressof(self._iov), 1
        self._pointer = ctypes.c_void_p(ctypes.addressof(self._header))

    def send(self, fd: int, index: int, length: int, size: int, *, name: bytes = b"", control: bytes = b"") -> int:
        """Send *length* bytes of slot *index* in parts of *size*, to *name* with *control* data.  How many parts left.

        What can not go as a train, because a link on the way takes only smaller parts or the kernel only fewer, goes
        part by part.
        """
        parts = -(-length // size)
        base = self._slots.base(index)
        header = self._header
        if name:
            ctypes.memmove(self._name, name, len(name))
            header.name, header.name_length = ctypes.addressof(self._name), len(name)
        else:
            header.name, header.name_length = None, 0
        segment = _CMSG.pack(_CMSG.size + 2, socket.IPPROTO_UDP, UDP_SEGMENT) + struct.pack("H6x", size)
        if self._once(fd, base, length, control + segment):
            return parts
        return sum(self._once(fd, base + start, min(size, length - start), control) for start in range(0, length, size))

    def _once(self, fd: int, base: int, length: int, control: bytes) -> bool:
        header = self._header
        self._iov.base, self._iov.length = base, length
        ctypes.memmove(self._control, control, len(control))
        header.control, header.control_length = (ctypes.addressof(self._control) if control else None), len(control)
        for _ in range(2):
            if _sendmsg(fd, self._pointer, _DONTWAIT) >= 0:
                return True
            if ctypes.get_errno() != errno.ECONNREFUSED:  # the ICMP error of an earlier datagram
                break
        return False
