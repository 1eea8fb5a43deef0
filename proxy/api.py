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
import socket
from collections.abc import Iterable
from typing import Any, overload

from ..netlib.control.questions import result
from ..netlib.errors import NotFound, Unavailable
from ..netlib.ipc import Message
from ..netlib.ports.bind import bind
from ..netlib.ports.told import Connections, PortStats, Stats
from .ports import DEFAULT_DRAIN
from .process import messages
from .process.crew import start_controlled
from .process.peer import Peer
from .start import Child

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
        await self._forwarder.request(messages.retarget([(self.id, *target)]))

    async def withdraw(self, drain: float | None = None) -> None:
        """Listen no more; live connections have *drain* seconds (None: as was said when it was made, 0: none)."""
        await self._forwarder.request(messages.withdraw([self.id], drain))

    async def stats(self) -> PortStats:
        """What has been counted; docs/proxy.md says what each name means.  NotFound after the withdrawal."""
        ports: dict[str, PortStats] = (await self._forwarder.request({"op": "stats", "ids": [self.id]}))["ports"]
        if self.id not in ports:
            raise NotFound(f"port {self.id} is not served")
        return ports[self.id]

    async def connections(self, limit: int = 100) -> Connections:
        """The live connections, oldest first, *limit* at most (1,000).  NotSupported for udp, which has none."""
        message: Message = {"op": "connections", "id": self.id, "limit": limit}
        return messages.connections(await self._forwarder.request(message))


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
        self._child: Child | None = None
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
        self._ended = ended = asyncio.Event()
        self._child, self._peer = start_controlled(loop, self._options, ended.set)
        self.pid = self._child.pid
        try:
            await self.request({"op": "ping"})
        except BaseException:
            await self.close()
            raise

    async def close(self, drain: float = 0.0) -> None:
        """End it: every port is withdrawn, live connections have *drain* seconds.  Waits for the end."""
        peer, self._peer = self._peer, None
        if peer is None:
            return
        assert self._child is not None
        try:
            await peer.request({"op": "shutdown", "drain": drain})
        except Unavailable:
            pass
        try:
            await asyncio.wait_for(self._ended.wait(), drain + 10)
        except TimeoutError:
            self._child.kill()
            await self._ended.wait()
        finally:
            peer.close()

    async def request(self, message: Message, fds: Iterable[int] = ()) -> Message:
        """One control message (docs/proxy.md) and its answer; what is refused is raised."""
        if self._peer is None:
            raise Unavailable("the forwarder is not running", hint="use it inside `async with Forwarder()`")
        return result(await self._peer.request(message, fds))[0]

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

    async def stats(self) -> Stats:
        """What is counted, by port (``Port.id``); docs/proxy.md says what each name means."""
        reply = await self.request({"op": "stats"})
        return {
            "pid": reply["pid"],
            "processes": reply["processes"],
            "workers": reply["workers"],
            "ports": reply["ports"],
        }

    @overload
    async def metrics(self, listen: None) -> None: ...
    @overload
    async def metrics(self, listen: Address | socket.socket) -> Address: ...
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
