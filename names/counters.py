"""What one asker may take, and what is counted, by sandbox."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Seconds, bytes and numbers; of one sandbox where nothing else is said."""

    burst: int = 16
    """Datagrams that are read before others have their turn."""
    memo_entries: int = 128
    memo_bytes: int = 32 << 10
    forwarded: int = 1024
    """Questions under way; one more is REFUSED (Docker's: moby, daemon/libnetwork/resolver.go, maxConcurrent)."""
    forwarded_in_all: int = 2048
    """The same, of all sandboxes together.  A sandbox may have as many under way as are left over, so that some always are:
    one that floods gets half of them, two a third each."""
    connections: int = 32
    """Over TCP; one more takes the place of the one that has been quiet longest."""
    connections_in_all: int = 2048
    pipelined: int = 64
    """Questions under way on one connection; it is read no further meanwhile (RFC 7766 6.2.1.1)."""
    unsent: int = 256 << 10
    """Bytes that wait for one client to take them; it is read no further meanwhile."""
    idle: float = 10.0
    """A connection may be quiet (RFC 7766 6.2.3: a few seconds)."""
    message: float = 5.0
    """From a message's first byte to its last, in and out: one byte a second is a way to hold a connection."""
    sweep: float = 1.0
    """How often connections are looked at for that."""


class Counters:
    """Every question is one of *udp*, *tcp*, and one of *local*, *memo*, *cached*, *forwarded*, *refused*, *malformed*."""

    __slots__ = (
        *("udp", "tcp", "local", "memo", "cached", "forwarded", "refused", "malformed"),
        *("failed", "unsent", "connections", "cut"),
    )

    def __init__(self) -> None:
        self.udp = self.tcp = 0
        self.local = 0
        """Answered from views and names."""
        self.memo = 0
        """Asked before in the same bytes: names of ours, or in the same second what an upstream said."""
        self.forwarded = 0
        self.cached = 0
        """Answered at once from what an upstream said before."""
        self.refused = 0
        """Too many were under way."""
        self.malformed = 0
        self.failed = 0
        """Of those forwarded: nobody had an answer, SERVFAIL."""
        self.unsent = 0
        """Replies that the kernel did not take: the asker is gone, a firewall in the sandbox, a full queue."""
        self.connections = 0
        """Accepted over TCP."""
        self.cut = 0
        """Of those: ended by us, for a limit or for what no message begins with."""

    def told(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}
