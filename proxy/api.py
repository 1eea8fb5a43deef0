"""Forwarding ports from an asyncio program: one import, and nothing else of pynet is needed.

    from pynet.proxy.api import Forwarder

    async with Forwarder() as forwarder:
        port = await forwarder.forward_tcp(("127.0.0.1", 0), ("10.1.0.2", 80), proxy_protocol=2)
        print(port.address, await port.stats())
        await port.withdraw(drain=5)

    your loop --- Peer (peer.py) === socket pair === forwarder process (forwarder.py --control-fd) --- bulk workers

The ports are served by a process of their own, as everywhere in pynet.  Serving them in the caller's loop would be one
process less, but the fast lane *is* the selector of its loop: a loop that runs already can not be given one, uvloop has
none, and every callback of the program that takes a millisecond would stop every connection for as long.  A process
costs 0.1 s once and 15 MB.

It ends with the program, whatever ends that: then live connections are reset.  Should it die itself, calls raise
errors.Unavailable and its ports are closed.  Sockets are bound here and passed on, so an address that is in use is
PortInUse before anything has changed, and a socket from elsewhere (systemd, another network namespace) can be given in
place of an address.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterable
from typing import Any

from ..netlib.errors import InvalidArgument, NotFound, Unavailable
from ..netlib.ipc import Message, ProtocolError
from ..netlib.ports.bind import bind
from .ports import DEFAULT_DRAIN
from .process.client import refusal
from .process.crew import spawn_controlled
from .process.peer import Peer

Address = tuple[str, int]


def _bind(proto: str, address: Address) -> socket.socket:
    """``::`` takes both families."""
    ip, port = address
    return socket.socket(fileno=bind(proto, ip, port, both=ip in ("", "::")))


class Port:
    """One forwarded port.  ``address`` is where it listens."""

    def __init__(self, forwarder: Forwarder, name: str, proto: str, address: Address) -> None:
        self._forwarder, self.id, self.proto, self.address = forwarder, name, proto, address

    async def retarget(self, target: Address) -> None:
        """New connections go to *target*; UDP clients at once."""
        await self._forwarder.request({"op": "retarget", "ports": [{"id": self.id, "target": list(target)}]})

    async def withdraw(self, drain: float | None = None) -> None:
        """Listen no more; live connections have *drain* seconds (None: as was said when it was made, 0: none)."""
        message: Message = {"op": "withdraw", "ids": [self.id]}
        if drain is not None:
            message["drain"] = drain
        await self._forwarder.request(message)

    async def stats(self) -> dict[str, Any]:
        """What has been counted; docs/proxy.md has the names.  NotFound after the withdrawal."""
        ports: dict[str, dict[str, Any]] = (await self._forwarder.stats())["ports"]
        if self.id not in ports:
            raise NotFound(f"port {self.id} is not served")
        return ports[self.id]

    async def connections(self, limit: int = 100) -> dict[str, Any]:
        """{"total", "connections": [{client, target, source, state, age, bytes_in, bytes_out, pid}]}, oldest first."""
        return await self._forwarder.request({"op": "connections", "id": self.id, "limit": limit})


class Forwarder:
    """A forwarder process, for as long as the ``async with`` block."""

    def __init__(
        self,
        *,
        workers: int = 1,
        drain: float = DEFAULT_DRAIN,
        connect_timeout: float | None = None,
        options: Iterable[str] = (),
    ) -> None:
        """*workers* processes accept TCP; *drain* is for ports that do not say; *options*: further ones of its command."""
        self._options = ["--workers", str(workers), "--drain", str(drain), *options]
        if connect_timeout is not None:
            self._options += ["--connect-timeout", str(connect_timeout)]
        self._peer: Peer | None = None
        self._count = 0
        self.pid = 0

    async def __aenter__(self) -> Forwarder:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the process and wait until it serves.  Unavailable when it does not."""
        if self._peer is not None:
            return
        loop = asyncio.get_running_loop()
        self.pid, sock = spawn_controlled(*self._options)
        self._pidfd = os.pidfd_open(self.pid)
        self._ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._pidfd, self._on_exit, loop)
        self._peer = Peer(loop, sock)
        try:
            await self.request({"op": "ping"})
        except BaseException:
            await self.close()
            raise

    def _on_exit(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._pidfd)
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._ended.set_result(None)

    async def close(self, drain: float = 0.0) -> None:
        """End it: every port is withdrawn, live connections have *drain* seconds.  Waits for the end."""
        peer, self._peer = self._peer, None
        if peer is None:
            return
        try:
            await peer.request({"op": "shutdown", "drain": drain})
        except Unavailable:
            pass
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), drain + 10)
        except TimeoutError:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self._ended
        finally:
            peer.close()

    async def request(self, message: Message, fds: Iterable[int] = ()) -> Message:
        """One control message (docs/proxy.md) and its answer; what is refused is raised."""
        if self._peer is None:
            raise Unavailable("the forwarder is not running", hint="use it inside `async with Forwarder()`")
        try:
            reply, received = await self._peer.request(message, fds)
        except ProtocolError as error:
            raise InvalidArgument(str(error)) from error
        for fd in received:
            os.close(fd)
        if reply.get("ok") is not True:
            raise refusal(reply)
        return reply

    async def forward_tcp(
        self,
        listen: Address | socket.socket,
        target: Address,
        *,
        proxy_protocol: int = 0,
        transparent: bool = False,
        drain: float | None = None,
    ) -> Port:
        """Forward TCP from *listen* (an address, or a bound socket, which is copied) to *target*, an (ip, port).

        *proxy_protocol* 1 or 2: the target gets that header first.  *transparent*: it sees the client's own address.
        """
        return await self._forward(
            "tcp", listen, target, drain, {"proxy_protocol": proxy_protocol, "transparent": transparent}
        )

    async def forward_udp(self, listen: Address | socket.socket, target: Address) -> Port:
        """Forward UDP."""
        return await self._forward("udp", listen, target, None, {})

    async def forward_sctp(
        self, listen: Address | socket.socket, target: Address, *, drain: float | None = None
    ) -> Port:
        """Forward SCTP associations; NotSupported where the kernel has none."""
        return await self._forward("sctp", listen, target, drain, {})

    async def _forward(
        self,
        proto: str,
        listen: Address | socket.socket,
        target: Address,
        drain: float | None,
        options: dict[str, Any],
    ) -> Port:
        self._count += 1
        name = f"{proto}-{self._count}"
        entry: dict[str, Any] = {"id": name, "proto": proto, "target": list(target), **options}
        if drain is not None:
            entry["drain"] = drain
        sock = listen if isinstance(listen, socket.socket) else _bind(proto, listen)
        try:
            await self.request({"op": "listen", "ports": [entry]}, [sock.fileno()])
            found = sock.getsockname()
            return Port(self, name, proto, (found[0], found[1]))
        finally:
            if sock is not listen:
                sock.close()

    async def stats(self) -> dict[str, Any]:
        """{"pid", "processes": [pid], "workers": [pid], "ports": {id: {...}}}; docs/proxy.md has what is counted."""
        return await self.request({"op": "stats"})

    async def metrics(self, listen: Address | socket.socket | None) -> Address | None:
        """Answer Prometheus at ``http://<the address that is returned>/metrics``; None: no more."""
        if listen is None:
            await self.request({"op": "metrics"})
            return None
        sock = listen if isinstance(listen, socket.socket) else _bind("tcp", listen)
        try:
            await self.request({"op": "metrics"}, [sock.fileno()])
            found = sock.getsockname()
            return found[0], found[1]
        finally:
            if sock is not listen:
                sock.close()
