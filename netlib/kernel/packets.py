"""Packets as they pass an interface: packet(7) sockets, with a filter, timestamps and the count of what was lost.

A socket is made without a protocol, which receives nothing; the filter is attached; only then is it bound to one.  So no packet
from before the filter is ever seen.  The kernel keeps at most ``BUFFER`` bytes for a slow reader, drops what comes beyond and
counts it.  A VLAN tag, which the kernel takes off before we see the packet, is put back where it was.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from dataclasses import dataclass

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS, PACKET_AUXDATA = 263, 6, 8
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 33, 35
PACKET_OUTGOING = 4
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
HEADERLESS = frozenset({65534, 512, 768, 769, 776, 778})
"""ARPHRD_NONE, PPP, TUNNEL, TUNNEL6, SIT, IPGRE: packets begin with their IP header (linux/if_arp.h)."""
_SIOCGIFNAME = 0x8910  # netdevice(7)
_VLAN_VALID, _TPID_VALID = 0x10, 0x40  # linux/if_packet.h, TP_STATUS_*
_TIMESPEC = struct.Struct("@ll")
_AUXDATA = struct.Struct("=IIIHHHH")  # tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_INSTRUCTION = struct.Struct("=HBBI")  # sock_filter: code, jt, jf, k
_RETURN = 6  # BPF_RET | BPF_K

BUFFER = 4 << 20
ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_AUXDATA.size)


@dataclass(frozen=True, slots=True)
class Packet:
    time: int
    """Nanoseconds since 1970."""
    length: int
    """Bytes on the wire; ``data`` may be fewer."""
    outgoing: bool
    data: bytes


def accept(snaplen: int) -> bytes:
    """A filter that lets *snaplen* bytes of every packet pass."""
    return _INSTRUCTION.pack(_RETURN, 0, 0, snaplen)


class PacketSocket:
    """What passes one interface of the namespace of the thread that makes it.  OSError(ENODEV) when there is none so called."""

    def __init__(self, ifname: str) -> None:
        self.ifname = ifname
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            self.sock.bind((ifname, 0))
            self.hardware: int = self.sock.getsockname()[3]
            """Kind of the link layer: ARPHRD_*."""
            self._index = socket.if_nametoindex(ifname)
        except BaseException:
            self.sock.close()
            raise
        self._size = 0
        self.received = self.dropped = 0
        """Since ``listen``, as far as ``count`` has looked."""

    @property
    def is_loopback(self) -> bool:
        return self.hardware == ARPHRD_LOOPBACK

    def listen(self, program: bytes, snaplen: int) -> None:
        """Receive what *program* (instructions of classic BPF, bpf(4)) lets pass, at most *snaplen* bytes of each."""
        self._size = snaplen
        code = ctypes.create_string_buffer(program, len(program))
        # sock_fprog: a length and a pointer, with the machine's own alignment
        prog = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(code))
        self.sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, prog)
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except PermissionError:  # root of a user namespace alone: what net.core.rmem_max allows (socket(7))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.sock.bind((self.ifname, ETH_P_ALL))

    def receive(self) -> Packet | None:
        """The next packet, or None when there is none now.  OSError(ENODEV) when the interface is gone."""
        while True:
            try:
                data, ancillary, _flags, address = self.sock.recvmsg(self._size, ANCILLARY)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                if not self.is_there():
                    raise OSError(errno.ENODEV, f"interface {self.ifname} is gone") from error
                continue  # it is down for a while; this is told once
            outgoing = address[2] == PACKET_OUTGOING
            if not (outgoing and self.is_loopback):  # on the loopback everything comes back in
                return _packet(data, ancillary, outgoing)

    def count(self) -> None:
        """Bring ``received`` and ``dropped`` up to date; the kernel forgets its numbers when they are read."""
        received, dropped = struct.unpack("=II", self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.received += received
        self.dropped += dropped

    def is_there(self) -> bool:
        """Whether the interface is; of one that was down when it went, ``receive`` says nothing."""
        try:
            fcntl.ioctl(self.sock, _SIOCGIFNAME, struct.pack("=16si20x", b"", self._index))
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.sock.close()


def _packet(data: bytes, ancillary: list[tuple[int, int, bytes]], outgoing: bool) -> Packet:
    moment, length = 0, len(data)
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack_from(value)
            moment = seconds * 10**9 + nanoseconds
        elif (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, length, _snaplen, _mac, _net, tci, tpid = _AUXDATA.unpack_from(value)
            if status & _VLAN_VALID and len(data) >= 12:
                tag = struct.pack("!HH", tpid if status & _TPID_VALID else 0x8100, tci)
                data, length = data[:12] + tag + data[12:], length + 4
    return Packet(moment, max(length, len(data)), outgoing, data)
