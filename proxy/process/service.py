"""The ports that are served, by id, and all that they share: what a control connection, or a program, asks for.

    listen, retarget, withdraw --> TcpPort, UdpPort (dataplane) --+--> the crew, which is told the same (crew.py)
    stats, connections <-- their counters, the bulk workers' and the crew's

What changes takes effect here before the method returns; what it returns, if anything, is done when the crew has followed.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import socket
from collections.abc import Iterable, Iterator
from functools import partial
from operator import attrgetter, itemgetter
from time import monotonic

from ...netlib.control.questions import Frame
from ...netlib.errors import InvalidArgument, NotFound, NotSupported
from ...netlib.ports.told import Connection, Connections, PortStats, Stats
from ..dataplane import transparent
from ..dataplane.bulkpool import BulkPool
from ..dataplane.counters import merge
from ..dataplane.lane import Lane
from ..dataplane.live import Live, describe
from ..dataplane.pipes import PipePool
from ..dataplane.relay import Relay, Socket
from ..dataplane.tcp import ACCEPTS, CREW_ACCEPTS, Reserve, TcpPort, TcpShared
from ..dataplane.udp import Batches, Clients, UdpPort, UdpShared
from ..ports import PAGE, PortSpec, Target
from . import beside, messages
from .crew import Crew, Followed
from .guard import Guard
from .metrics import Exposition
from .options import Options

Port = TcpPort | UdpPort


NAMES = "names.sock"
"""In the run directory: the name server's, which has a part of the metrics page."""
_STATS_PAGE = 5000
"""Ports that a member of the crew tells of in one frame."""
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


