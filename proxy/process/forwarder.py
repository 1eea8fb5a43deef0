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
import gc
import os
import resource
import signal
import socket
import sys
from functools import partial

from ...netlib import ipc
from ...netlib.control.single import say_ready, take_lock
from ...netlib.errors import PynetError
from ..dataplane.lane import Lane
from ..ports import MAX_DRAIN
from .control import ControlServer
from .options import Options, parser
from .service import Service

SOCKET, LOCK = "forwarder.sock", "forwarder.lock"


async def serve(lane: Lane, listener: socket.socket | None, lock: int | None, options: Options) -> None:
    loop = asyncio.get_running_loop()
    service = Service(loop, lane, options)
    control = ControlServer(loop, listener, service)

    def retire(drain: float) -> None:
        """What a successor needs is free when this returns."""
        control.leave()
        if lock is not None:
            os.close(lock)
        service.retire(drain)

    control.retire = retire
    if options.control_fd is not None:
        on_end = partial(service.retire, MAX_DRAIN) if options.graceful else service.request_stop
        control.adopt(socket.socket(fileno=options.control_fd), on_end)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.request_stop)
    if options.ready_fd is not None:
        say_ready(options.ready_fd, "0\n")  # before the crew starts, which would hold it open
    service.crew.start()
    # what lives now lives as long as the process: the collector need not visit it again
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await service.stopped.wait()
    await service.close()
    control.close()


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv, Options())
    listener = lock = None
    if options.run:
        try:
            os.makedirs(options.run, mode=0o711, exist_ok=True)
            lock = take_lock(options.run, LOCK, "a forwarder")
            listener = ipc.listen(os.path.join(options.run, SOCKET))
        except (PynetError, OSError) as error:
            print(f"pynet forwarder: {error}", file=sys.stderr)
            if options.ready_fd is not None:
                say_ready(options.ready_fd, f"1\n{error}\n")
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
