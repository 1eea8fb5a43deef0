"""A bulk worker: a process that relays what has proved to be bulk, so that the forwarder stays quick for the rest.

    python -I -m pynet.proxy.dataplane.bulk FD

FD is a SOCK_SEQPACKET to the forwarder (bulkwire.py).  A connection arrives as two descriptors, its totals so far and
the ends that were seen; it leaves as totals and how it ended.  No asyncio here: the lane runs by itself.

When the forwarder dies, the worker goes on until its last connection has ended: they are somebody's downloads.  When it
says QUIT, all are reset.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys

from . import bulkwire
from .bulkwire import Record, Wire
from .lane import Lane
from .pipes import PipePool
from .relay import CLOSED, Connection, Relay, Socket


class Worker:
    def __init__(self, sock: socket.socket) -> None:
        self.lane = Lane()
        self._relay = Relay(self.lane, PipePool())
        self._ids: dict[Connection, int] = {}
        self._connections: dict[int, Connection] = {}
        self._orphan = False
        self._wire = Wire(self.lane, sock, self._on_record, self._on_forwarder_gone)
        self._wire.send(Record(bulkwire.HELLO))

    def _on_record(self, record: Record, fds: list[int]) -> None:
        match record.kind:
            case bulkwire.ADOPT if len(fds) == 2:
                self._adopt(record, fds)
                return
            case bulkwire.CUT:
                connection = self._connections.get(record.id)
                if connection is not None:
                    self._relay.abort(connection)
            case bulkwire.REPORT:
                for number, connection in self._connections.items():
                    up, down = connection.up.total, connection.down.total
                    self._wire.send(Record(bulkwire.PROGRESS, 0, number, up, down))
                self._wire.send(Record(bulkwire.REPORTED))
            case bulkwire.QUIT:
                for connection in list(self._connections.values()):
                    self._relay.abort(connection)
                self.lane.stop()
            case _:
                pass
        for fd in fds:
            os.close(fd)
        if record.kind == bulkwire.ADOPT:  # the limit of open files cut the descriptors off: both ends see a close
            self._wire.send(Record(bulkwire.ENDED, bulkwire.FAILED, record.id, record.up, record.down))

    def _adopt(self, record: Record, fds: list[int]) -> None:
        client, target = Socket(fileno=fds[0]), Socket(fileno=fds[1])
        client.setblocking(False)
        target.setblocking(False)
        connection = Connection(self._relay, client, target, self, established=True)
        connection.up.ended = bool(record.flags & bulkwire.UP_ENDED)
        connection.down.ended = bool(record.flags & bulkwire.DOWN_ENDED)
        connection.up.total, connection.down.total = record.up, record.down
        self._ids[connection] = record.id
        self._connections[record.id] = connection
        connection.start()

    def connected(self, connection: Connection) -> None:
        """Never: what arrives here is established."""

    def ended(self, connection: Connection, how: str) -> None:
        number = self._ids.pop(connection)
        del self._connections[number]
        flags = 0 if how == CLOSED else bulkwire.FAILED
        self._wire.send(Record(bulkwire.ENDED, flags, number, connection.up.total, connection.down.total))
        if self._orphan and not self._connections:
            self.lane.stop()

    def _on_forwarder_gone(self) -> None:
        self._orphan = True
        if not self._connections:
            self.lane.stop()


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    worker = Worker(socket.socket(fileno=int(sys.argv[1])))
    gc.collect()
    gc.freeze()
    worker.lane.run()


if __name__ == "__main__":
    main()
