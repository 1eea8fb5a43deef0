"""The forwarder: one process that serves every published port of an instance.

    python -I -m pynet.proxy.process.forwarder --run RUN [--ready-fd N] [--bulk N] [--workers N] [--drain SECONDS]
    python -I -m pynet.proxy.process.forwarder --control-fd N         for a program that holds the other end (api.py, crew.py)

    RUN/forwarder.sock --> ControlServer --> Forwarder --> TcpPort   --> Relay --> Connection --> BulkPool -> workers
       (control.py)                          (a table)     (tcp.py)     (relay.py)               (bulkpool.py, bulk.py)
                                                       `-> UdpPort (udp.py, mmsg.py)
                                  |--> Guard (guard.py)
                                  |--> Crew (crew.py): further processes on the same listeners
                                  `--> Exposition (metrics.py)
    all of them in one thread, on one epoll set: Lane (lane.py)

It binds nothing: sockets are bound by whoever publishes, and passed in.  So an address in use is an error at publish
time, and a forwarder that dies loses no port as long as somebody else holds a copy; conversely ``fetch`` hands the
copies back to a control daemon that has died.

A forwarder is replaced without a lost connection: ``fetch``, then ``shutdown`` with a drain, which gives the listeners,
the lock and the control socket up at once and ends with its last live connection; then the next one ``listen``s
(client.replace).  Clients that come between wait in the queues of the sockets that were fetched.

RUN/forwarder.lock says that nobody else serves; it is released by the kernel whatever the end.  The process is ready
when its control socket accepts; ``--ready-fd`` also says so: "0\\n", or "1\\n" and why not.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import heapq
import os
import resource
import signal
import socket
import sys
from functools import partial
from operator import attrgetter, itemgetter
from time import monotonic
from typing import Any

from ...netlib import ipc
from ...netlib.errors import InvalidArgument, NotFound, NotSupported, PynetError, RootBusy
from ...netlib.ipc import Message
from ..dataplane import transparent
from ..dataplane.bulkpool import BulkPool
from ..dataplane.lane import Lane
from ..dataplane.live import Live, describe
from ..dataplane.metrics import Exposition, merge
from ..dataplane.pipes import PipePool
from ..dataplane.relay import Relay, Socket
from ..dataplane.tcp import ACCEPTS, CREW_ACCEPTS, Reserve, TcpPort, TcpShared
from ..dataplane.udp import Batches, Clients, UdpPort, UdpShared
from ..ports import MAX_DRAIN, PortSpec, Target
from .control import ControlServer
from .crew import Crew
from .guard import Guard
from .options import Options, parser

__all__ = ["LOCK", "SOCKET", "Forwarder", "Options", "check_sctp", "main", "serve", "take_lock"]

SOCKET, LOCK = "forwarder.sock", "forwarder.lock"

Port = TcpPort | UdpPort


_LOOK = 0.05
"""Seconds between two looks at what is left to drain."""
_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


def check_sctp() -> None:
    """NotSupported where the kernel has no SCTP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError as error:
        raise NotSupported(
            f"this kernel has no SCTP: {error.strerror}",
            hint="load the module sctp (modprobe sctp), where there is one",
        ) from error


def _adopt(spec: PortSpec, fd: int) -> Socket:
    """The socket behind *fd*, which is taken when this succeeds.  InvalidArgument when it can not serve *spec*."""
    if spec.proto == "sctp":
        check_sctp()
    try:
        sock = Socket(fileno=fd)
    except OSError as error:
        raise InvalidArgument(f"the descriptor of port {spec.id} is not a socket") from error
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or (sock.type, sock.proto) != _KINDS[spec.proto]:
            raise InvalidArgument(f"the descriptor of port {spec.id} is not a {spec.proto} socket")
        if sock.getsockname()[1] == 0:
            raise InvalidArgument(f"the socket of port {spec.id} is not bound")
        if spec.transparent:
            transparent.check(sock, spec.target)
    except BaseException:
        sock.detach()
        raise
    return sock


