"""What the library needs of a name server for sandboxes.  A controller that is given none makes nothing of this.

    sandbox                                              whoever serves
    127.0.0.11:53  --redirect (firewall/redirect.py)-->  a UDP and a TCP socket, made in there and handed over

The address and the redirect are Docker's (moby, daemon/libnetwork/resolver.go): resolv.conf names 127.0.0.11, and the sockets
have ports of the kernel's choosing, so that a server of the container's own may have port 53.  A container sees its own
loopback alone, so the two sockets say by themselves which sandbox asks.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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


class Sockets(NamedTuple):
    """What a sandbox's questions come to: a UDP socket, and a TCP one that listens, both made in there."""

    sandbox: str
    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


class NameServer(Protocol):
    """Thread-safe; every call is idempotent.

    Whoever serves has copies of the sockets: the library keeps its own, so that a server that is gone loses no question, and the
    next one is given them again.  One that outlives its controller gives copies to the next (``fetch``).
    """

    def serve(self, sandboxes: Iterable[Sockets]) -> None:
        """Answer what comes to copies of these sockets, in the place of a sandbox's last ones; all, or none and an error."""
        ...

    def withdraw(self, sandboxes: Iterable[str]) -> None:
        """Close what is served of these; those that are not served are passed over."""
        ...

    def fetch(self) -> Sequence[Sockets]:
        """What is served, as copies that the caller owns."""
        ...

    @property
    def served(self) -> frozenset[str]:
        """Ids of the sandboxes that are served."""
        ...

    def tell(
        self,
        views: Iterable[View] = (),
        names: Iterable[Names] = (),
        gone_views: Iterable[str] = (),
        gone_endpoints: Iterable[str] = (),
    ) -> None:
        """A change: what is told again replaces what it was, what is gone twice is gone, in any order; all of it, or none and an
        error.  It is answered by when this returns.  What is served of a sandbox goes with its view, as by ``withdraw``."""
        ...

    def told(self) -> tuple[Sequence[View], Sequence[Names]]:
        """Everything that it answers by."""
        ...
