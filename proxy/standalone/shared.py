"""The forwarder behind many pynet-proxy processes: a port lives as long as the connection that lent it.

    pynet-proxy (becomes a sleeper) === connection, socket ===> LendingServer --> Service --> TcpPort, UdpPort

    python -I -m pynet.proxy.standalone.shared --run RUN [--ready-fd N] [--linger SECONDS]

It is the forwarder of forwarder.py with one more operation and another end.  ``{"op": "lend", "ports": [...]}`` with a
descriptor a port is ``listen`` for the life of this connection: the kernel closes it whatever kills the lender, which is
what a pidfd would tell, and a lender that leaves in good order can wait for our end, after which the port is free.
``linger`` seconds after the last port has gone the process ends; who comes in that moment finds nobody and starts
another (lend.py).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys

from ...netlib import ipc
from ...netlib.control.server import DONE, Answer, Caller
from ...netlib.control.single import take_lock
from ...netlib.errors import PynetError
from ...netlib.ipc import Message
from ...netlib.ports.bind import bind
from .. import ports
from ..dataplane.lane import Lane
from ..mapping import parse_endpoint
from ..process.control import ControlServer
from ..process.forwarder import LOCK, SOCKET
from ..process.options import Options
from ..process.service import Service
from .lend import LINGER


class LendingServer(ControlServer):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, service: Service, linger: float
    ) -> None:
        super().__init__(loop, listener, service)
        self._linger = linger
        self._lent: dict[Caller, list[str]] = {}
        self._end: asyncio.TimerHandle | None = None
        self.operations["lend"] = self._lend
        self._rest()

    def _lend(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        specs = ports.parse_listen(message, len(fds))
        self._service.listen(specs, fds)
        self._lent.setdefault(caller, []).extend(spec.id for spec in specs)
        return DONE

    def forget(self, caller: Caller) -> None:
        # before the connection is closed: the lender waits for that
        ids = self._lent.pop(caller, None)
        if ids:
            self._service.withdraw(ids, None)
        super().forget(caller)
        self._rest()

    def _rest(self) -> None:
        if self._end is None and not self._service.ports:
            self._end = self._loop.call_later(self._linger, self._leave)

    def _leave(self) -> None:
        self._end = None
        if not self._service.ports:
            self._service.request_stop()


def _say(options: Options, text: bytes) -> None:
    if options.ready_fd is not None:
        os.write(options.ready_fd, text)
        os.close(options.ready_fd)


async def _expose(service: Service) -> None:
    """Answer Prometheus where PYNET_PROXY_METRICS says.  That it can not be is no reason to serve no port: it is logged."""
    where = os.environ.get("PYNET_PROXY_METRICS")
    if not where:
        return
    try:
        ip, port = parse_endpoint(where)
        await service.expose(socket.socket(fileno=bind("tcp", ip, port, both=not ip)))
    except PynetError as error:
        print(f"pynet-proxy: PYNET_PROXY_METRICS: {error}", file=sys.stderr, flush=True)


async def _serve(lane: Lane, listener: socket.socket, options: SharedOptions) -> None:
    loop = asyncio.get_running_loop()
    service = Service(loop, lane, options)
    server = LendingServer(loop, listener, service, options.linger)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.request_stop)
    await _expose(service)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"0\n")
        os.close(options.ready_fd)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await service.stopped.wait()
    await service.close()
    server.close()


class SharedOptions(Options):
    linger: float


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="pynet.proxy.standalone.shared",
        description="Serve what pynet-proxy processes lend, until the last one has gone.",
    )
    parser.add_argument("--run", required=True, metavar="DIR")
    parser.add_argument("--ready-fd", type=int, default=1, metavar="N")
    parser.add_argument("--linger", type=float, default=LINGER, metavar="S")
    options = parser.parse_args(argv, SharedOptions())
    # whoever started us may have blocked what ends us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        take_lock(options.run, LOCK, "a forwarder")
        listener = ipc.listen(os.path.join(options.run, SOCKET), backlog=4096)
    except (PynetError, OSError) as error:
        if options.ready_fd is not None:
            _say(options, f"1\n{error}\n".encode())
        return 1
    options.nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (options.nofile[1], options.nofile[1]))
    lane = Lane()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
        runner.run(_serve(lane, listener, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
