"""Transparent mode: the back end sees the client's own address, because our socket to it is bound to that address.

    client 192.0.2.7 ---> listener | 192.0.2.7:* (IP_TRANSPARENT, bind) ---> target
                                                          `<--- the answer is addressed to 192.0.2.7 and must come back
                                                                to this host *and* to this socket

The forwarder does what is up to a socket: IP_TRANSPARENT lets it bind an address that is not the host's (ip(7)); it needs
CAP_NET_ADMIN or CAP_NET_RAW in the user namespace of its network namespace.  The port is left to connect(2)
(IP_BIND_ADDRESS_NO_PORT): the client's own may be in use here, by a client of this very host for one.

The host must bring the answers home; docs/proxy.md has the commands.  They arrive on the bridge, addressed to a stranger:
``socket transparent 1`` marks those that belong to such a socket, a rule sends the mark to a table whose only route is
``local default``, and the reverse-path filter of the bridge must let be.  The target's way back must lead through here.

Three kinds of clients have no address that could be used, and come from the host's own as without this mode: those of the
other family than the target (PROXY protocol tells of them), loopback clients of a target elsewhere, since 127.0.0.0/8
and ::1 leave no host (RFC 1122, 3.2.1.3), and link-local ones.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from ...netlib.errors import InvalidArgument, NotSupported
from ..ports import Target
from .proxyproto import packed

_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_IP_BIND_ADDRESS_NO_PORT = 24
"""linux/in.h, linux/in6.h; Python 3.11's socket module has none of them."""


def source(client: tuple[Any, ...], target: Target) -> str | None:
    """The address to bind for *client*, or None when it has none that the target could answer to."""
    data = packed(client[0])
    if len(data) != (4 if target.family == socket.AF_INET else 16):
        return None
    address = ipaddress.ip_address(data)
    if address.is_link_local or (
        address.is_loopback and not ipaddress.ip_address(target.ip.partition("%")[0]).is_loopback
    ):
        return None
    return str(address)


def _allow(sock: socket.SocketType, family: int) -> None:
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)


def bind(sock: socket.SocketType, client: tuple[Any, ...], target: Target) -> None:
    """Bind *sock*, which is about to connect to *target*, to the address of *client* if it has one to use."""
    address = source(client, target)
    if address is not None:
        _allow(sock, target.family)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((address, 0))


def check(listener: socket.SocketType, target: Target) -> None:
    """Raise when no client of *listener* could ever be shown to *target*, or when this process may not."""
    family = listener.family
    both = family == socket.AF_INET6 and not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    if family != target.family and not both:
        raise InvalidArgument(
            "transparent needs a listener and a target of one address family",
            hint="the PROXY protocol (proxy_protocol: 1 or 2) tells a back end of clients of the other family",
        )
    try:
        with socket.socket(target.family, socket.SOCK_STREAM) as sock:
            _allow(sock, target.family)
    except PermissionError as error:
        raise NotSupported(
            f"transparent needs the right to bind foreign addresses: {error.strerror}",
            hint="give the forwarder CAP_NET_ADMIN in its network namespace, or use proxy_protocol",
        ) from error
