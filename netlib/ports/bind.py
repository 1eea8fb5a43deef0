"""Binding the socket of a port: the one place, for whoever publishes one.

    bind --> descriptor of a bound socket, listening where the protocol has that | PortInUse, BindFailed, NotSupported

Only ``_socket`` is imported: this is on the path of every process that dockerd starts for a port (proxy/standalone).
Every room may import this module.
"""

from __future__ import annotations

import _socket
import errno
import os

from ..errors import BindFailed, InvalidArgument, NotSupported, PortInUse, Unavailable

BACKLOG = 4096
"""listen(2); the kernel cuts it to net.core.somaxconn."""
_KINDS = {
    "tcp": (_socket.SOCK_STREAM, _socket.IPPROTO_TCP),
    "udp": (_socket.SOCK_DGRAM, _socket.IPPROTO_UDP),
    "sctp": (_socket.SOCK_STREAM, 132),  # IPPROTO_SCTP, which not every Python knows
}
_GO_TEXTS = {errno.EADDRNOTAVAIL: "cannot assign requested address", errno.EACCES: "permission denied"}


def bind(proto: str, ip: str, port: int, *, both: bool = False) -> int:
    """The descriptor of a socket for *proto* (tcp, udp, sctp), bound, close-on-exec; tcp and sctp listen. Port 0: a free one.

    *both*: an IPv6 address takes IPv4 clients, too ("" is then every address of both families); else it is IPv6 alone.
    PortInUse; BindFailed for an address that is not this host's; InvalidArgument for what is no address or port;
    NotSupported where the kernel lacks the protocol or the family; Unavailable when no descriptor is left.
    """
    if not 0 <= port <= 65535:
        raise InvalidArgument(f"{port} is not a port: from 0, for a free one, to 65535")
    family = _socket.AF_INET6 if ":" in ip or not ip else _socket.AF_INET
    try:
        _socket.inet_pton(family, ip.partition("%")[0] or "::")  # bind(2)'s wrapper would look a name up
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{ip[:80]!r} is not an address; names are not looked up") from error
    kind, number = _KINDS[proto]
    try:
        sock = _socket.socket(family, kind, number)
    except OSError as error:
        if ip or error.errno != errno.EAFNOSUPPORT:
            raise _no_socket(proto, family, error) from error
        return bind(proto, "0.0.0.0", port)  # a kernel without IPv6 has one family
    try:
        if family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, int(not both))
        if kind == _socket.SOCK_STREAM:
            # connections of the last holder in TIME-WAIT must not keep the port; a listener still does (socket(7))
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.bind((ip or "::", port))
        if kind == _socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(ip or "::", port, proto) from error
        text = _GO_TEXTS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
        hint = "publish on an address of this host" if error.errno == errno.EADDRNOTAVAIL else None
        raise BindFailed(ip or "::", port, proto, text, hint=hint) from error
    return sock.detach()


def _no_socket(proto: str, family: int, error: OSError) -> NotSupported | Unavailable:
    match error.errno:
        case errno.EPROTONOSUPPORT | errno.ESOCKTNOSUPPORT:
            return NotSupported(
                f"can not publish {proto} ports: this kernel has no {proto.upper()}",
                hint=f"load the module {proto} (modprobe {proto}), where there is one",
            )
        case errno.EAFNOSUPPORT:
            name = "IPv6" if family == _socket.AF_INET6 else "IPv4"
            return NotSupported(f"can not publish {proto} ports: this kernel has no {name}")
        case _:
            return Unavailable(f"can not publish {proto} ports: no socket could be made: {error.strerror}")
