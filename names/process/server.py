"""The name server as a process: one for all sandboxes of a run directory.

    python -I -m pynet.names.process.server --run RUN [--ready-fd N] [--ttl SECONDS] [--serve-stale SECONDS]
           [--cache BYTES] [--resolv-conf PATH]

    RUN/names.sock --> ControlServer (control.py) --> Server (names/server.py) --> Zones, Datagrams, Streams
                                                          `-> Forwarder (names/forward.py) <-- Watched: the host's resolv.conf
                                                                  `-> Entrance (entrance.py): sockets in a sandbox

It binds nothing and reads no store: sockets come from who made them inside the sandboxes, and with them the snapshot to answer
by.  So pynetd may be away, and a server that is killed loses no question as long as somebody holds copies of the sockets.

Rights: when it has its lock, its socket and its thread for entering namespaces, it gives up every capability; that one thread
keeps the two that it needs.  It reads the host's resolv.conf, and writes nothing.

RUN/names.lock says that nobody else serves, and has the process id; ``--ready-fd`` is as the forwarder's.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import os
import resource
import signal
import socket
import sys

from ...netlib import ipc
from ...netlib.control.single import say_ready, take_lock
from ...netlib.errors import PynetError
from ...proxy.dataplane.lane import Lane
from ..cache import CAPACITY
from ..forward import Forwarder
from ..resolvconf import PATH, ResolvConf, Watched
from ..server import Server
from ..upstream import OnLane
from ..zones import TTL, Zones
from .control import ControlServer
from .entrance import Entrance, Spares, give_up_rights

SOCKET, LOCK = "names.sock", "names.lock"


class Options(argparse.Namespace):
    run: str
    ready_fd: int | None
    ttl: int
    serve_stale: float
    cache: int
    resolv_conf: str


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="pynet.names.process.server", description="Answer the names that sandboxes of a run directory ask for."
    )
    result.add_argument("--run", required=True, metavar="DIR", help="directory of the control socket and the lock")
    result.add_argument(
        "--ready-fd", type=int, metavar="N", help="write 0 or 1 and a newline here when ready or failed"
    )
    result.add_argument("--ttl", type=int, default=TTL, metavar="S", help="seconds that answers may be kept")
    result.add_argument(
        "--serve-stale", type=float, default=0.0, metavar="S",
        help="seconds for which an answer that has ended is told while no upstream has another (RFC 8767); 0: not at all",
    )  # fmt: skip
    result.add_argument(
        "--cache", type=int, default=CAPACITY, metavar="BYTES", help="what answers that are kept may take"
    )
    result.add_argument("--resolv-conf", default=PATH, metavar="PATH", help="names the host's servers, and is watched")
    return result


async def serve(lane: Lane, listener: socket.socket, entrance: Entrance, options: Options) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        lane.wake = True

    def wake() -> None:
        lane.wake = True

    spares = Spares(entrance)

    def inside(sandbox: str, family: int, kind: int) -> socket.socket:
        held = server.sockets(sandbox)
        if held is None:
            raise OSError(errno.ENOENT, "the sandbox is not served any more")
        return spares.socket(sandbox, held[0], family, kind)

    def changed(conf: ResolvConf) -> None:
        forwarder.use(conf.servers)

    forwarder = Forwarder(
        inside=inside, left=spares.forget, wake=wake, readers=OnLane(lane), capacity=options.cache,
        serve_stale=options.serve_stale,
    )  # fmt: skip
    host = Watched(options.resolv_conf, changed)
    if host.now is not None:
        changed(host.now)
    server = Server(lane, loop, forwarder, zones=Zones(options.ttl))
    control = ControlServer(loop, listener, server, stop, forwarder)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if options.ready_fd is not None:
        say_ready(options.ready_fd, "0\n")
    # what lives now lives as long as the process: the collector need not visit it again
    gc.collect()
    gc.freeze()
    await stopped.wait()
    control.close()
    host.close()
    server.close()
    forwarder.close()


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv, Options())
    try:
        os.makedirs(options.run, mode=0o711, exist_ok=True)
        lock = take_lock(options.run, LOCK, "a name server")
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        listener = ipc.listen(os.path.join(options.run, SOCKET))
    except (PynetError, OSError) as error:
        print(f"pynet names: {error}", file=sys.stderr)
        if options.ready_fd is not None:
            say_ready(options.ready_fd, f"1\n{error}\n")
        return 1
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    entrance = Entrance()
    give_up_rights()
    lane = Lane()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
        runner.run(serve(lane, listener, entrance, options))
    entrance.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
