"""What the library needs of a name server for sandboxes.  A controller that is given none makes nothing of this.

    sandbox                                              whoever serves
    127.0.0.11:53  --redirect (firewall/redirect.py)-->  a UDP and a TCP socket, made in there and handed over

The address and the redirect are Docker's (moby, daemon/libnetwork/resolver.go): resolv.conf names 127.0.0.11, and the sockets
have ports of the kernel's choosing, so that a server of the container's own may have port 53.  A container sees its own
loopback alone, so the two sockets say by themselves which sandbox asks.
"""

from __future__ import annotations

import socket
from typing import Protocol

ADDRESS = "127.0.0.11"


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
