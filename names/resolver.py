"""Names for one given network namespace, served by the program itself: for programs and tests that have no controller.

    with Resolver("/run/netns/box", hosts={"db": ["10.0.0.2"]}) as resolver:
        ...                                                 # in there, 127.0.0.11:53 answers
        resolver.set(hosts={"db": ["10.0.0.3"]})            # holds when it returns

    caller's thread                     the resolver's thread
       set, lookup  --and wait-->       Server, Forwarder on an event loop of their own

What *hosts* has not is asked of *servers*, from inside the namespace, else of the host's own (its resolv.conf, watched), else,
where *outside* is False, of nobody.  The port itself is bound, so nobody else in there may have it; for the sandboxes of a
controller there is ``NameService`` (process/launch.py), which needs no port of theirs.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from ..netlib.kernel import syscall
from ..netlib.naming import ADDRESS, View
from ..proxy.dataplane.lane import Lane
from . import presentation
from .forward import Forwarder
from .process.entrance import Entrance
from .resolvconf import PATH, Watched
from .server import Server
from .upstream import OnLane
from .zones import TTL, Zones

T = TypeVar("T")

_ID = "resolver"
_BACKLOG = 64


class Found(NamedTuple):
    """What would be answered."""

    code: str
    """NOERROR, NXDOMAIN, ..."""
    lines: tuple[str, ...]
    """The records of the answer, each as in a zone file."""
    source: str
    """From where they are: hosts, cache, which upstream, or the rule that there are none by."""


class Resolver:
    def __init__(
        self,
        netns: str = "",
        *,
        hosts: Mapping[str, Iterable[str]] | None = None,
        servers: Iterable[str] = (),
        outside: bool = True,
        resolv_conf: str = PATH,
        ttl: int = TTL,
        address: str = ADDRESS,
        port: int = 53,
    ) -> None:
        """Serve the namespace at the path *netns*, "" for the calling thread's own.

        *hosts*: name to addresses.  *servers*: addresses of name servers; *resolv_conf* names the host's.  *ttl*: seconds that
        answers of *hosts* may be kept.  *port* 0 is any (``self.address`` says which).  ValueError for what is no address,
        OSError when the namespace can not be entered or the port not be had.
        """
        self._resolv_conf, self._ttl = resolv_conf, ttl
        self._entrance = Entrance() if netns else None
        try:
            udp, tcp = _sockets(netns, address, port)
        except BaseException:
            self._close_entrance()
            raise
        self.address: tuple[str, int] = udp.getsockname()
        """Where it answers: address and port of both sockets."""
        self._view = _view(hosts or {}, servers, outside)
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(udp, tcp, started), name="pynet-resolver", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            self._close_entrance()
            raise

    def set(
        self,
        *,
        hosts: Mapping[str, Iterable[str]] | None = None,
        servers: Iterable[str] | None = None,
        outside: bool | None = None,
    ) -> None:
        """Answer so from now on; None leaves what there is.  ValueError for what is no address, and nothing has changed."""
        before = self._view
        view = _view(
            dict(before.hosts) if hosts is None else hosts,
            before.upstreams if servers is None else servers,
            before.outside if outside is None else outside,
        )

        async def tell() -> None:
            self._server.tell([view])

        self._there(tell())
        self._view = view

    def lookup(self, name: str, type: str = "A", *, tcp: bool = False) -> Found:
        """What who asks in there is answered; ValueError where there is no such name or type."""
        data = presentation.query(name, type)
        reply, entry = self._there(self._server.query(_ID, data, tcp=tcp))
        if reply is None:
            return Found("", (), entry.source)
        return Found(presentation.code_name(reply), tuple(presentation.lines(reply)), entry.source)

    def close(self) -> None:
        """End; twice is fine."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
            self._close_entrance()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _there(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def _close_entrance(self) -> None:
        if self._entrance is not None:
            self._entrance.close()

    def _run(self, udp: socket.socket, tcp: socket.socket, started: Future[None]) -> None:
        lane = Lane()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
            runner.run(self._serve(lane, udp, tcp, started))

    async def _serve(self, lane: Lane, udp: socket.socket, tcp: socket.socket, started: Future[None]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            lane.wake = True

        forwarder = Forwarder(inside=self._inside(udp), wake=wake, readers=OnLane(lane))
        host = Watched(self._resolv_conf, lambda conf: forwarder.use(conf.servers))
        if host.now is not None:
            forwarder.use(host.now.servers)
        self._server = server = Server(lane, self._loop, forwarder, zones=Zones(self._ttl))
        try:
            server.serve(_ID, udp, tcp)
            server.tell([self._view])
            started.set_result(None)
            await self._stopped.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            host.close()
            server.close()
            forwarder.close()

    def _inside(self, beside: socket.socket) -> Callable[[str, int, int], socket.socket]:
        entrance = self._entrance
        if entrance is None:
            return lambda _, family, kind: socket.socket(family, kind | socket.SOCK_NONBLOCK)
        return lambda _, family, kind: entrance.socket(beside, family, kind)


def _view(hosts: Mapping[str, Iterable[str]], servers: Iterable[str], outside: bool) -> View:
    named = tuple((name, tuple(addresses)) for name, addresses in hosts.items())
    return View(_ID, hosts=named, upstreams=tuple(servers), outside=outside)


def _sockets(netns: str, address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket in the namespace, on one port."""
    done: Future[tuple[socket.socket, socket.socket]] = Future()

    def make() -> None:
        made: list[socket.socket] = []
        try:
            if netns:
                fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    syscall.setns(fd, syscall.CLONE_NEWNET)
                finally:
                    os.close(fd)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            made.append(tcp)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((address, port))
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.append(udp)
            udp.bind((address, tcp.getsockname()[1]))
            tcp.listen(_BACKLOG)
            done.set_result((udp, tcp))
        except BaseException as error:
            for sock in made:
                sock.close()
            done.set_exception(error)

    thread = threading.Thread(target=make)  # setns(2) is for the rest of the thread's life, which ends with this
    thread.start()
    thread.join()
    return done.result()
