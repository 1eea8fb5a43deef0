"""Binding the socket of a port, for those who publish one without the rest of pynet.

Only ``_socket`` is imported: this is on the path of every process that dockerd starts for a port (standalone.py).
"""

from __future__ import annotations

import _socket
import errno

from ..netlib.errors import InvalidArgument, NotSupported, PortInUse

_SCTP = 132
"""IPPROTO_SCTP, which not every Python knows."""


def bind(proto: str, ip: str, port: int, *, both: bool) -> int:
    """The descriptor of a socket for *proto* (tcp, udp, sctp), bound; port 0 takes a free one.

    *both*: an IPv6 address takes IPv4 clients, too ("" is then every address of both families); else it is IPv6 alone.
    PortInUse; NotSupported where the kernel lacks the protocol; InvalidArgument for an address that is not this host's.
    """
    family = _socket.AF_INET6 if ":" in ip or not ip else _socket.AF_INET
    kind = _socket.SOCK_DGRAM if proto == "udp" else _socket.SOCK_STREAM
    number = _SCTP if proto == "sctp" else 0
    try:
        try:
            sock = _socket.socket(family, kind, number)
        except OSError as error:
            if ip or error.errno != errno.EAFNOSUPPORT:
                raise
            family, ip = _socket.AF_INET, "0.0.0.0"  # a kernel without IPv6 has one family
            sock = _socket.socket(family, kind, number)
    except OSError as error:
        raise NotSupported(f"this kernel has no {proto} sockets of this family: {error.strerror}") from error
    try:
        if proto != "udp":
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, int(not both))
        sock.bind((ip or "::", port))
    except (OSError, OverflowError) as error:
        sock.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PortInUse(ip, port, proto) from error
        raise InvalidArgument(f"cannot bind {ip or '::'} port {port}: {error}") from error
    return sock.detach()