class Forwarder:
    """The table of ports, by id."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, options: Options) -> None:
        self.loop, self.lane = loop, lane
        self.guard = Guard(loop, options.nofile)
        self.pool = BulkPool(loop, lane, options.bulk)
        self.default_drain, self.workers = options.drain, options.workers
        self.live = Live(loop, lane, options.connect_timeout)
        self._tcp = TcpShared(
            loop,
            lane,
            Relay(lane, PipePool(), self.pool if options.bulk else None),
            Relay(lane, PipePool(limit=0), messages=True),
            Reserve(),
            self.pool,
            self.live,
            CREW_ACCEPTS if options.workers > 1 or options.graceful else ACCEPTS,
        )
        member_options = ["--bulk", str(options.bulk), "--connect-timeout", str(options.connect_timeout)]
        self.crew = Crew(loop, options.workers - 1, member_options, self._everything)
        self._exposition: Exposition | None = None
        self._retired = False
        self._udp = UdpShared(lane, Clients(loop, lane, options.udp_clients, options.udp_idle), Batches())
        self._ports: dict[str, Port] = {}
        self.stopped = asyncio.Event()

    def listen(self, specs: list[PortSpec], fds: list[int]) -> None:
        """Serve *specs* on *fds*, all or none.  Takes the descriptors out of *fds* as they find an owner.

        An id that is served already on the very same socket is brought up to date, and its live connections stay: a
        control daemon that comes back may say everything again.  On another socket it is replaced: the old socket is
        closed and its live connections drain.
        """
        made: list[Port] = []
        known: list[tuple[Port, PortSpec]] = []
        try:
            for spec in specs:
                sock = _adopt(spec, fds[0])
                del fds[0]
                served = self._ports.get(spec.id)
                if served is not None and os.path.sameopenfile(served.listener.fileno(), sock.fileno()):
                    known.append((served, spec))
                    sock.close()
                    continue
                try:
                    made.append(
                        UdpPort(self._udp, spec, sock) if spec.proto == "udp" else TcpPort(self._tcp, spec, sock)
                    )
                except OSError as error:
                    sock.close()
                    raise InvalidArgument(f"the socket of port {spec.id} can not serve: {error.strerror}") from error
            started = 0
            try:
                for port in made:
                    port.start()
                    started += 1
            except OSError as error:
                raise InvalidArgument(f"port {made[started].id} can not be watched: {error.strerror}") from error
        except BaseException:
            for port in made:
                port.stop_listening()
            raise
        for port, spec in known:
            if isinstance(port, TcpPort):
                port.update(spec)
            else:
                port.drain = spec.drain
                port.retarget(spec.target)
        for port in made:
            old = self._ports.get(port.id)
            if old is not None:
                old.withdraw(old.drain)
            self._ports[port.id] = port

    def retarget(self, changes: list[tuple[str, Target]]) -> None:
        """All or none.  NotFound for an id that is not served."""
        for name, _ in changes:
            if name not in self._ports:
                raise NotFound(f"port {name} is not served")
        for name, target in changes:
            self._ports[name].retarget(target)

    def withdraw(self, ids: list[str], drain: float | None) -> None:
        """Ids that are not served are withdrawn already.  *drain* None: what each port's ``listen`` said."""
        for name in ids:
            port = self._ports.pop(name, None)
            if port is not None:
                port.withdraw(port.drain if drain is None else drain)

    def held(self) -> list[Port]:
        return list(self._ports.values())

    def streams(self, ids: list[str]) -> list[TcpPort]:
        """Those of *ids* that the crew serves too."""
        found = [self._ports.get(name) for name in ids]
        return [port for port in found if isinstance(port, TcpPort)]

    def listen_message(self, ids: list[str]) -> tuple[Message, list[int]]:
        """The ``listen`` that makes the crew serve *ids*."""
        ports = self.streams(ids)
        return {"op": "listen", "ports": [port.spec().entry() for port in ports]}, [
            port.listener.fileno() for port in ports
        ]

    def _everything(self) -> tuple[Message, list[int]]:
        return self.listen_message(list(self._ports))

    async def stats(self) -> dict[str, Any]:
        """Counters by port, those of the crew and of bulk workers included."""
        asked = self.crew.spread({"op": "stats"}, [])
        await self.pool.refresh()
        in_workers = self.pool.totals()
        result: dict[str, dict[str, Any]] = {}
        for name, port in self._ports.items():
            stats = result[name] = {"proto": port.proto, **port.stats()}
            if isinstance(port, TcpPort) and port in in_workers:
                up, down = in_workers[port]
                stats["bytes_in"] += up
                stats["bytes_out"] += down
        pids, workers = [os.getpid()], [worker.pid for worker in self.pool.workers]
        for answer in await asked if asked else []:
            pids.append(answer["pid"])
            workers += answer["workers"]
            for name, more in answer["ports"].items():
                if name in result:
                    merge(result[name], more)
        return {"pid": os.getpid(), "processes": pids, "workers": workers, "ports": result}

    async def connections(self, name: str, limit: int) -> dict[str, Any]:
        """The *limit* oldest live connections of a port, and how many there are."""
        port = self._ports.get(name)
        if port is None:
            raise NotFound(f"port {name} is not served")
        if not isinstance(port, TcpPort):
            raise NotSupported("connections are listed for tcp and sctp ports; udp has none")
        asked = self.crew.spread({"op": "connections", "id": name, "limit": limit}, [])
        await self.pool.refresh()
        now, pid = monotonic(), os.getpid()
        oldest = heapq.nsmallest(limit, port.connections(), key=attrgetter("started"))
        found = [{**describe(connection, now), "pid": pid} for connection in oldest]
        found += self.pool.connections(port, now)
        total = port.counters.active
        for answer in await asked if asked else []:
            found += answer["connections"]
            total += answer["total"]
        found.sort(key=itemgetter("age"), reverse=True)
        return {"total": total, "connections": found[:limit]}

    async def expose(self, sock: socket.socket | None) -> None:
        """Answer Prometheus on *sock*, in place of where it was answered before; None: nowhere."""
        exposition = None
        if sock is not None:
            exposition = Exposition(self.stats)
            try:
                await exposition.open(sock)
            except OSError as error:
                sock.close()
                raise InvalidArgument(f"the metrics socket can not serve: {error.strerror}") from error
        if self._exposition is not None:
            self._exposition.close()
        self._exposition = exposition

    # -- the end -----------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        self.stopped.set()
        self.lane.wake = True

    def retire(self, drain: float) -> None:
        """Give every port up now, and stop when the last live connection has ended, after *drain* seconds at most.

        Connections in bulk workers are not waited for: a worker outlives its forwarder.
        """
        if self._retired:
            return
        self._retired = True
        self.guard.close()
        self.crew.retire(drain)
        if self._exposition is not None:
            self._exposition.close()
        self.live.on_empty = self.request_stop
        self.withdraw(list(self._ports), drain)
        if not self.live.count:
            self.request_stop()

    async def drain(self, seconds: float) -> None:
        """Give every port up now, and return when the last live connection has ended, at the latest after *seconds*.

        Unlike ``retire``, those in other processes are waited for: this is for one whose children end with it.
        """
        ids = list(self._ports)
        self.crew.spread({"op": "withdraw", "ids": ids, "drain": seconds}, [])
        self.withdraw(ids, seconds)
        end = monotonic() + seconds
        while monotonic() < end:
            asked = self.crew.spread({"op": "ping"}, [])
            answers = await asked if asked else []
            if not self.live.count + self.pool.live + sum(answer["live"] for answer in answers):
                return
            await asyncio.sleep(_LOOK)  # nothing tells of the end of a connection in another process

    async def close(self) -> None:
        self.guard.close()
        if self._exposition is not None:
            self._exposition.close()
        self.withdraw(list(self._ports), 0.0)
        self.live.close()
        if not self._retired:
            await self.crew.close()
            await self.pool.close()


