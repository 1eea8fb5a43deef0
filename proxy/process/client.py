"""Talking to a forwarder from threads: the client of its control socket.

    client = ForwarderClient(f"{run}/forwarder.sock")
    client.listen([Listen("web", "tcp", "10.1.0.2", 80, sock)])      # sock: bound by the caller, who may close it now

Thread-safe; how it asks, and what it raises when nobody answers: netlib/control/asker.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...netlib import errors, ipc
from ...netlib.control.asker import TIMEOUT, Asker
from ...netlib.ports.told import Connections, Stats
from . import messages
from .messages import Published


@dataclass(frozen=True)
class Listen:
    """One published port: its bound socket (an object or a descriptor) and where it leads."""

    id: str
    proto: str
    target_ip: str
    target_port: int
    sock: socket.socket | int
    drain: float | None = None
    """Seconds that live connections have when the port is withdrawn; None: the forwarder's default."""
    proxy_protocol: int = 0
    """Version of the PROXY protocol header that the back end gets first (tcp); 0 for none."""
    transparent: bool = False
    """The back end sees the client's own address (tcp); needs rights and routes, docs/proxy.md."""

    def fileno(self) -> int:
        return self.sock if isinstance(self.sock, int) else self.sock.fileno()

    def close(self) -> None:
        """Close the socket that ``fetch`` gave."""
        if not isinstance(self.sock, int):
            self.sock.close()


class ForwarderClient(Asker):
    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        super().__init__(path, timeout, what="the forwarder")

    def listen(self, ports: Iterable[Published]) -> None:
        """Serve *ports*, all or none.  The forwarder gets copies of the sockets.  A known id is replaced at once.

        One that is served on the very same socket is brought up to date, and its live connections stay.
        """
        self.request(messages.listen(ports))

    def retarget(self, targets: Iterable[tuple[str, str, int]]) -> None:
        """(id, target ip, target port) for each port that leads elsewhere from now on.  NotFound for an unknown id.

        Takes effect for all of them or for none; live TCP connections stay where they are.
        """
        self.ask(messages.retarget(targets))

    def withdraw(self, ids: Iterable[str], drain: float | None = None) -> None:
        """Stop serving *ids*; those that are not served are no error.

        Live connections are kept for *drain* seconds and then reset: 0 is at once, None what ``listen`` said.
        The port itself is free when every copy of its socket is closed, the caller's too.
        """
        self.ask(messages.withdraw(ids, drain))

    def fetch(self) -> list[Listen]:
        """What is served, each with a copy of its socket that the caller owns."""
        found: list[Listen] = []
        after: str | None = None
        try:
            while True:
                reply, fds = self.request([(messages.page_of("fetch", after), [])], takes_descriptors=True)
                found += [
                    Listen(
                        entry["id"],
                        entry["proto"],
                        entry["target"][0],
                        entry["target"][1],
                        socket.socket(fileno=fd),
                        entry["drain"],
                        entry["proxy_protocol"],
                        entry["transparent"],
                    )
                    for entry, fd in zip(reply["ports"], fds, strict=True)
                ]
                after = messages.next_page(reply)
                if after is None:
                    return found
        except BaseException:
            for port in found:
                port.close()
            raise

    def stats(self) -> Stats:
        """What is counted, by port; docs/proxy.md says what each name means."""
        result: Stats | None = None
        after: str | None = None
        while True:
            page = self.ask(messages.page_of("stats", after))
            if result is None:
                result = {
                    "pid": page["pid"], "processes": page["processes"], "workers": page["workers"], "ports": page["ports"]
                }  # fmt: skip
            else:
                result["ports"] |= page["ports"]
            after = messages.next_page(page)
            if after is None:
                return result

    def connections(self, name: str, limit: int = 100) -> Connections:
        """The live connections of a port, oldest first, *limit* at most."""
        return messages.connections(self.ask({"op": "connections", "id": name, "limit": limit}))

    def metrics(self, sock: socket.socket | None) -> None:
        """Answer Prometheus on *sock*, a bound stream socket, and nowhere else; None: nowhere."""
        self.request([({"op": "metrics"}, [] if sock is None else [sock.fileno()])])

    def ping(self) -> int:
        """The forwarder's pid."""
        return int(self.ask({"op": "ping"})["pid"])

    def settings(self) -> tuple[int, float]:
        """(workers, drain) that it was started with; zeros from a forwarder of an older pynet, which does not tell."""
        reply = self.ask({"op": "ping"})
        return int(reply.get("workers", 0)), float(reply.get("drain", 0))

    def watch(self, pid: int, argv: Sequence[str], started: int | None = None) -> None:
        """Start *argv* when process *pid* dies.  The same *argv* again replaces the earlier watch."""
        message: ipc.Message = {"op": "watch", "pid": pid, "start": list(argv)}
        if started is not None:
            message["started"] = started
        self.ask(message)

    def unwatch(self, argv: Sequence[str] | None = None) -> None:
        """Goodbye: what is watched (or only *argv*) may end."""
        self.ask({"op": "unwatch"} if argv is None else {"op": "unwatch", "start": list(argv)})

    def shutdown(self, drain: float = 0.0) -> None:
        """End the forwarder.  None is running: no error.

        Live connections are reset, at once or after *drain* seconds; listeners, lock and control socket are given up
        before this returns if there is a drain, so that a successor can start.
        """
        try:
            self.ask({"op": "shutdown"} if not drain else {"op": "shutdown", "drain": drain})
        except errors.Unavailable:
            pass
        self.close()
