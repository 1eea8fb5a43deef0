"""What the library needs of a userland proxy.  ``pynet.proxy.process.client.ForwarderClient`` is one."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .ports.told import Stats


class Listening(Protocol):
    """A served port, as a proxy tells of it."""

    @property
    def id(self) -> str: ...
    @property
    def sock(self) -> socket.socket | int: ...


@dataclass(frozen=True, slots=True)
class ServedPort:
    """A port to serve: a listening (tcp) or bound (udp) socket, and where it leads."""

    id: str
    proto: str
    target_ip: str
    target_port: int
    sock: socket.socket
    drain: float | None = None
    proxy_protocol: int = 0
    """Version of the PROXY protocol header that the target gets first; 0 for none."""

    def fileno(self) -> int:
        return self.sock.fileno()


class Proxy(Protocol):
    def listen(self, ports: Iterable[ServedPort]) -> None:
        """Serve these, in one message, all or none; one that is served already is replaced."""
        ...

    def retarget(self, targets: Iterable[tuple[str, str, int]]) -> None:
        """(id, target address, target port): new connections go there.  NotFound for an id that is not served."""
        ...

    def withdraw(self, ids: Iterable[str]) -> None:
        """Stop serving; ids that are not served are passed over."""
        ...

    def fetch(self) -> Sequence[Listening]:
        """What is served, each with a copy of its socket that the caller owns."""
        ...

    def stats(self) -> Stats:
        """What has been counted, by port."""
        ...
