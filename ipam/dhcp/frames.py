"""Ethernet frames that carry DHCP and ARP: to bytes and back.  Pure.

A client without an address has no UDP socket that could send for it, and here the client is not even the machine that speaks: it
is a container that is still to come.  So the frames are made whole, with the container's MAC address as their source.
Reading is strict about what the answer rests on, and passes over the UDP checksum: the kernel leaves it unfinished
where both ends are on one machine (RFC 768 allows none).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

EVERYBODY = "ff:ff:ff:ff:ff:ff"
SERVER_PORT, CLIENT_PORT = 67, 68
_ETHERNET = struct.Struct("!6s6sH")
_ETH_IPV4, _ETH_ARP = 0x0800, 0x0806
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_HEAD = (1, _ETH_IPV4, 6, 4)  # RFC 826: Ethernet, IPv4 and their lengths
_PROTO_UDP = 17
_FRAGMENT = 0x1FFF | 0x2000
ARP_REQUEST, ARP_REPLY = 1, 2
NOWHERE = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram to a DHCP client."""

    source_mac: str
    source: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Arp:
    op: int
    sender_mac: str
    sender: str
    target: str


def datagram(*, mac: str, to_mac: str, source: str, target: str, payload: bytes) -> bytes:
    """A frame with what a DHCP client says to a server."""
    udp = _UDP.pack(CLIENT_PORT, SERVER_PORT, _UDP.size + len(payload), 0)
    addresses = _packed(source) + _packed(target)
    pseudo = addresses + struct.pack("!BBH", 0, _PROTO_UDP, _UDP.size + len(payload))
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp + payload) or 0xFFFF)
    head = _IPV4.pack(
        0x45, 0, _IPV4.size + _UDP.size + len(payload), 0, 0, 64, _PROTO_UDP, 0, addresses[:4], addresses[4:]
    )
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    return _ETHERNET.pack(_mac(to_mac), _mac(mac), _ETH_IPV4) + head + udp + payload


def arp(op: int, *, mac: str, sender: str, target: str, to_mac: str = EVERYBODY) -> bytes:
    """A probe for *target* has no *sender* (RFC 5227 1.1)."""
    asked = bytes(6) if op == ARP_REQUEST else _mac(to_mac)
    body = _ARP.pack(*_ARP_HEAD, op, _mac(mac), _packed(sender), asked, _packed(target))
    return (_ETHERNET.pack(_mac(to_mac), _mac(mac), _ETH_ARP) + body).ljust(60, b"\0")


def read(frame: bytes) -> Datagram | Arp | None:
    """What a frame says, if it is ARP or a datagram to a DHCP client; None for anything else."""
    if len(frame) < _ETHERNET.size:
        return None
    _, source_mac, protocol = _ETHERNET.unpack_from(frame)
    if protocol == _ETH_ARP:
        return _read_arp(frame)
    if protocol != _ETH_IPV4 or len(frame) < _ETHERNET.size + _IPV4.size:
        return None
    first, _, length, _, fragment, _, inner, _, source, _ = _IPV4.unpack_from(frame, _ETHERNET.size)
    udp = _ETHERNET.size + (first & 0x0F) * 4
    end = _ETHERNET.size + length
    if first >> 4 != 4 or (first & 0x0F) < 5 or inner != _PROTO_UDP or fragment & _FRAGMENT:
        return None
    if not udp + _UDP.size <= end <= len(frame):
        return None
    sport, dport, size, _ = _UDP.unpack_from(frame, udp)
    if (sport, dport) != (SERVER_PORT, CLIENT_PORT) or not _UDP.size <= size <= end - udp:
        return None
    return Datagram(source_mac.hex(":"), _text(source), frame[udp + _UDP.size : udp + size])


def _read_arp(frame: bytes) -> Arp | None:
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    *head, op, sender_mac, sender, _, target = _ARP.unpack_from(frame, _ETHERNET.size)
    if tuple(head) != _ARP_HEAD or op not in (ARP_REQUEST, ARP_REPLY):
        return None
    return Arp(op, sender_mac.hex(":"), _text(sender), _text(target))


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data.ljust((len(data) + 1) // 2 * 2, b"\0")))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _packed(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed


def _text(address: bytes) -> str:
    return str(ipaddress.IPv4Address(address))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
