"""ICMP echo (RFC 792, RFC 4443) from a namespace that plays somebody, without a program."""

from __future__ import annotations

import secrets
import socket
import struct
import time

from pynet.plugins.testhost import Namespace


def ping(who: Namespace, address: str, timeout: float = 3.0) -> bool:
    """Whether *address* answers an echo request of *who* within *timeout* seconds."""
    version6 = ":" in address
    family = socket.AF_INET6 if version6 else socket.AF_INET
    request, reply = (128, 129) if version6 else (8, 0)
    token = secrets.token_bytes(12)
    with who.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if version6 else socket.IPPROTO_ICMP) as sock:
        deadline = time.monotonic() + timeout
        try:
            sock.sendto(_echo(request, token, checked=not version6), (address, 0))
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                data = sock.recv(2048)
                if token in data and data[0 if version6 else (data[0] & 15) * 4] == reply:
                    return True
        except OSError:
            pass
    return False


def _echo(kind: int, token: bytes, *, checked: bool) -> bytes:
    """The kernel fills in ICMPv6's checksum (RFC 3542 3.1), and not ICMP's."""
    message = struct.pack("!BBHHH", kind, 0, 0, 1, 1) + token
    if not checked:
        return message
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