class Service:
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
        self._beside = partial(beside.exposition, os.path.join(options.run, NAMES)) if options.run else None
        self.ports: dict[str, Port] = {}
        """By id; for reading."""
        self.stopped = asyncio.Event()

    def listen(self, specs: list[PortSpec], fds: list[int]) -> Followed:
        """Serve *specs* on *fds*, all or none.  Takes the descriptors out of *fds* as they find an owner.

        An id that is served already on the very same socket is brought up to date, and its live connections stay: a
        control daemon that comes back may say everything again.  On another socket it is replaced: the old socket is
        closed and its live connections drain.  Clients meet one or the other, and no moment between.
        """
        made: list[Port] = []
        known: list[tuple[Port, PortSpec]] = []
        try:
            for spec in specs:
                sock = _adopt(spec, fds[0])
                del fds[0]
                served = self.ports.get(spec.id)
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
            old = self.ports.get(port.id)
            if old is not None:
                old.withdraw(old.drain)
            self.ports[port.id] = port
        return self._crew_listens([spec.id for spec in specs])

    def retarget(self, changes: list[tuple[str, Target]]) -> Followed:
        """All or none.  NotFound for an id that is not served."""
        for name, _ in changes:
            if name not in self.ports:
                raise NotFound(f"port {name} is not served")
        for name, target in changes:
            self.ports[name].retarget(target)
        entries = [
            {"id": name, "target": [target.ip, target.port]}
            for name, target in changes
            if isinstance(self.ports[name], TcpPort)
        ]
        return self.crew.spread(lambda: [({"op": "retarget", "ports": entries}, [])]) if entries else None

    def withdraw(self, ids: list[str], drain: float | None) -> Followed:
        """Ids that are not served are withdrawn already.  *drain* None: what each port's ``listen`` said."""
        for name in ids:
            port = self.ports.pop(name, None)
            if port is not None:
                port.withdraw(port.drain if drain is None else drain)
        return self._crew_withdraws(ids, drain)

    # -- the crew ----------------------------------------------------------------------------------------------

    def _streams(self, ids: Iterable[str]) -> list[TcpPort]:
        """Those of *ids* that the crew serves too."""
        found = [self.ports.get(name) for name in ids]
        return [port for port in found if isinstance(port, TcpPort)]

    def _listen_frames(self, ids: list[str]) -> Iterator[Frame]:
        """Each made when the one before was answered: of ports that were withdrawn meanwhile nothing is said."""
        for first in range(0, len(ids), PAGE):
            ports = self._streams(ids[first : first + PAGE])
            if ports:
                yield (
                    {"op": "listen", "ports": [port.spec().entry() for port in ports]},
                    [port.listener.fileno() for port in ports],
                )

    def _everything(self) -> Iterator[Frame]:
        return self._listen_frames(list(self.ports))

    def _crew_listens(self, ids: list[str]) -> Followed:
        if not self.crew.members:
            return None
        streams = [port.id for port in self._streams(ids)]
        followed: Followed = None
        if len(streams) < len(ids):
            # an id that is a udp port now may have been another's
            known = set(streams)
            followed = self._crew_withdraws([name for name in ids if name not in known], None)
        return self.crew.spread(lambda: self._listen_frames(streams)) if streams else followed

    def _crew_withdraws(self, ids: list[str], drain: float | None) -> Followed:
        return self.crew.spread(lambda: [(messages.withdraw(ids, drain), [])])

    # -- what is told ------------------------------------------------------------------------------------------

    async def stats(self, ids: Iterable[str] | None = None) -> Stats:
        """Counters by port, those of the crew and of bulk workers included.  *ids*: of those that are served; None: all."""
        wanted = list(self.ports) if ids is None else list(ids)
        pages = [wanted[first : first + _STATS_PAGE] for first in range(0, max(len(wanted), 1), _STATS_PAGE)]
        asked = self.crew.ask(lambda: [({"op": "stats", "ids": some}, []) for some in pages])
        await self.pool.refresh()
        in_workers = self.pool.totals()
        result: dict[str, PortStats] = {}
        for name in wanted:
            port = self.ports.get(name)
            if port is None:
                continue
            stats = result[name] = port.stats()
            if isinstance(port, TcpPort) and port in in_workers:
                up, down = in_workers[port]
                stats["bytes_in"] += up
                stats["bytes_out"] += down
        pids, workers = [os.getpid()], [worker.pid for worker in self.pool.workers]
        for answer in await asked if asked else []:
            if answer["pid"] not in pids:
                pids.append(answer["pid"])
                workers += answer["workers"]
            for name, more in answer["ports"].items():
                if name in result:
                    merge(result[name], more)
        return {"pid": os.getpid(), "processes": pids, "workers": workers, "ports": result}

    async def connections(self, name: str, limit: int) -> Connections:
        """The *limit* oldest live connections of a port, and how many there are."""
        port = self.ports.get(name)
        if port is None:
            raise NotFound(f"port {name} is not served")
        if not isinstance(port, TcpPort):
            raise NotSupported("connections are listed for tcp and sctp ports; udp has none")
        asked = self.crew.ask(lambda: [({"op": "connections", "id": name, "limit": limit}, [])])
        await self.pool.refresh()
        now = monotonic()
        oldest = heapq.nsmallest(limit, port.connections(), key=attrgetter("started"))
        found: list[Connection] = [describe(connection, now) for connection in oldest]
        found += self.pool.connections(port, now)
        total = port.counters.active
        for answer in await asked if asked else []:
            found += answer["connections"]
            total += answer["total"]
        found.sort(key=itemgetter("age"), reverse=True)
        return {"total": total, "connections": found[:limit]}

    @property
    def live_here(self) -> int:
        """Live TCP connections of this process and its bulk workers."""
        return self.live.count + self.pool.live

    async def expose(self, sock: socket.socket | None) -> None:
        """Answer Prometheus on *sock*, in place of where it was answered before; None: nowhere."""
        exposition = None
        if sock is not None:
            exposition = Exposition(self.stats, self._beside)
            try:
                await exposition.open(sock)
            except OSError as error:
                sock.close()
                raise InvalidArgument(f"the metrics socket can not serve: {error.strerror}") from error
        before, self._exposition = self._exposition, exposition
        if before is not None:
            await before.close()

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
            self._exposition.stop()
        self.live.on_empty = self.request_stop
        self.withdraw(list(self.ports), drain)
        if not self.live.count:
            self.request_stop()

    async def drain(self, seconds: float) -> None:
        """Give every port up now, and return when the last live connection has ended, at the latest after *seconds*.

        Unlike ``retire``, those in other processes are waited for: this is for one whose children end with it.
        """
        self.withdraw(list(self.ports), seconds)
        end = monotonic() + seconds
        while monotonic() < end:
            asked = self.crew.ask(lambda: [({"op": "ping"}, [])])
            answers = await asked if asked else []
            if not self.live_here + sum(answer["live"] for answer in answers):
                return
            await asyncio.sleep(_LOOK)  # nothing tells of the end of a connection in another process

    async def close(self) -> None:
        self.guard.close()
        if self._exposition is not None:
            await self._exposition.close()
        self.withdraw(list(self.ports), 0.0)
        self.live.close()
        if not self._retired:
            await self.crew.close()
            await self.pool.close()
