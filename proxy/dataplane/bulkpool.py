"""The forwarder's side of its bulk workers: start them late, hand connections over, learn how they ended.

A worker is started when the first connection grows past the elephant's size, so an idle forwarder has none; that
connection and others go on here until the worker has said HELLO.  Another is started when each has ``_CROWD``
connections, up to ``limit``.  A worker that dies takes its connections with it (the kernel resets or ends them), and
nothing else; the next elephant starts a new one.

How workers are started: start.py.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Protocol

from ...netlib.ports import told
from ..start import Child, command, start
from . import bulkwire
from .bulkwire import Record, Wire
from .counters import Counters
from .lane import Lane
from .live import ends
from .relay import Connection

_CROWD = 4
_REPORT_TIMEOUT = 1.0
_RESTART = 1.0
"""Seconds between two starts of workers: one that dies at once must not become a loop."""


class Port(Protocol):
    """Whose connections move into workers: the owner of each (tcp.TcpPort)."""

    counters: Counters

    def moved(self, connection: Connection) -> None:
        """It goes on in a worker, which counts from the totals that it was given."""
        ...

    def check_drained(self) -> None:
        """One in a worker has ended."""
        ...


class _Adopted:
    """A connection that lives in a worker: whose it is, its ends, and its totals as last heard."""

    __slots__ = ("down", "ends", "port", "started", "up")

    def __init__(self, port: Port, connection: Connection) -> None:
        self.port, self.up, self.down = port, connection.up.total, connection.down.total
        self.ends, self.started = ends(connection), connection.started


class _Worker:
    def __init__(self, pool: BulkPool) -> None:
        self.pool = pool
        self.said_hello = False
        self.connections: dict[int, _Adopted] = {}
        self.reports: list[asyncio.Future[None]] = []
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                argv = command("pynet.proxy.dataplane.bulk", str(its.fileno()))
                self._child = Child(pool.loop, start(argv, [its.fileno()]), self._on_exit)
            except BaseException:
                ours.close()
                raise
        self.pid = self._child.pid
        self.wire = Wire(pool.lane, ours, self._on_record, self.lost)

    def _on_record(self, record: Record, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        match record.kind:
            case bulkwire.HELLO:
                self.said_hello = True
            case bulkwire.PROGRESS:
                adopted = self.connections.get(record.id)
                if adopted is not None:
                    adopted.up, adopted.down = record.up, record.down
            case bulkwire.ENDED:
                adopted = self.connections.pop(record.id, None)
                if adopted is not None:
                    adopted.up, adopted.down = record.up, record.down
                    self.pool.count_end(adopted, failed=bool(record.flags & bulkwire.FAILED))
            case bulkwire.REPORTED:
                self._reported()
            case _:
                pass

    def _reported(self) -> None:
        reports, self.reports = self.reports, []
        for future in reports:
            if not future.done():
                future.set_result(None)
        self.pool.lane.wake = True

    def lost(self) -> None:
        """The worker is gone, and its connections with it."""
        self.wire.close()
        if self in self.pool.workers:
            self.pool.workers.remove(self)
        connections, self.connections = self.connections, {}
        for adopted in connections.values():
            self.pool.count_end(adopted, failed=True)
        self._reported()

    def _on_exit(self) -> None:
        self.lost()
        self.pool.exited(self)


class BulkPool:
    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, limit: int) -> None:
        """*limit* workers at most; 0 for none."""
        self.loop, self.lane, self.limit = loop, lane, limit
        self.workers: list[_Worker] = []
        self._running: set[_Worker] = set()
        self._next_id = 0
        self._next_start = 0.0
        self._all_gone: asyncio.Future[None] | None = None

    # -- BulkTaker ---------------------------------------------------------------------------------------------

    def take(self, connection: Connection) -> bool:
        worker = min(
            (worker for worker in self.workers if worker.said_hello),
            key=lambda worker: len(worker.connections),
            default=None,
        )
        if worker is None or len(worker.connections) >= _CROWD:
            self._start_another()
        if worker is None:
            return False
        up, down = connection.up, connection.down
        flags = (bulkwire.UP_ENDED if up.ended else 0) | (bulkwire.DOWN_ENDED if down.ended else 0)
        self._next_id += 1
        record = Record(bulkwire.ADOPT, flags, self._next_id, up.total, down.total)
        if not worker.wire.try_send_descriptors(record, [up.source_fd, down.source_fd]):
            return False
        port: Port = connection.owner  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        worker.connections[self._next_id] = _Adopted(port, connection)
        port.moved(connection)
        return True

    def _start_another(self) -> None:
        now = self.loop.time()
        if len(self._running) >= self.limit or now < self._next_start:
            return
        if any(not worker.said_hello for worker in self.workers):
            return
        self._next_start = now + _RESTART
        try:
            worker = _Worker(self)
        except OSError as error:
            print(f"pynet forwarder: no bulk worker could be started: {error}", file=sys.stderr, flush=True)
            return
        self.workers.append(worker)
        self._running.add(worker)

    # -- accounts ----------------------------------------------------------------------------------------------

    def count_end(self, adopted: _Adopted, *, failed: bool) -> None:
        counters = adopted.port.counters
        counters.active -= 1
        counters.bytes_in += adopted.up
        counters.bytes_out += adopted.down
        if failed:
            counters.errors += 1
        adopted.port.check_drained()

    async def refresh(self) -> None:
        """Ask every worker for the totals of its live connections."""
        waiting: list[asyncio.Future[None]] = []
        for worker in self.workers:
            future: asyncio.Future[None] = self.loop.create_future()
            worker.reports.append(future)
            waiting.append(future)
            worker.wire.send(Record(bulkwire.REPORT))
        if waiting:
            await asyncio.wait(waiting, timeout=_REPORT_TIMEOUT)

    def totals(self) -> dict[Port, tuple[int, int]]:
        """Bytes up and down of the live connections in workers, by port, as last heard."""
        result: dict[Port, tuple[int, int]] = {}
        for worker in self.workers:
            for adopted in worker.connections.values():
                up, down = result.get(adopted.port, (0, 0))
                result[adopted.port] = (up + adopted.up, down + adopted.down)
        return result

    @property
    def live(self) -> int:
        """Connections in the workers."""
        return sum(len(worker.connections) for worker in self.workers)

    def connections(self, port: Port, now: float) -> list[told.Connection]:
        """The live connections of *port* in workers, as live.describe has those of this process."""
        return [
            {
                "client": adopted.ends.client,
                "target": adopted.ends.target,
                "source": adopted.ends.source,
                "state": "open",
                "age": round(now - adopted.started, 3),
                "bytes_in": adopted.up,
                "bytes_out": adopted.down,
                "pid": os.getpid(),
                "worker": worker.pid,
            }
            for worker in self.workers
            for adopted in worker.connections.values()
            if adopted.port is port
        ]

    def cut(self, port: Port) -> None:
        """Reset what is live in workers for *port*."""
        for worker in self.workers:
            for number, adopted in worker.connections.items():
                if adopted.port is port:
                    worker.wire.send(Record(bulkwire.CUT, 0, number))

    # -- the end -----------------------------------------------------------------------------------------------

    def exited(self, worker: _Worker) -> None:
        self._running.discard(worker)
        if not self._running and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    async def close(self) -> None:
        """Make the workers reset their connections and end, and wait for that."""
        self.limit = 0
        for worker in list(self.workers):
            worker.wire.send(Record(bulkwire.QUIT))
        if self._running:
            self._all_gone = self.loop.create_future()
            await asyncio.wait([self._all_gone], timeout=_REPORT_TIMEOUT)
