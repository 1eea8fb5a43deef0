"""pynet-proxy's plain form: a forwarder of its own in this process, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import resource
import signal

from . import forwarder, ports
from .lane import Lane
from .standalone import Mapping
from .udp import IDLE, LIMIT


async def _serve(lane: Lane, entries: list[dict[str, object]], fds: list[int]) -> None:
    loop = asyncio.get_running_loop()
    cpus = len(os.sched_getaffinity(0))
    options = forwarder.Options(bulk=max(1, min(4, cpus // 2)), udp_idle=IDLE, udp_clients=LIMIT)
    service = forwarder.Forwarder(loop, lane, options)
    service.listen(ports.parse_listen({"ports": entries}, len(fds)), fds)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.request_stop)
    await service.stopped.wait()
    await service.close()


def serve(mappings: list[Mapping], fds: list[int]) -> None:
    """Serve *mappings* on the bound sockets *fds*.  InvalidArgument when one can not be."""
    entries: list[dict[str, object]] = [
        {"id": str(number), "proto": mapping.proto, "target": [mapping.target_ip, mapping.target_port]}
        for number, mapping in enumerate(mappings)
    ]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lane = Lane()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
        runner.run(_serve(lane, entries, fds))
