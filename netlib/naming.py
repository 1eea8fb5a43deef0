"""What the library needs of a name server for sandboxes.  A controller that is given none makes nothing of this.

    sandbox                                              whoever serves
    127.0.0.11:53  --redirect (firewall/redirect.py)-->  a UDP and a TCP socket, made in there and handed over

The address and the redirect are Docker's (moby, daemon/libnetwork/resolver.go): resolv.conf names 127.0.0.11, and the sockets
have ports of the kernel's choosing, so that a server of the container's own may have port 53.  A container sees its own
loopback alone, so the two sockets say by themselves which sandbox asks.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol

ADDRESS = "127.0.0.11"


@dataclass(frozen=True)
class View:
    """What one sandbox may resolve, and how."""

    sandbox: str
    networks: tuple[str, ...] = ()
    """Ids, in order of preference: the first that knows a name answers."""
    hosts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(name, addresses): --add-host, links, its own name; before networks."""
    upstreams: tuple[str, ...] = ()
    """Servers that its user named (--dns), asked from inside the sandbox; () for the host's own, asked from there."""
    search: tuple[str, ...] = ()
    ndots: int | None = None
    """None: its user set none."""
    outside: bool = True
    """Whether the host's upstreams may be asked: not where only internal networks are."""


@dataclass(frozen=True)
class Names:
    """The names of one endpoint on its network."""

    endpoint: str
    network: str
    network_name: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]


class NameServer(Protocol):
    """Thread-safe; every call is idempotent."""

    def serve(self, sandbox: str, udp: socket.socket, tcp: socket.socket) -> None:
        """Answer what comes to these sockets (the TCP one listens), which are the server's to close from now on; they take the
        place of the sandbox's last ones."""
        ...

    def withdraw(self, sandbox: str) -> None:
        """Close a sandbox's sockets; one that is not served is passed over."""
        ...

    @property
    def served(self) -> frozenset[str]:
        """Ids of the sandboxes that are served."""
        ...
