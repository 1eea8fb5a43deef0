"""The forwarder: one process that serves every published port of an instance.

    python -I -m pynet.proxy.forwarder --run RUN [--ready-fd N] [--bulk N]

    RUN/forwarder.sock --> ControlServer --> Forwarder --> TcpPort   --> Relay --> Connection --> BulkPool -> workers
       (control.py)                          (a table)     (tcp.py)     (relay.py)               (bulkpool.py, bulk.py)
                                                       `-> UdpPort (udp.py, mmsg.py)
                                  `--> Guard (guard.py)
    all of them in one thread, on one epoll set: Lane (lane.py)

It binds nothing: sockets are bound by whoever publishes, and passed in.  So an address in use is an error at publish
time, and a forwarder that dies loses no port as long as somebody else holds a copy; conversely ``fetch`` hands the
copies back to a control daemon that has died.

RUN/forwarder.lock says that nobody else serves; it is released by the kernel whatever the end.  The process is ready
when its control socket accepts; ``--ready-fd`` also says so: "0\\n", or "1\\n" and why not.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import os
import resource
import signal
import socket
import sys
from typing import Any

from ..netlib import ipc
from ..netlib.errors import InvalidArgument, NotFound, PynetError, RootBusy
from .bulkpool import BulkPool
from .control import ControlServer
from .guard import Guard
from .lane import Lane
from .pipes import PipePool
from .ports import PortSpec, Target
from .relay import Relay, Socket
from .tcp import Reserve, TcpPort, TcpShared
from .udp import IDLE, LIMIT, Batches, Clients, UdpPort, UdpShared

SOCKET, LOCK = "forwarder.sock", "forwarder.lock"

Port = TcpPort | UdpPort


def _adopt(spec: PortSpec, fd: int) -> Socket:
    """The socket behind *fd*, which is taken when this succeeds.  InvalidArgument when it can not serve *spec*."""
    try:
        sock = Socket(fileno=fd)
    except OSError as error:
        raise InvalidArgument(f"the descriptor of port {spec.id} is not a socket") from error
    wanted = socket.SOCK_STREAM if spec.proto == "tcp" else socket.SOCK_DGRAM
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != wanted:
            raise InvalidArgument(f"the descriptor of port {spec.id} is not a {spec.proto} socket")
        if sock.getsockname()[1] == 0:
            raise InvalidArgument(f"the socket of port {spec.id} is not bound")
    except BaseException:
        sock.detach()
        raise
    return sock


class Options(argparse.Namespace):
    run: str
    ready_fd: int | None
    bulk: int
    udp_idle: float
    udp_clients: int
    nofile: tuple[int, int] | None = None
    """The limit of open files before it was raised."""


class Forwarder:
    """The table of ports, by id."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, options: Options) -> None:
        self.loop, self.lane = loop, lane
        self.guard = Guard(loop, options.nofile)
        self.pool = BulkPool(loop, lane, options.bulk)
        relay = Relay(lane, PipePool(), self.pool if options.bulk else None)
        self._tcp = TcpShared(loop, lane, relay, Reserve(), self.pool)
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
                        TcpPort(self._tcp, spec, sock) if spec.proto == "tcp" else UdpPort(self._udp, spec, sock)
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

    async def stats(self) -> dict[str, Any]:
        await self.pool.refresh()
        in_workers = self.pool.totals()
        result: dict[str, dict[str, int]] = {}
        for name, port in self._ports.items():
            stats = result[name] = port.stats()
            if isinstance(port, TcpPort) and port in in_workers:
                up, down = in_workers[port]
                stats["bytes_in"] += up
                stats["bytes_out"] += down
        return {"pid": os.getpid(), "workers": [worker.pid for worker in self.pool.workers], "ports": result}

    def request_stop(self) -> None:
        self.stopped.set()

    async def close(self) -> None:
        self.guard.close()
        self.withdraw(list(self._ports), 0.0)
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


async def serve(lane: Lane, listener: socket.socket, options: Options) -> None:
    loop = asyncio.get_running_loop()
    forwarder = Forwarder(loop, lane, options)
    control = ControlServer(loop, listener, forwarder)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, forwarder.request_stop)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"0\n")
        os.close(options.ready_fd)
    # what lives now lives as long as the process: the collector need not visit it again
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await forwarder.stopped.wait()
    await forwarder.close()
    control.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="pynet.proxy.forwarder", description="Serve the published ports of a run directory."
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="directory of the control socket and the lock")
    parser.add_argument(
        "--ready-fd", type=int, metavar="N", help="write 0 or 1 and a newline here when ready or failed"
    )
    cpus = len(os.sched_getaffinity(0))
    parser.add_argument("--bulk", type=int, default=max(1, min(4, cpus // 2)), metavar="N", help="most bulk workers")
    parser.add_argument(
        "--udp-idle", type=float, default=IDLE, metavar="S", help="seconds until a UDP client is forgotten"
    )
    parser.add_argument("--udp-clients", type=int, default=LIMIT, metavar="N", help="most UDP clients at one time")
    options = parser.parse_args(argv, Options())
    try:
        os.makedirs(options.run, mode=0o711, exist_ok=True)
        take_lock(options.run)
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
        runner.run(serve(lane, listener, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
