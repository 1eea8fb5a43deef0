"""The listening of published ports: a socket listens while its port leads somewhere.

The sockets are leases (ports/hostports.py) and stay bound as long as the port is published.  A sandbox may be on no network that
publishes for a while; a socket that went on listening would take connections that nobody accepts, so it stops, and clients
are refused as if nothing was there.  (shutdown(2) ends the listening of a Linux socket, and it stays bound.)
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from ..ports.bind import BACKLOG
from ..tools import Tools
from .kind import Kind, register
from .resource import Key, Resource

_NOT_LISTENING = (errno.ENOTCONN, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Listeners(Resource):
    owner: str
    """Id of the sandbox."""
    ids: tuple[str, ...]
    """Those of ports that lead somewhere."""

    @property
    def key(self) -> Key:
        return ("listeners", self.owner)

    @property
    def title(self) -> str:
        return f"listening on {', '.join(self.ids)}"


class ListenersKind(Kind[Listeners]):
    noun = "port"

    def make(self, tools: Tools, resource: Listeners) -> None:
        for id in resource.ids:
            sock = tools.ports.socket(id)
            if sock is not None and sock.type == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.listen(BACKLOG)

    def unmake(self, tools: Tools, resource: Listeners) -> None:
        for id in resource.ids:
            sock = tools.ports.socket(id)
            if sock is None or sock.type != socket.SOCK_STREAM:
                continue
            # a socket that does not listen keeps others off its port only while one of the two may not share (socket(7))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            try:
                sock.shutdown(socket.SHUT_RD)
            except OSError as error:
                if error.errno not in _NOT_LISTENING:
                    raise

    def alter(self, tools: Tools, old: Listeners, new: Listeners) -> None:
        self.make(tools, Listeners(new.owner, tuple(id for id in new.ids if id not in old.ids)))
        self.unmake(tools, Listeners(old.owner, tuple(id for id in old.ids if id not in new.ids)))


register(Listeners, ListenersKind())
