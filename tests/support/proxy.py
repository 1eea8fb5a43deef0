"""A forwarder for tests, with ports that lead to servers which the test plays itself.

with Proxy.running(directory) as proxy, echoing() as address:
    name, port = proxy.publish(address)
    with connect(port) as client: ...
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from pynet.netlib.ports.told import PortStats
from pynet.proxy.process.client import ForwarderClient, Listen
from pynet.proxy.process.launch import spawn

from support.waiting import PATIENCE, until

HOST = "127.0.0.1"


class Proxy:
    """A forwarder, and ports through it to servers that the test plays itself."""

    def __init__(self, run: Path, *extra: str) -> None:
        self.run = run
        process = spawn(str(run), *extra)
        assert process is not None
        self.process = process
        self.client = ForwarderClient(str(run / "forwarder.sock"))
        self.client.ping()  # connected now, not by the first test that asks
        self.count = 0

    def publish(self, target: tuple[str, int], *, host: str = HOST, drain: float | None = None) -> tuple[str, int]:
        """(id, port) of a new published port; only the forwarder holds its socket."""
        self.count += 1
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family, backlog=4096) as sock:
            self.client.listen([Listen(f"p{self.count}", "tcp", *target, sock, drain)])
            return f"p{self.count}", sock.getsockname()[1]

    def stats(self, name: str) -> PortStats:
        return self.client.stats()["ports"][name]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until *condition*, which asks the forwarder; bounded."""
        until(condition, lambda: f"{what}: {self.client.stats()}")

    def close(self) -> None:
        self.client.shutdown()
        self.process.wait(10)

    @classmethod
    @contextlib.contextmanager
    def running(cls, run: Path, *extra: str) -> Generator[Proxy]:
        proxy = cls(run, *extra)
        try:
            yield proxy
        finally:
            proxy.close()


@contextlib.contextmanager
def echoing() -> Generator[tuple[str, int]]:
    """The address of a server that echoes, on all connections, until each one's FIN."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server((HOST, 0), backlog=4096))
        sock.setblocking(False)
        stop, stopper = socket.socketpair()
        stack.enter_context(stop)

        def serve() -> None:
            poll = select.epoll()
            poll.register(sock, select.EPOLLIN)
            poll.register(stop, select.EPOLLIN)
            live: dict[int, socket.socket] = {}
            while True:
                for fd, _ in poll.poll():
                    if fd == stop.fileno():
                        for peer in live.values():
                            peer.close()
                        poll.close()
                        return
                    if fd == sock.fileno():
                        peer, _ = sock.accept()
                        live[peer.fileno()] = peer
                        poll.register(peer, select.EPOLLIN)
                        continue
                    try:
                        data = live[fd].recv(65536)
                        live[fd].sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        live.pop(fd).close()

        thread = threading.Thread(target=serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stopper.close)
        yield sock.getsockname()


def connect(port: int, host: str = HOST) -> socket.socket:
    return socket.create_connection((host, port), timeout=PATIENCE)


def pair(proxy: Proxy, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client and the server's end of one proxied connection."""
    _, port = proxy.publish(server.getsockname()[:2])
    client = connect(port)
    peer, _ = server.accept()
    peer.settimeout(PATIENCE)
    return client, peer


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            break
        data += more
    return data


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(1 << 20):
        data += more
    return data


def sockets(pid: int) -> int:
    """How many *pid* holds."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    return count
