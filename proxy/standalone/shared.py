"""The forwarder behind many pynet-proxy processes: a port lives as long as the connection that lent it.

    pynet-proxy (becomes a sleeper) === connection, socket ===> LendingServer --> Forwarder --> TcpPort, UdpPort

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
from ...netlib.errors import PynetError
from ...netlib.ipc import Channel, Message
from .. import ports
from ..dataplane.lane import Lane
from ..process.control import ControlServer
from ..process.forwarder import SOCKET, Forwarder, Options, take_lock
from .lend import LINGER


class LendingServer(ControlServer):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, forwarder: Forwarder, linger: float
    ) -> None:
        super().__init__(loop, listener, forwarder)
        self._linger = linger
        self._lent: dict[Channel, list[str]] = {}
        self._speaking: Channel | None = None
        self._end: asyncio.TimerHandle | None = None
        self._operations["lend"] = self._lend
        self._rest()

    def _on_readable(self, channel: Channel) -> None:
        self._speaking = channel
        super()._on_readable(channel)

    def _lend(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        assert self._speaking is not None
        specs = ports.parse_listen(message, len(fds))
        self._forwarder.listen(specs, fds)
        self._lent.setdefault(self._speaking, []).extend(spec.id for spec in specs)
        return {}, []

    def _drop(self, channel: Channel) -> None:
        # before the connection is closed: the lender waits for that
        ids = self._lent.pop(channel, None)
        if ids:
            self._forwarder.withdraw(ids, None)
        super()._drop(channel)
        self._rest()

    def _rest(self) -> None:
        if self._end is None and not self._forwarder.held():
            self._end = self._loop.call_later(self._linger, self._leave)

    def _leave(self) -> None:
        self._end = None
        if not self._forwarder.held():
            self._forwarder.request_stop()


def _say(options: Options, text: bytes) -> None:
    if options.ready_fd is not None:
        os.write(options.ready_fd, text)
        os.close(options.ready_fd)


async def _serve(lane: Lane, listener: socket.socket, options: SharedOptions) -> None:
    loop = asyncio.get_running_loop()
    forwarder = Forwarder(loop, lane, options)
    server = LendingServer(loop, listener, forwarder, options.linger)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, forwarder.request_stop)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"0\n")
        os.close(options.ready_fd)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await forwarder.stopped.wait()
    await forwarder.close()
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
        take_lock(options.run)
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
