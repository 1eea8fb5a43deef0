"""What the forwarder counts, as Prometheus' text exposition format 0.0.4.

    Service.stats() -> render: families of lines -> Exposition: one HTTP answer, on a socket that was passed in

A library was tried: prometheus_client brings 85 modules and 6.9 MiB to a process that needs 15 MiB for a thousand
ports.  The format is a page (prometheus.io/docs/instrumenting/exposition_formats): each family once, with HELP and TYPE,
all its samples together; label values with backslash, quote and newline escaped; histograms cumulative up to +Inf.

The answer to a thousand ports takes tens of milliseconds to write, so it is written in pieces and the ports are
served between them.  It is HTTP/1.1 without persistence: one GET or HEAD of /metrics, one answer, goodbye (RFC 9112, 9.6).
Everything is bounded: 16 scrapers at a time, 8 KiB of request, 10 s for all of it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate
from typing import Literal

from ...netlib.ports.told import Stats
from ..dataplane.counters import BUCKETS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SCRAPERS = 16
_REQUEST = 8192
_TIMEOUT = 10.0
_PIECE = 500
"""Lines written before the ports have their turn."""

_Counter = Literal["connections", "active", "bytes_in", "bytes_out", "errors", "refused", "dropped"]
_PORT_FAMILIES: tuple[tuple[_Counter, str, str, str], ...] = (
    ("connections", "counter", "connections_total", "Connections accepted, or UDP clients seen."),
    ("active", "gauge", "connections_active", "Connections or UDP clients that are live now."),
    ("bytes_in", "counter", "received_bytes_total", "Bytes from clients to the target."),
    ("bytes_out", "counter", "sent_bytes_total", "Bytes from the target to clients."),
    ("errors", "counter", "errors_total", "Connections that ended by a reset or an error."),
    ("refused", "counter", "refused_total", "Connections that the target refused or did not answer."),
    ("dropped", "counter", "dropped_total", "Datagrams that were dropped."),
)


def escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def process_statistics() -> dict[str, float]:
    """The usual ones of this process (prometheus.io/docs/instrumenting/writing_clientlibs, "process metrics")."""
    with open("/proc/self/statm", "rb") as statm:
        resident = int(statm.read().split()[1]) * resource.getpagesize()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "process_cpu_seconds_total": usage.ru_utime + usage.ru_stime,
        "process_resident_memory_bytes": resident,
        "process_open_fds": len(os.listdir("/proc/self/fd")),
        "process_max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def render(stats: Stats, process: dict[str, float]) -> Iterator[str]:
    """The exposition of what ``stats`` answers, in pieces of whole lines."""
    labels = {
        name: f'port="{escape(name)}",proto="{escape(port["proto"])}"' for name, port in stats["ports"].items()
    }  # fmt: skip
    for key, kind, suffix, text in _PORT_FAMILIES:
        family = f"pynet_proxy_{suffix}"
        yield _head(family, kind, text)
        for name, port in stats["ports"].items():
            yield f"{family}{{{labels[name]}}} {_number(port[key])}\n"
    family = "pynet_proxy_backend_connect_seconds"
    yield _head(family, "histogram", "Time until the target had accepted.")
    for name, port in stats["ports"].items():
        times = port.get("connect")
        if times is None:
            continue
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), accumulate(times["buckets"]), strict=True):
            yield f'{family}_bucket{{{labels[name]},le="{bound}"}} {count}\n'
        yield f"{family}_sum{{{labels[name]}}} {_number(times['seconds'])}\n"
        yield f"{family}_count{{{labels[name]}}} {times['count']}\n"
    yield _head("pynet_proxy_bulk_workers", "gauge", "Bulk workers that run.")
    yield f"pynet_proxy_bulk_workers {len(stats['workers'])}\n"
    yield _head("pynet_proxy_processes", "gauge", "Processes that accept.")
    yield f"pynet_proxy_processes {len(stats['processes'])}\n"
    for name, value in process.items():
        yield _head(name, "counter" if name.endswith("_total") else "gauge", f"{name.replace('_', ' ').capitalize()}.")
        yield f"{name} {_number(value)}\n"


async def _write(stats: Stats) -> bytes:
    pieces: list[str] = []
    for piece in render(stats, process_statistics()):
        pieces.append(piece)
        if len(pieces) % _PIECE == 0:
            await asyncio.sleep(0)
    # an id may be anything that JSON can say, lone surrogates too
    return "".join(pieces).encode(errors="replace")


class Exposition:
    """An HTTP server on one listening socket."""

    def __init__(
        self, stats: Callable[[], Awaitable[Stats]], beside: Callable[[], Awaitable[str]] | None = None
    ) -> None:
        """*beside*: what stands on the page behind our own, in the same format."""
        self._stats, self._beside = stats, beside
        self._server: asyncio.Server | None = None
        self._live: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self, sock: socket.socket) -> None:
        """Serve on *sock*, which is bound and is ours now.  OSError when it can not serve."""
        self._server = await asyncio.start_server(self._accept, sock=sock, limit=_REQUEST, backlog=128)

    def stop(self) -> None:
        """Listen no more; who is being answered is cut off."""
        if self._server is not None:
            self._server.close()
        for task, writer in self._live.items():
            writer.transport.abort()
            task.cancel()

    async def close(self) -> None:
        """``stop``, and nobody is being answered any more when this returns."""
        self.stop()
        if self._live:
            await asyncio.wait(list(self._live))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a task of ours: the one that asyncio makes of a coroutine prints a traceback when it is cancelled
        if len(self._live) >= _SCRAPERS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._live[task] = writer
        task.add_done_callback(self._live.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.write_eof()
                # closing with a request's rest unread would reset the answer on its way (RFC 9112, 9.6)
                while await reader.read(_REQUEST):
                    pass
        except (OSError, TimeoutError):
            pass  # the scraper's business
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large")
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request")
        method, path = words[0], words[1].partition(b"?")[0]
        if path != b"/metrics":
            return _response("404 Not Found")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", extra="Allow: GET, HEAD\r\n")
        body = await _write(await self._stats())
        if self._beside is not None:
            body += (await self._beside()).encode(errors="replace")
        return _response("200 OK", body, CONTENT_TYPE, is_head=method == b"HEAD")


def _response(
    status: str, body: bytes | None = None, kind: str = "text/plain", *, extra: str = "", is_head: bool = False
) -> bytes:
    if body is None:
        body = f"{status[4:]}\n".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() if is_head else head.encode() + body
