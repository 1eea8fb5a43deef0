"""Talking to a forwarder: the client of its control socket, and how one is started.

    client = ForwarderClient(f"{run}/forwarder.sock")
    client.listen([Listen("web", "tcp", "10.1.0.2", 80, sock)])      # sock: bound by the caller, who may close it now

Thread-safe: one request at a time.  The connection is made when it is first needed and again after it broke; a request
whose connection broke is sent once more, which every operation allows.  When nobody listens at the path, or the answer
does not come in time, errors.Unavailable says so; what the forwarder refuses is raised as the class it names.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...netlib import errors, ipc

TIMEOUT = 10.0
"""Seconds until an answer counts as missing."""


class Published(Protocol):
    """What ``ForwarderClient.listen`` needs to know of a port; ``Listen`` has it, and may say more."""

    @property
    def id(self) -> str: ...
    @property
    def proto(self) -> str: ...
    @property
    def target_ip(self) -> str: ...
    @property
    def target_port(self) -> int: ...
    @property
    def drain(self) -> float | None: ...
    def fileno(self) -> int: ...


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


class ForwarderClient:
    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        self.path, self._timeout = path, timeout
        self._lock = threading.Lock()
        self._channel: ipc.Channel | None = None

    def listen(self, ports: Iterable[Published]) -> None:
        """Serve *ports*, all or none.  The forwarder gets copies of the sockets.  A known id is replaced."""
        wanted = list(ports)
        entries: list[dict[str, Any]] = []
        for port in wanted:
            entry: dict[str, Any] = {"id": port.id, "proto": port.proto, "target": [port.target_ip, port.target_port]}
            if port.drain is not None:
                entry["drain"] = port.drain
            for option in ("proxy_protocol", "transparent"):
                if getattr(port, option, False):
                    entry[option] = getattr(port, option)
            entries.append(entry)
        self._request({"op": "listen", "ports": entries}, [port.fileno() for port in wanted])

    def retarget(self, targets: Iterable[tuple[str, str, int]]) -> None:
        """(id, target ip, target port) for each port that leads elsewhere from now on.  NotFound for an unknown id."""
        entries = [{"id": name, "target": [ip, port]} for name, ip, port in targets]
        self._request({"op": "retarget", "ports": entries})

    def withdraw(self, ids: Iterable[str], drain: float | None = None) -> None:
        """Stop serving *ids*; those that are not served are no error.

        Live connections are kept for *drain* seconds and then reset: 0 is at once, None what ``listen`` said.
        The port itself is free when every copy of its socket is closed, the caller's too.
        """
        message: dict[str, Any] = {"op": "withdraw", "ids": list(ids)}
        if drain is not None:
            message["drain"] = drain
        self._request(message)

    def fetch(self) -> list[Listen]:
        """What is served, each with a copy of its socket that the caller owns."""
        reply, fds = self._request({"op": "fetch"})
        return [
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

    def stats(self) -> dict[str, Any]:
        """{"pid", "processes": [pid], "workers": [pid], "ports": {id: {...}}}; docs/proxy.md has what is counted."""
        reply, _ = self._request({"op": "stats"})
        return reply

    def connections(self, name: str, limit: int = 100) -> dict[str, Any]:
        """{"total", "connections": [{client, target, source, state, age, bytes_in, bytes_out, pid}]}, oldest first."""
        reply, _ = self._request({"op": "connections", "id": name, "limit": limit})
        return reply

    def metrics(self, sock: socket.socket | None) -> None:
        """Answer Prometheus on *sock*, a bound stream socket, and nowhere else; None: nowhere."""
        self._request({"op": "metrics"}, [] if sock is None else [sock.fileno()])

    def ping(self) -> int:
        """The forwarder's pid."""
        reply, _ = self._request({"op": "ping"})
        return int(reply["pid"])

    def settings(self) -> tuple[int, float]:
        """(workers, drain) that it was started with; zeros from a forwarder of an older pynet, which does not tell."""
        reply, _ = self._request({"op": "ping"})
        return int(reply.get("workers", 0)), float(reply.get("drain", 0))

    def watch(self, pid: int, argv: Sequence[str], started: int | None = None) -> None:
        """Start *argv* when process *pid* dies.  The same *argv* again replaces the earlier watch."""
        message: dict[str, Any] = {"op": "watch", "pid": pid, "start": list(argv)}
        if started is not None:
            message["started"] = started
        self._request(message)

    def unwatch(self, argv: Sequence[str] | None = None) -> None:
        """Goodbye: what is watched (or only *argv*) may end."""
        self._request({"op": "unwatch"} if argv is None else {"op": "unwatch", "start": list(argv)})

    def shutdown(self, drain: float = 0.0) -> None:
        """End the forwarder.  None is running: no error.

        Live connections are reset, at once or after *drain* seconds; listeners, lock and control socket are given up
        before this returns if there is a drain, so that a successor can start.
        """
        try:
            self._request({"op": "shutdown"} if not drain else {"op": "shutdown", "drain": drain})
        except errors.Unavailable:
            pass
        self.close()

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        with self._lock:
            self._disconnect()

    # -- one request -------------------------------------------------------------------------------------------

    def _disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _request(self, message: ipc.Message, fds: list[int] | None = None) -> tuple[ipc.Message, list[int]]:
        with self._lock:
            frame: tuple[ipc.Message, list[int]] | None = None
            for attempt in range(2):
                fresh = self._channel is None
                try:
                    if self._channel is None:
                        self._channel = ipc.connect(self.path, self._timeout)
                    self._channel.send(message, fds)
                    frame = self._channel.receive()
                    if frame is not None:
                        break
                    reason: object = "it closed the connection"
                except (OSError, ipc.ProtocolError) as error:
                    reason = error
                    fresh = isinstance(error, TimeoutError) or (fresh and not isinstance(error, ConnectionError))
                except BaseException:
                    # interrupted between a request and its answer: the stream is of no more use
                    self._disconnect()
                    raise
                self._disconnect()
                if attempt or fresh:
                    raise errors.Unavailable(f"the forwarder at {self.path} does not answer: {reason}")
        assert frame is not None
        reply, received = frame
        if reply.get("ok") is True:
            return reply, received
        for fd in received:
            os.close(fd)
        raise refusal(reply)


