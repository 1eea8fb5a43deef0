"""What is measured of the proxies, group by group: docs/benchmarks.md says what each row is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy_rows import Row, Values, interleave, row
from proxy_sides import HOST, Side, Sides, anonymous_kib, cpu_seconds, pss_kib, run_load

RIVALS = ("haproxy", "nginx")
GIB = 1 << 30


class Effort(NamedTuple):
    repetitions: int
    seconds: float
    """Of load for one value."""
    trips: int
    """Round trips for one value."""


def throughput(sides: Sides, effort: Effort) -> Iterator[Row]:
    proxies = sides.all(sides.backend("sink"))
    for streams in (1, 8, 64):

        def measure(side: Side, streams: int = streams) -> list[float]:
            before = cpu_seconds(side.pid)
            (rate,) = run_load("source", side.port, streams, effort.seconds)
            return [rate / 1e9, (cpu_seconds(side.pid) - before) / (rate * effort.seconds / GIB)]

        values = interleave(proxies, effort.repetitions, measure)
        name = f"{streams} stream{'s' * (streams > 1)}"
        yield row(
            f"TCP throughput, {name}", "GB/s", values, 0, higher=True, must=1.0, towards=1.2, ahead_of=RIVALS
        )  # fmt: skip
        yield row(f"TCP CPU, {name}", "s/GiB", values, 1, must=0.85, towards=0.7, ahead_of=RIVALS)


def connections(sides: Sides, effort: Effort) -> Iterator[Row]:
    proxies = sides.all(sides.backend("greet"))
    for clients in (1, 32, 256):

        def measure(side: Side, clients: int = clients) -> list[float]:
            before = cpu_seconds(side.pid)
            rate, p50, p99 = run_load("connect", side.port, clients, effort.seconds)
            return [rate, (cpu_seconds(side.pid) - before) / (rate * effort.seconds) * 1e6, p50, p99]

        values = interleave(proxies, effort.repetitions, measure)
        name = f"{clients} at a time"
        yield row(f"TCP new connections, {name}", "1/s", values, 0, higher=True, must=1.15, towards=1.4)
        yield row(f"TCP CPU per connection, {name}", "us", values, 1)
        if clients == 1:
            yield row("TCP new connection p50", "us", values, 2)
            yield row("TCP new connection p99", "us", values, 3, must=1.5, towards=1.0)


def latency(sides: Sides, effort: Effort) -> Iterator[Row]:
    proxies = sides.all(sides.backend("echo"))
    values = interleave(proxies, effort.repetitions, lambda side: run_load("pingpong", side.port, effort.trips))
    yield row("TCP 1-byte ping-pong p50", "us", values, 0, must=1.1, towards=1.0)
    yield row("TCP 1-byte ping-pong p99", "us", values, 1, must=1.2, towards=1.0)


def beside(sides: Sides, effort: Effort) -> Iterator[Row]:
    """A neighbour's round trips while the same proxy moves eight streams."""
    target = sides.backend("echo")
    proxies = [sides.pynet("tcp", target), sides.docker("tcp", target)]

    def measure(side: Side) -> list[float]:
        bulk = sides.background("source", side.port, 8, effort.seconds * 60)
        try:
            _moving(side)
            return run_load("pingpong", side.port, effort.trips // 4)
        finally:
            bulk.kill()
            bulk.communicate()

    values = interleave(proxies, effort.repetitions, measure)
    yield row("ping-pong p50 beside 8 bulk streams", "us", values, 0)
    yield row("ping-pong p99 beside 8 bulk streams", "us", values, 1, must=0.5, towards=0.15)


def _moving(side: Side) -> None:
    """Wait until the proxy works for the streams, and a moment more: elephants move to workers first."""
    start = cpu_seconds(side.pid)
    while cpu_seconds(side.pid) < start + 0.3:
        run_load("pingpong", side.port, 200)


def udp(sides: Sides, effort: Effort) -> Iterator[Row]:
    sink = sides.backend("udp_sink")
    proxies = [sides.pynet("udp", sink), sides.docker("udp", sink)]
    question = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    question.connect((HOST, sink))
    question.settimeout(1)

    def count() -> int:
        """Datagrams that have arrived since the last question, which is lost itself while the sink's queue is full."""
        for _ in range(10):
            question.send(b"?")
            with contextlib.suppress(TimeoutError):
                return int(question.recv(64))
        raise TimeoutError("the UDP sink does not answer")

    def one_way(size: int, segments: int) -> Callable[[Side], list[float]]:
        def measure(side: Side) -> list[float]:
            count()
            before = cpu_seconds(side.pid)
            run_load("udp_blast", side.port, size, segments, effort.seconds)
            arrived = count()
            return [arrived / effort.seconds / 1e3, (cpu_seconds(side.pid) - before) / max(arrived, 1) * 1e6]

        return measure

    with question:
        values = interleave(proxies, effort.repetitions, one_way(64, 1))
        segmented = interleave(proxies, effort.repetitions, one_way(1200, 32))
    yield row("UDP one way, 64 bytes", "k/s", values, 0, higher=True, must=1.4, towards=2)
    yield row("UDP CPU per datagram", "us", values, 1, must=0.8, towards=0.5)
    yield row("UDP one way, 1200 bytes by UDP_SEGMENT", "k/s", segmented, 0, higher=True)
    yield row("UDP CPU per datagram, by UDP_SEGMENT", "us", segmented, 1)

    echo = sides.backend("udp_echo")
    values = interleave(
        [sides.pynet("udp", echo), sides.docker("udp", echo)],
        effort.repetitions,
        lambda side: [run_load("udp_window", side.port, 64, effort.seconds)[0] / 1e3],
    )
    yield row("UDP round trips, 64 under way", "k/s", values, 0, higher=True)


def _growth(sides: Sides, side: Side, load: str, count: int) -> float:
    """KiB that the proxy has grown by for each of *count* connections or clients."""
    before = anonymous_kib(side.pid)
    holder, held = sides.load(load, side.port, count)
    assert held == count
    grown = anonymous_kib(side.pid) - before
    holder.kill()
    holder.communicate()
    return grown / count


def _most(sides: Sides, count: int) -> Row:
    """How many of *count* idle connections each can hold; docker-proxy ends when it has no descriptor left."""
    held: Values = {}
    with sides.fresh() as alone:
        keep = alone.backend("keep")
        for side in (alone.pynet("tcp", keep), alone.docker("tcp", keep)):
            holder, number = alone.load("hold", side.port, count)
            held[side.name] = [[number]]
            holder.kill()
            holder.communicate()
    return row(f"idle connections held, of {count:,}", "", held, 0, higher=True)


def memory(sides: Sides, effort: Effort) -> Iterator[Row]:
    for load, target, proto, name, must in (
        ("hold", "keep", "tcp", "memory an idle connection", 0.12),
        ("udp_hold", "udp_echo", "udp", "memory a UDP client", 0.03),
    ):
        back = sides.backend(target)
        values: Values = {}
        for side in (sides.pynet(proto, back), sides.docker(proto, back)):
            _growth(sides, side, load, 20)  # what is made for the first ones is not theirs alone
            values[side.name] = [[_growth(sides, side, load, 1000)]]
        yield row(name, "KiB", values, 0, must=must)
    yield _most(sides, 9000)
    with sides.fresh() as ports:
        ports.pynet("tcp", 9, 1000)
        number = 20 if effort.repetitions < 3 else 100
        theirs = sum(pss_kib(ports.docker("tcp", 9).pid) for _ in range(number)) / number
        ours = pss_kib(ports.pid)
    values = {"pynet": [[ours / 1024]], "docker-proxy": [[theirs * 1000 / 1024]]}
    yield row("memory, 1,000 ports", "MiB", values, 0, must=0.04, note=f"docker-proxy: {number} measured")


GROUPS: dict[str, Callable[[Sides, Effort], Iterator[Row]]] = {
    "throughput": throughput,
    "connections": connections,
    "latency": latency,
    "beside": beside,
    "udp": udp,
    "memory": memory,
}