def take_lock(run: str) -> int:
    """Hold RUN/forwarder.lock for the life of the process, or raise RootBusy."""
    fd = os.open(os.path.join(run, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise RootBusy(run, "a forwarder") from error
    return fd


async def serve(lane: Lane, listener: socket.socket | None, lock: int | None, options: Options) -> None:
    loop = asyncio.get_running_loop()
    forwarder = Forwarder(loop, lane, options)
    control = ControlServer(loop, listener, forwarder)

    def retire(drain: float) -> None:
        """What a successor needs is free when this returns."""
        control.leave()
        if lock is not None:
            os.close(lock)
        forwarder.retire(drain)

    control.retire = retire
    if options.control_fd is not None:
        on_end = partial(forwarder.retire, MAX_DRAIN) if options.graceful else forwarder.request_stop
        control.adopt(socket.socket(fileno=options.control_fd), on_end)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, forwarder.request_stop)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"0\n")
        os.close(options.ready_fd)  # before the crew starts, which would hold it open
    forwarder.crew.start()
    # what lives now lives as long as the process: the collector need not visit it again
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await forwarder.stopped.wait()
    await forwarder.close()
    control.close()


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv, Options())
    listener = lock = None
    if options.run:
        try:
            os.makedirs(options.run, mode=0o711, exist_ok=True)
            lock = take_lock(options.run)
            listener = ipc.listen(os.path.join(options.run, SOCKET))
        except (PynetError, OSError) as error:
            print(f"pynet forwarder: {error}", file=sys.stderr)
            if options.ready_fd is not None:
                os.write(options.ready_fd, f"1\n{error}\n".encode())
            return 1
    options.nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = options.nofile[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lane = Lane()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
        runner.run(serve(lane, listener, lock, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