_CLASSES = (errors.InvalidArgument, errors.NotFound, errors.Conflict, errors.NotSupported)


def refusal(reply: ipc.Message) -> errors.PynetError:
    """The error that an answer with ``"ok": false`` tells of."""
    kinds = {kind.__name__: kind for kind in _CLASSES}
    kind = kinds.get(str(reply.get("class")), errors.InternalError)
    return kind(str(reply.get("error")), hint=str(reply.get("hint") or ""))


def replace(run: str, *extra: str, drain: float = 60.0, timeout: float = TIMEOUT) -> subprocess.Popen[bytes] | None:
    """Put a new forwarder in the place of the one of *run*; no connection is lost, live ones have *drain* seconds.

    Between the two, clients wait in the queues of the listening sockets.  UDP clients are new to the new one.  Who uses
    ``watch`` or ``metrics`` says so again.
    """
    client = ForwarderClient(os.path.join(run, "forwarder.sock"), timeout)
    try:
        held = client.fetch()
        try:
            client.shutdown(drain)
            process = spawn(run, *extra, timeout=timeout)
            client.listen(held)
        finally:
            for port in held:
                assert isinstance(port.sock, socket.socket)
                port.sock.close()
    finally:
        client.close()
    return process


def command(run: str, *extra: str) -> list[str]:
    """The command line of the forwarder of *run*."""
    return [sys.executable, "-I", "-m", "pynet.proxy.process.forwarder", "--run", run, *extra]


def spawn(run: str, *extra: str, timeout: float = TIMEOUT, log: str | None = None) -> subprocess.Popen[bytes] | None:
    """Start the forwarder of *run* in a session of its own and wait until it serves.

    None when another one serves already (the lock decides).  Unavailable, with its last words, when none does.
    *log*: a file for its messages; default RUN/forwarder.log.  The caller owns the process object: wait for it one day.
    """
    os.makedirs(run, mode=0o711, exist_ok=True)
    read, write = os.pipe()
    with open(log or os.path.join(run, "forwarder.log"), "ab") as output:
        try:
            process = subprocess.Popen(
                command(run, "--ready-fd", str(write), *extra),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[write],
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
    try:
        said = _read_all(read, timeout)
    finally:
        os.close(read)
    if said.startswith(b"0\n"):
        return process
    process.kill()
    process.wait()
    client = ForwarderClient(os.path.join(run, "forwarder.sock"))
    try:
        client.ping()
    except errors.Unavailable:
        words = said.partition(b"\n")[2].decode(errors="replace").strip() or "it did not say why"
        raise errors.Unavailable(f"the forwarder of {run} did not start: {words}") from None
    finally:
        client.close()
    return None


def _read_all(fd: int, timeout: float) -> bytes:
    """What comes from *fd* until its end or until *timeout*."""
    import select

    end = time.monotonic() + timeout
    said = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while (left := end - time.monotonic()) > 0 and poll.poll(left * 1000):
        data = os.read(fd, 4096)
        if not data:
            break
        said += data
    return said
