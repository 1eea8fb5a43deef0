"""The forwarder's command line."""

from __future__ import annotations

import argparse
import os

from ...netlib.errors import InvalidArgument
from ..dataplane.live import CONNECT_TIMEOUT
from ..dataplane.udp import IDLE, LIMIT
from ..ports import DEFAULT_DRAIN, MAX_WORKERS, parse_drain


class Options(argparse.Namespace):
    run: str = ""
    """Empty: there is none, and ``control_fd`` is set; or this is the plain form of pynet-proxy, which has neither."""
    ready_fd: int | None
    bulk: int = max(1, min(4, len(os.sched_getaffinity(0)) // 2))
    control_fd: int | None = None
    graceful: bool = False
    """When the other end of ``control_fd`` goes, live connections may end first."""
    workers: int = 1
    drain: float = DEFAULT_DRAIN
    connect_timeout: float = CONNECT_TIMEOUT
    udp_idle: float = IDLE
    udp_clients: int = LIMIT
    nofile: tuple[int, int] | None = None
    """The limit of open files before it was raised."""


def _seconds(text: str) -> float:
    try:
        return parse_drain(float(text))
    except InvalidArgument as error:
        raise ValueError(text) from error


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_WORKERS:
        raise ValueError(text)
    return number


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="pynet.proxy.process.forwarder",
        description="Serve the published ports of a run directory, or of one program.",
    )
    where = result.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", default="", metavar="DIR", help="directory of the control socket and the lock")
    where.add_argument("--control-fd", type=int, metavar="N", help="be controlled through this connected socket alone")
    result.add_argument(
        "--graceful", action="store_true", help="when the controlling end goes, let live connections end first"
    )
    result.add_argument(
        "--ready-fd", type=int, metavar="N", help="write 0 or 1 and a newline here when ready or failed"
    )
    add_service_options(result)
    return result


def add_service_options(result: argparse.ArgumentParser) -> None:
    """How ports are served, whoever they are; defaults are those of ``Options``."""
    result.add_argument("--bulk", type=int, metavar="N", help="most bulk workers")
    result.add_argument("--workers", type=_positive, metavar="N", help="processes that accept on the tcp ports")
    result.add_argument(
        "--drain", type=_seconds, metavar="S", help="seconds for live connections of a port that is withdrawn"
    )
    result.add_argument("--connect-timeout", type=_seconds, metavar="S", help="seconds that a target has to accept")
    result.add_argument("--udp-idle", type=_seconds, metavar="S", help="seconds until a UDP client is forgotten")
    result.add_argument("--udp-clients", type=_at_least_one, metavar="N", help="most UDP clients at one time")
