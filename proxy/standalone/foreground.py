"""pynet-proxy's plain form: a forwarder of its own in this process, until SIGTERM or SIGINT.

words --> parse: mappings and options --> bind --> Service (service.py), its workers, its metrics
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
from contextlib import ExitStack
from typing import NoReturn

from ...netlib.errors import InvalidArgument
from ...netlib.ports.bind import bind
from .. import ports
from ..dataplane.lane import Lane
from ..mapping import Mapping, parse_endpoint, parse_plain
from ..process.options import Options, add_service_options
from ..process.service import Service

_EPILOG = """PROTO is tcp, udp or sctp; without an address, clients come to every address of both families. docker-proxy's
command line (-proto tcp -host-ip ...) is taken as well."""


class PlainOptions(Options):
    words: list[str]
    proxy_protocol: int = 0
    transparent: bool = False
    metrics: str = ""
    drain: float = 0.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(message, hint="pynet-proxy --help")


def parse(words: list[str]) -> tuple[list[Mapping], PlainOptions]:
    """InvalidArgument for what is no mapping and no option."""
    parser = _Parser(
        prog="pynet-proxy",
        usage="%(prog)s [OPTION ...] PROTO [HOST-IP]:PORT TARGET-IP:PORT [PROTO ...]",
        description="Serve ports in the foreground, until SIGTERM or SIGINT.",
        epilog=_EPILOG,
    )
    parser.add_argument("words", nargs="*", metavar="PROTO [HOST-IP]:PORT TARGET-IP:PORT", help="three words a port")
    parser.add_argument(
        "--proxy-protocol",
        type=int,
        choices=(1, 2),
        help="tell tcp targets who the client is, by a header of this version",
    )
    parser.add_argument(
        "--transparent",
        action="store_true",
        help="come to tcp targets from the client's own address (needs rights and routes)",
    )
    parser.add_argument("--metrics", metavar="[IP]:PORT", help="answer Prometheus here, at /metrics")
    add_service_options(parser)
    options = parser.parse_intermixed_args(words, PlainOptions())
    return parse_plain(options.words), options


def _entry(mapping: Mapping, options: PlainOptions) -> dict[str, object]:
    entry: dict[str, object] = {
        "id": f"{mapping.proto}/{mapping.host_ip}/{mapping.host_port}",
        "proto": mapping.proto,
        "target": [mapping.target_ip, mapping.target_port],
    }
    if mapping.proto == "tcp":
        entry |= {"proxy_protocol": options.proxy_protocol, "transparent": options.transparent}
    return entry


def serve(words: list[str]) -> None:
    """Serve what *words* say.  InvalidArgument, PortInUse, NotSupported when that can not be."""
    mappings, options = parse(words)
    entries = [_entry(mapping, options) for mapping in mappings]
    ports.parse_listen({"ports": entries}, len(entries), options.drain)  # before anything is bound
    fds: list[int] = []
    with ExitStack() as undo:
        for mapping in mappings:
            fds.append(mapping.bind())
            undo.callback(os.close, fds[-1])
        metrics = _bind_metrics(options.metrics) if options.metrics else None
        undo.pop_all()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lane = Lane()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
        runner.run(_serve(lane, entries, fds, metrics, options))


def _bind_metrics(text: str) -> socket.socket:
    ip, port = parse_endpoint(text)
    return socket.socket(fileno=bind("tcp", ip, port, both=not ip))


async def _serve(
    lane: Lane, entries: list[dict[str, object]], fds: list[int], metrics: socket.socket | None, options: PlainOptions
) -> None:
    loop = asyncio.get_running_loop()
    service = Service(loop, lane, options)
    service.listen(ports.parse_listen({"ports": entries}, len(fds), options.drain), fds)
    if metrics is not None:
        await service.expose(metrics)
    service.crew.start()
    draining: asyncio.Task[None] | None = None

    def stop() -> None:
        """Once: no new connections, and the live ones have ``--drain`` seconds.  Twice: the end."""
        nonlocal draining
        if options.drain and draining is None:
            draining = loop.create_task(service.drain(options.drain))
            draining.add_done_callback(lambda _: service.request_stop())
        else:
            service.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await service.stopped.wait()
    await service.close()
