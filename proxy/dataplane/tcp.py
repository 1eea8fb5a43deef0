"""A published TCP (or SCTP) port: accept, dial, count, withdraw.

    listener --accept--> client --.
                                   Connection (relay.py) -- closed | reset | refused --> counters
       target <-----dial----------'

The listener is bound by whoever publishes the port and arrives as a descriptor; it is level-triggered, so that what one
turn leaves is there in the next.  TCP_NODELAY and SO_KEEPALIVE are set on it once: accepted sockets inherit them
(tcp(7), inet_csk_clone_lock).  Dialling does not wait: the connection is registered while it connects, and what the
client sends meanwhile stays in the kernel.  A PROXY protocol header (proxyproto.py) is what the target gets first; in
transparent mode our socket to the target is bound to the client's address before (transparent.py).

Several forwarders may serve one listener (crew.py): it is watched with EPOLLEXCLUSIVE, so that a new connection wakes
one of them and not all (epoll_ctl(2)), and each takes a few connections a turn, to leave some for the others.

Out of descriptors or memory.  A level-triggered listener would spin and an edge-triggered one would forget, so the
listener is parked: it is not watched, and a timer tries again after 50 ms; clients wait in its queue.  A
connection that is accepted must also be dialled, so the ``Reserve`` keeps a descriptor: when dialling meets EMFILE the
reserve is spent on it, and nothing is accepted until it could be refilled.  No connection that was accepted is dropped.

Withdrawal closes the listener at once; live connections go on for ``drain`` seconds and are then reset.

SCTP is served in its one-to-one style (RFC 6458, 4), where it looks like TCP: a read brings a message, so it is copied
message by message, is never bulk, and a short read says nothing.  There is no half-close: one end's goodbye is both's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from select import EPOLLEXCLUSIVE, EPOLLIN
from typing import Any, NamedTuple

from ...netlib.ports.bind import BACKLOG
from ...netlib.ports.told import PortStats
from ..ports import PortSpec, Target
from . import proxyproto, transparent
from .bulkpool import BulkPool
from .counters import Counters, Times
from .lane import Lane
from .live import Live
from .relay import REFUSED, RESET, Connection, Relay, Socket, reset

PARK = 0.05
"""Seconds until a parked listener is tried again."""
ACCEPTS = 8
"""Connections accepted in one turn.  Few, so that those of this turn are served while the processor's caches hold them,
and others wait in the queue: 64 cost 3 to 4 % of the rate at 256 connections at a time, 7 % at 32."""
CREW_ACCEPTS = 4
"""The same where other processes accept too."""
_STREAM = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
_TCP, _NODELAY, _SOCKET, _KEEPALIVE = map(
    int, (socket.IPPROTO_TCP, socket.TCP_NODELAY, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
)
_SCTP_NODELAY = 3
"""linux/sctp.h"""
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Reserve:
    """One descriptor put aside, for the dialling of a connection that has been accepted with the last free one."""

    def __init__(self) -> None:
        self._fd = -1

        self.full = False

    def refill(self) -> bool:
        """True when the reserve is full."""
        if not self.full:
            try:
                self._fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
            self.full = True
        return True

    def spend(self) -> None:
        if self.full:
            os.close(self._fd)
            self.full = False


class TcpShared(NamedTuple):
    """What all TCP ports of the process share."""

    loop: asyncio.AbstractEventLoop
    lane: Lane
    relay: Relay
    copier: Relay
    """For sockets that can not be spliced."""
    reserve: Reserve
    pool: BulkPool
    live: Live
    accepts: int = ACCEPTS


class TcpPort:
    def __init__(self, shared: TcpShared, spec: PortSpec, sock: Socket) -> None:
        """*sock* is bound; whether it listens already does not matter.  OSError when it can not."""
        self.id, self.proto, self.drain = spec.id, spec.proto, spec.drain
        self.target = spec.target
        self.proxy_protocol, self.transparent = spec.proxy_protocol, spec.transparent
        self.counters, self.times = Counters(), Times()
        self.listener = sock
        self._loop, self._lane, self._relay, copier, self._reserve, self._pool, self._all_live, self._accepts = shared
        self._ip_proto = 0
        if spec.proto == "sctp":
            self._relay, self._ip_proto = copier, socket.IPPROTO_SCTP
        self._live: set[Connection] = set()
        self._parked: asyncio.TimerHandle | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._set_options(sock)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(BACKLOG)

    def _set_options(self, sock: Socket) -> None:
        if self._ip_proto:
            sock.setsockopt(self._ip_proto, _SCTP_NODELAY, 1)
        else:
            sock.setsockopt(_TCP, _NODELAY, 1)
            sock.setsockopt(_SOCKET, _KEEPALIVE, 1)

    def start(self) -> None:
        self._lane.add(self.listener.fileno(), EPOLLIN | EPOLLEXCLUSIVE, self._on_acceptable)

    def spec(self) -> PortSpec:
        return PortSpec(self.id, self.proto, self.target, self.drain, self.proxy_protocol, self.transparent)

    def update(self, spec: PortSpec) -> None:
        """New connections are as *spec* says; live ones stay as they are."""
        self.drain, self.target = spec.drain, spec.target
        self.proxy_protocol, self.transparent = spec.proxy_protocol, spec.transparent

    def retarget(self, target: Target) -> None:
        """New connections go to *target*; live ones stay where they are."""
        self.target = target

    # -- new connections ---------------------------------------------------------------------------------------

    def _on_acceptable(self, events: int) -> None:
        self._lane.ready.append(self._accept)  # not now: lane.py says why

    def _accept(self) -> None:
        if self.listener.fileno() < 0:
            return
        # accept() of the Python class would make the object twice
        accept: Callable[[], tuple[int, tuple[Any, ...]]] = self.listener._accept  # type: ignore[attr-defined]  # pyright: ignore
        reserve = self._reserve
        kind, proto, family = socket.SOCK_STREAM, self._ip_proto, self.listener.family
        for _ in range(self._accepts):
            if not reserve.full and not reserve.refill():
                self._park()
                return
            try:
                fd, address = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORTAGE:
                    self._park()
                    return
                if error.errno in (errno.EINVAL, errno.EBADF):
                    # somebody has shut the shared listener down: it will never bring a connection again, only events
                    self.counters.errors += 1
                    self._lane.remove(self.listener.fileno())
                    return
                continue  # ECONNABORTED and network errors that belong to the one connection (accept(2))
            self._dial(Socket(family, kind, proto, fd), address)

    def _dial(self, client: Socket, address: tuple[Any, ...]) -> None:
        client.setblocking(False)
        counters, target = self.counters, self.target
        counters.connections += 1
        try:
            try:
                sock = Socket(target.family, _STREAM, self._ip_proto)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._reserve.spend()
                sock = Socket(target.family, _STREAM, self._ip_proto)
        except OSError:
            counters.errors += 1
            reset(client)
            self._park()
            return
        self._set_options(sock)
        if self.transparent:
            try:
                transparent.bind(sock, address, target)
            except OSError:  # no right any more, or no port is left for this client
                counters.errors += 1
                reset(client)
                sock.close()
                return
        result = sock.connect_ex(target.address)
        if result not in (0, errno.EINPROGRESS):
            counters.refused += 1
            reset(client)
            sock.close()
            return
        connection = Connection(self._relay, client, sock, self, established=False)
        if self.proxy_protocol:
            connection.up.rest = proxyproto.header(self.proxy_protocol, address, client.getsockname())
        counters.active += 1
        self._live.add(connection)
        self._all_live.begin(connection)
        try:
            connection.start()
        except OSError:  # the limit of watches or of memory (epoll_ctl(2))
            self._relay.abort(connection)

    def _park(self) -> None:
        if self._parked is None and self.listener.fileno() in self._lane.handlers:
            self._lane.remove(self.listener.fileno())  # an exclusive watch can not be changed (epoll_ctl(2))
            self._parked = self._loop.call_later(PARK, self._unpark)
            self._lane.wake = True

    def _unpark(self) -> None:
        self._parked = None
        try:
            self.start()
        except OSError:
            self._parked = self._loop.call_later(PARK, self._unpark)

    # -- the end of connections --------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """Owner: the target has accepted."""
        self.times.add(self._all_live.connected(connection))

    def ended(self, connection: Connection, how: str) -> None:
        """Owner: a connection of this process has ended."""
        self._live.discard(connection)
        self._all_live.leave(connection)
        counters = self.counters
        counters.active -= 1
        counters.bytes_in += connection.up.total
        counters.bytes_out += connection.down.total
        if how == RESET:
            counters.errors += 1
        elif how == REFUSED:
            counters.refused += 1
        if self._drain_timer is not None:
            self.check_drained()

    def moved(self, connection: Connection) -> None:
        """The connection goes on in a bulk worker, which counts from the totals it was given."""
        self._live.discard(connection)
        self._all_live.leave(connection)

    def connections(self) -> set[Connection]:
        """The live ones of this process; not to be changed."""
        return self._live

    def stats(self) -> PortStats:
        """Counters with the bytes of live connections in this process included, and times to the target."""
        result = self.counters.told(self.proto)
        result["connect"] = self.times.told()
        for connection in self._live:
            result["bytes_in"] += connection.up.total
            result["bytes_out"] += connection.down.total
        return result

    # -- withdrawal --------------------------------------------------------------------------------------------

    def stop_listening(self) -> None:
        """Close the listener.  Clients in its queue are reset, unless another process holds the same socket."""
        if self._parked is not None:
            self._parked.cancel()
            self._parked = None
        fd = self.listener.fileno()
        if fd >= 0:
            if fd in self._lane.handlers:
                self._lane.remove(fd)
            self.listener.close()

    def withdraw(self, drain: float) -> None:
        """Stop listening; reset what is still live after *drain* seconds."""
        self.stop_listening()
        if self.counters.active == 0:
            return
        if drain <= 0:
            self._cut()
            return
        self._drain_timer = self._loop.call_later(drain, self._cut)
        self._lane.wake = True

    def check_drained(self) -> None:
        """Owner of a connection in a worker: one has ended."""
        if self._drain_timer is not None and self.counters.active == 0:
            self._drain_timer.cancel()
            self._drain_timer = None

    def _cut(self) -> None:
        self._drain_timer = None
        for connection in list(self._live):
            self._relay.abort(connection)
        self._pool.cut(self)
