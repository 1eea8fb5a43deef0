"""Talking to a forwarder from threads: the client of its control socket.

    client = ForwarderClient(f"{run}/forwarder.sock")
    client.listen([Listen("web", "tcp", "10.1.0.2", 80, sock)])      # sock: bound by the caller, who may close it now

Thread-safe, and no thread waits for another's answer (link.py).  The connection is made when it is first needed and again
after it broke; a request whose connection broke is sent once more, which every operation allows.  When nobody listens at
the path, or the answer does not come in time, errors.Unavailable says so; what the forwarder refuses is raised as the class
it names.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...netlib import errors, ipc
from ...netlib.ports.told import Connections, Stats
from . import messages
from .link import Broken, Link
from .messages import Frame, Published

TIMEOUT = 10.0
"""Seconds until an answer counts as missing."""


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


class ForwarderClient:
    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        self.path, self._timeout = path, timeout
        self._lock = threading.Lock()
        """Over the choice of the link, never over a question."""
        self._link: Link | None = None

    def listen(self, ports: Iterable[Published]) -> None:
        """Serve *ports*, all or none.  The forwarder gets copies of the sockets.  A known id is replaced at once.

        One that is served on the very same socket is brought up to date, and its live connections stay.
        """
        self._request(messages.listen(ports))

    def retarget(self, targets: Iterable[tuple[str, str, int]]) -> None:
        """(id, target ip, target port) for each port that leads elsewhere from now on.  NotFound for an unknown id.

        Takes effect for all of them or for none; live TCP connections stay where they are.
        """
        self._ask(messages.retarget(targets))

    def withdraw(self, ids: Iterable[str], drain: float | None = None) -> None:
        """Stop serving *ids*; those that are not served are no error.

        Live connections are kept for *drain* seconds and then reset: 0 is at once, None what ``listen`` said.
        The port itself is free when every copy of its socket is closed, the caller's too.
        """
        self._ask(messages.withdraw(ids, drain))

    def fetch(self) -> list[Listen]:
        """What is served, each with a copy of its socket that the caller owns."""
        found: list[Listen] = []
        after: str | None = None
        try:
            while True:
                reply, fds = self._request([(messages.page_of("fetch", after), [])], takes_descriptors=True)
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
            page = self._ask(messages.page_of("stats", after))
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
        return messages.connections(self._ask({"op": "connections", "id": name, "limit": limit}))

    def metrics(self, sock: socket.socket | None) -> None:
        """Answer Prometheus on *sock*, a bound stream socket, and nowhere else; None: nowhere."""
        self._request([({"op": "metrics"}, [] if sock is None else [sock.fileno()])])

    def ping(self) -> int:
        """The forwarder's pid."""
        return int(self._ask({"op": "ping"})["pid"])

    def settings(self) -> tuple[int, float]:
        """(workers, drain) that it was started with; zeros from a forwarder of an older pynet, which does not tell."""
        reply = self._ask({"op": "ping"})
        return int(reply.get("workers", 0)), float(reply.get("drain", 0))

    def watch(self, pid: int, argv: Sequence[str], started: int | None = None) -> None:
        """Start *argv* when process *pid* dies.  The same *argv* again replaces the earlier watch."""
        message: ipc.Message = {"op": "watch", "pid": pid, "start": list(argv)}
        if started is not None:
            message["started"] = started
        self._ask(message)

    def unwatch(self, argv: Sequence[str] | None = None) -> None:
        """Goodbye: what is watched (or only *argv*) may end."""
        self._ask({"op": "unwatch"} if argv is None else {"op": "unwatch", "start": list(argv)})

    def shutdown(self, drain: float = 0.0) -> None:
        """End the forwarder.  None is running: no error.

        Live connections are reset, at once or after *drain* seconds; listeners, lock and control socket are given up
        before this returns if there is a drain, so that a successor can start.
        """
        try:
            self._ask({"op": "shutdown"} if not drain else {"op": "shutdown", "drain": drain})
        except errors.Unavailable:
            pass
        self.close()

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    # -- one request -------------------------------------------------------------------------------------------

    def _ask(self, message: ipc.Message) -> ipc.Message:
        return self._request([(message, [])])[0]

    def _connected(self) -> Link:
        with self._lock:
            if self._link is not None and self._link.is_broken:
                self._link.close()
                self._link = None
            if self._link is None:
                self._link = Link(self.path, self._timeout)
            return self._link

    def _request(self, frames: list[Frame], *, takes_descriptors: bool = False) -> Frame:
        """The last answer to *frames*, which are one request; a refusal of any is raised."""
        for attempt in range(2):
            try:
                link = self._connected()
                for message, fds in frames[:-1]:
                    messages.result(link.request(message, fds))
                return messages.result(link.request(*frames[-1]), takes_descriptors=takes_descriptors)
            except (Broken, ConnectionError) as error:
                # an idle connection may have lost its other end long ago: that is seen only now
                if attempt or (isinstance(error, Broken) and error.is_late):
                    raise self._unavailable(error) from error
            except OSError as error:
                raise self._unavailable(error) from error
        raise AssertionError("two attempts return or raise")

    def _unavailable(self, reason: object) -> errors.Unavailable:
        return errors.Unavailable(f"the forwarder at {self.path} does not answer: {reason}")
