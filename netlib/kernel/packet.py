"""A packet socket (packet(7)) for DHCP and ARP on one interface, that also hears what is sent to a MAC address not yet there.

The kernel filters: a LAN's other traffic never reaches us, from the first packet on, because the filter is set before
the socket is bound.  The interface is not made promiscuous; it takes one more unicast address for as long as the socket is open.
All of the interface's frames are tapped (ETH_P_ALL): those for a container on it would else be handed on before anybody
who asked for IPv4 alone saw them (net/core/dev.c: taps come before what is stacked on an interface).
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from typing import Self

_ETH_P_ALL = 3  # linux/if_ether.h
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_UNICAST = 263, 1, 3  # linux/if_packet.h
_SO_ATTACH_FILTER = 26
_MOST = 9216  # a jumbo frame
_FILTER = (  # classic BPF, as tcpdump -dd prints it: arp, or udp to port 68 that is no later fragment
    (0x28, 0, 0, 12),
    (0x15, 8, 0, 0x0806),
    (0x15, 0, 8, 0x0800),
    (0x30, 0, 0, 23),
    (0x15, 0, 6, 17),
    (0x28, 0, 0, 20),
    (0x45, 4, 0, 0x1FFF),
    (0xB1, 0, 0, 14),
    (0x48, 0, 0, 16),
    (0x15, 0, 1, 68),
    (0x06, 0, 0, 0x40000),
    (0x06, 0, 0, 0),
)


class PacketSocket:
    """Frames of the interface *link*, whose index is *index*.

    *sock* is an unbound packet socket (protocol 0) of the interface's namespace, and ours from here on.
    """

    def __init__(self, sock: socket.socket, link: str, index: int, mac: str) -> None:
        self._sock = sock
        try:
            program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTER)
            buffer = ctypes.create_string_buffer(program)
            fprog = struct.pack("HP", len(_FILTER), ctypes.addressof(buffer))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
            wanted = struct.pack("=iHH8s", index, _PACKET_MR_UNICAST, 6, bytes.fromhex(mac.replace(":", "")))
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, wanted)
            sock.bind((link, _ETH_P_ALL))
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, frame: bytes) -> None:
        self._sock.send(frame)

    def receive(self, seconds: float) -> bytes | None:
        """The next frame that came in, within so many seconds."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._sock.settimeout(left)
            try:
                frame, address = self._sock.recvfrom(_MOST)
            except TimeoutError:
                return None
            if address[2] != socket.PACKET_OUTGOING:  # a tap sees what it sends itself, too
                return frame
        return None
