"""ICMP echo (RFC 792, RFC 4443) from a namespace that plays somebody, without a program."""

from __future__ import annotations

import os
import socket
import struct
import time

from pynet.plugins.testhost import Namespace

from support.waiting import PATIENCE

REQUEST, REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}


def ping(who: Namespace, address: str, timeout: float = PATIENCE) -> bool:
    """Whether *address* answers an echo request of *who* within *timeout* seconds."""
    version = 6 if ":" in address else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    token = os.urandom(12)
    with who.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP) as sock:
        deadline = time.monotonic() + timeout
        try:
            sock.sendto(echo_request(version, token), (address, 0))
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                if is_echo_reply(version, sock.recv(2048), token):
                    return True
        except OSError:
            pass
    return False


def echo_request(version: int, token: bytes) -> bytes:
    """For a raw socket.  *token* has an even length.  The kernel fills in ICMPv6's checksum (RFC 3542 3.1), and not ICMP's."""
    message = struct.pack("!BBHHH", REQUEST[version], 0, 0, 1, 1) + token
    if version == 6:
        return message
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]


def is_echo_reply(version: int, data: bytes, token: bytes) -> bool:
    """Whether what a raw socket received answers the request with *token*; with IPv4 there is a header before it."""
    return token in data and data[0 if version == 6 else (data[0] & 15) * 4] == REPLY[version]
