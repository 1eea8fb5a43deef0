"""pynet's forwarder beside docker-proxy, on loopback, in one run.

    python bench/bench_proxy.py [--quick] [--json FILE]

Both serve the same back ends at the same time; each repetition measures one after the other, so whatever else the
machine does falls on both.  The first repetition is warm-up.  Reported are min, median and max, and the ratio of each
repetition's pair (ours / theirs), whose median is the result.

The load generators are built to cost little beside what they measure: the TCP source sends from one large buffer, the
sink discards in the kernel (MSG_TRUNC, tcp(7)), UDP goes by sendmmsg and recvmmsg, connections are made by wrk against
nginx where both are installed.  Processor time is that of the proxies' threads and children (schedstat, ns).
Memory is PSS, which shares what processes share: 100 docker-proxies are measured as 100 processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pynet.proxy import mmsg
from pynet.proxy.client import ForwarderClient, Listen, spawn

HOST = "127.0.0.1"
_FLOWS = 16


class Row(NamedTuple):
    """One line of the table.  ``ours`` and ``theirs`` hold a value a repetition, in order."""

    name: str
    unit: str
    ours: list[float]
    theirs: list[float]
    higher_is_better: bool

    @property
    def ratio(self) -> float:
        """Median of ours / theirs over the repetitions."""
        pairs = [a / b for a, b in zip(self.ours, self.theirs) if b]
        return statistics.median(pairs) if pairs else float("nan")


# -- load generators: this file again, in processes of their own ----------------------------------------------------


def _listen(port: int = 0) -> socket.socket:
    return socket.create_server((HOST, port), backlog=4096)


def load_sink() -> None:
    """Accept, discard, report bytes at the end of each connection's life to nobody: the source counts."""
    server = _listen()
    print(server.getsockname()[1], flush=True)
    server.setblocking(False)
    poll = select.epoll()
    poll.register(server, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    buffer = bytearray(1 << 20)
    while True:
        for fd, _ in poll.poll():
            if fd == server.fileno():
                sock, _ = server.accept()
                sock.setblocking(False)
                connections[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
                continue
            try:
                if connections[fd].recv_into(buffer, len(buffer), socket.MSG_TRUNC):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            connections.pop(fd).close()


def load_source(port: int, streams: int, seconds: float) -> None:
    """Send on *streams* connections for *seconds*; print bytes a second."""
    data = memoryview(bytes(1 << 20))
    poll = select.epoll()
    connections: dict[int, socket.socket] = {}
    for _ in range(streams):
        sock = socket.create_connection((HOST, port))
        sock.setblocking(False)
        connections[sock.fileno()] = sock
        poll.register(sock, select.EPOLLOUT)
    sent = 0
    start = time.perf_counter()
    end = start + seconds
    while (now := time.perf_counter()) < end:
        for fd, _ in poll.poll(0.1):
            with contextlib.suppress(BlockingIOError):
                sent += connections[fd].send(data)
    print(sent / (now - start), flush=True)
    for sock in connections.values():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def load_echo() -> None:
    """Echo one byte at a time on one connection after the other."""
    server = _listen()
    print(server.getsockname()[1], flush=True)
    while True:
        sock, _ = server.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while data := sock.recv(64):
                sock.send(data)
        sock.close()


def load_pingpong(port: int, count: int) -> None:
    """Print p50 and p99 of *count* one-byte round trips, in us."""
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    clock = time.perf_counter_ns
    times: list[int] = []
    for _ in range(count):
        start = clock()
        sock.send(b"x")
        sock.recv(1)
        times.append(clock() - start)
    times.sort()
    print(times[count // 2] / 1000, times[count * 99 // 100] / 1000, flush=True)


def load_udp_sink() -> None:
    """Count datagrams; a datagram of 1 byte asks for the count since the last question."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind((HOST, 0))
    print(sock.getsockname()[1], flush=True)
    slots = mmsg.Slots()
    receiver = mmsg.Receiver(slots, mmsg.IPV4)
    count = 0
    while True:
        select.select([sock], [], [])
        while number := receiver.receive(sock.fileno()):
            lengths = receiver.lengths(number)
            if 1 in lengths:
                record = receiver.records(number)[lengths.index(1) * mmsg.IPV4.record :]
                port, ip = struct.unpack("!xxH4s", record[:8])
                sock.sendto(str(count).encode(), (socket.inet_ntoa(ip), port))
                count = 0
            else:
                count += number


def load_udp_blast(port: int, seconds: float) -> None:
    """Send 64-byte datagrams as fast as the system takes them."""
    socks: list[socket.socket] = []
    for _ in range(_FLOWS):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((HOST, port))
        socks.append(sock)
    slots = mmsg.Slots()
    slots.aim(0, (64,) * mmsg.BATCH)
    sender = mmsg.Sender(slots)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for sock in socks:
            sender.send(sock.fileno(), mmsg.BATCH)


def load_udp_echo() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind((HOST, 0))
    print(sock.getsockname()[1], flush=True)
    slots = mmsg.Slots()
    receiver, sender = mmsg.Receiver(slots, mmsg.IPV4), mmsg.Sender(slots, mmsg.IPV4)
    size = mmsg.IPV4.record
    while True:
        select.select([sock], [], [])
        while number := receiver.receive(sock.fileno()):
            records, lengths = receiver.records(number), receiver.lengths(number)
            first = 0
            while first < number:
                key, after = records[first * size : (first + 1) * size], first + 1
                while after < number and records.startswith(key, after * size):
                    after += 1
                slots.aim(first, lengths[first:after])
                sender.to(key)
                sender.send(sock.fileno(), after - first)
                first = after


def load_udp_window(port: int, window: int, seconds: float) -> None:
    """Keep *window* datagrams of 64 bytes under way; print round trips a second."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((HOST, port))
    slots = mmsg.Slots()
    receiver, sender = mmsg.Receiver(slots), mmsg.Sender(slots)
    done, room = 0, window
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        slots.aim(0, (64,) * room)
        sender.send(sock.fileno(), room)
        if not select.select([sock], [], [], 0.1)[0]:
            room = window  # something was lost: fill the window again
            continue
        room = receiver.receive(sock.fileno())
        done += room
    print(done / (now - start), flush=True)


_LOADS: dict[str, Callable[..., None]] = {
    name.removeprefix("load_"): function for name, function in globals().items() if name.startswith("load_")
}


# -- what is measured -----------------------------------------------------------------------------------------------


def find_docker_proxy() -> str | None:
    for path in ("docker-proxy", "/usr/libexec/docker/docker-proxy", "/usr/lib/docker/docker-proxy"):
        found = shutil.which(path, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/usr/local/bin")
        if found:
            return found
    return None


def _free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def _tree(pid: int) -> list[int]:
    """*pid* and its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError), open(f"/proc/{parent}/task/{parent}/children") as children:
            found.extend(int(child) for child in children.read().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Time on a processor of all threads of *pid* and its descendants that live."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{process}/task/{task}/schedstat") as stat:
                    total += int(stat.read().split()[0])
    return total / 1e9


def pss_kib(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


class Bench:
    """The back ends, the two proxies in front of each, and all processes, which end with it."""

    def __init__(self, stack: contextlib.ExitStack, docker_proxy: str) -> None:
        self._stack, self._docker_proxy = stack, docker_proxy
        run = stack.enter_context(tempfile.TemporaryDirectory())
        process = spawn(run)
        assert process is not None
        self.client = ForwarderClient(f"{run}/forwarder.sock")
        self.pid = process.pid
        stack.callback(process.wait)
        stack.callback(self.client.shutdown)

    def start(
        self, command: list[str], pass_fds: tuple[int, ...] = (), stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        # a session each, as the forwarder: where the kernel groups by session, all have the same share
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, pass_fds=pass_fds, start_new_session=True
        )

        def stop() -> None:
            process.send_signal(signal.SIGKILL)
            process.wait()

        self._stack.callback(stop)
        return process

    def backend(self, load: str) -> int:
        """Start a back end; its port."""
        process = self.start([sys.executable, os.path.abspath(__file__), "--load", load], stdout=subprocess.PIPE)
        assert process.stdout is not None
        self._stack.callback(process.stdout.close)
        return int(process.stdout.readline())

    def docker(self, proto: str, target: int) -> tuple[int, int]:
        """Start a docker-proxy; its pid and port."""
        port = _free_port(socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
        read, write = os.pipe()
        words = [
            self._docker_proxy, "-proto", proto, "-host-ip", HOST, "-host-port", str(port),
            "-container-ip", HOST, "-container-port", str(target),
        ]  # fmt: skip
        # it tells on descriptor 3 that it serves
        code = f"import os, sys; os.dup2({write}, 3); os.closerange(4, 100); os.execv(sys.argv[1], sys.argv[1:])"
        process = self.start([sys.executable, "-I", "-S", "-c", code, *words], pass_fds=(write,))
        os.close(write)
        with os.fdopen(read, "rb") as ready:
            said = ready.read(2)
        if said != b"0\n":
            raise RuntimeError(f"docker-proxy did not start: {said!r}")
        return process.pid, port

    def pynet(self, proto: str, target: int, count: int = 1) -> int:
        """Publish through the forwarder; the (last) port."""
        listens: list[Listen] = []
        socks: list[socket.socket] = []
        for _ in range(count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
            sock.bind((HOST, 0))
            socks.append(sock)
            listens.append(Listen(f"{proto}{sock.getsockname()[1]}", proto, HOST, target, sock))
        self.client.listen(listens)
        port = int(socks[-1].getsockname()[1])
        for sock in socks:
            sock.close()
        return port

    def pair(self, proto: str, target: int) -> list[tuple[int, int]]:
        """(pid, port) of ours and of theirs, before the same back end."""
        return [(self.pid, self.pynet(proto, target)), self.docker(proto, target)]


def _run(load: str, *words: object) -> list[float]:
    command = [sys.executable, os.path.abspath(__file__), "--load", load, *map(str, words)]
    return [float(word) for word in subprocess.run(command, capture_output=True, check=True).stdout.split()]


def _row(name: str, unit: str, sides: list[list[float]], higher_is_better: bool) -> Row:
    return Row(name, unit, sides[0], sides[1], higher_is_better)


def _interleave(
    sides: list[tuple[int, int]], repetitions: int, measure: Callable[[int, int], list[float]]
) -> list[list[list[float]]]:
    """values[metric][side][repetition]; the first repetition is warm-up and is dropped."""
    results: list[list[list[float]]] = []
    for repetition in range(repetitions + 1):
        for side, (pid, port) in enumerate(sides):
            values = measure(pid, port)
            if not results:
                results = [[[], []] for _ in values]
            if repetition:
                for metric, value in enumerate(values):
                    results[metric][side].append(value)
    return results


def tcp_throughput(bench: Bench, repetitions: int, seconds: float) -> Iterator[Row]:
    sides = bench.pair("tcp", bench.backend("sink"))
    for streams in (1, 8):

        def measure(pid: int, port: int, streams: int = streams) -> list[float]:
            before = cpu_seconds(pid)
            (rate,) = _run("source", port, streams, seconds)
            return [rate / 1e9, (cpu_seconds(pid) - before) / (rate * seconds / (1 << 30))]

        speed, cpu = _interleave(sides, repetitions, measure)
        yield _row(f"TCP throughput, {streams} stream{'s' * (streams > 1)}", "GB/s", speed, True)
        yield _row(f"TCP CPU, {streams} stream{'s' * (streams > 1)}", "s/GiB", cpu, False)


def tcp_latency(bench: Bench, repetitions: int, count: int) -> Iterator[Row]:
    sides = bench.pair("tcp", bench.backend("echo"))
    p50, p99 = _interleave(sides, repetitions, lambda pid, port: _run("pingpong", port, count))
    yield _row("TCP 1-byte ping-pong p50", "us", p50, False)
    yield _row("TCP 1-byte ping-pong p99", "us", p99, False)


_NGINX = """daemon off; worker_processes 1; pid {dir}/pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_timeout 0; client_body_temp_path {dir}; proxy_temp_path {dir};
fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};
server {{ listen {host}:{port} backlog=4096; location / {{ return 200 "ok"; }} }} }}
"""


def tcp_connections(bench: Bench, stack: contextlib.ExitStack, repetitions: int, seconds: float) -> Iterator[Row]:
    wrk, nginx = shutil.which("wrk"), shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not wrk or not nginx:
        print("new connections are not measured: install wrk and nginx", file=sys.stderr)
        return
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    port = _free_port()
    with open(f"{directory}/conf", "w") as conf:
        conf.write(_NGINX.format(dir=directory, host=HOST, port=port))
    os.chmod(directory, 0o777)
    bench.start([nginx, "-c", f"{directory}/conf", "-p", directory, "-e", "/dev/null"])
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
            break
    sides = bench.pair("tcp", port)
    whole = max(1, round(seconds))
    for clients in (1, 32):

        def measure(pid: int, port: int, clients: int = clients) -> list[float]:
            before = cpu_seconds(pid)
            command = [wrk, "-t1", f"-c{clients}", f"-d{whole}s", "-H", "Connection: close", f"http://{HOST}:{port}/"]
            output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
            rate = float(output.partition("Requests/sec:")[2].split()[0])
            return [rate, (cpu_seconds(pid) - before) / (rate * whole) * 1e6]

        rates, cpu = _interleave(sides, repetitions, measure)
        yield _row(f"TCP new connections, {clients} at a time", "1/s", rates, True)
        yield _row(f"TCP CPU per connection, {clients} at a time", "us", cpu, False)


def udp(bench: Bench, repetitions: int, seconds: float) -> Iterator[Row]:
    sink = bench.backend("udp_sink")
    question = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    question.connect((HOST, sink))
    question.settimeout(5)

    def count() -> int:
        question.send(b"?")
        return int(question.recv(64))

    def one_way(pid: int, port: int) -> list[float]:
        count()
        before = cpu_seconds(pid)
        _run("udp_blast", port, seconds)
        arrived = count()
        return [arrived / seconds / 1e3, (cpu_seconds(pid) - before) / max(arrived, 1) * 1e6]

    with question:
        rates, cpu = _interleave(bench.pair("udp", sink), repetitions, one_way)
    yield _row("UDP one way, 64 bytes", "k/s", rates, True)
    yield _row("UDP CPU per datagram", "us", cpu, False)

    def round_trips(pid: int, port: int) -> list[float]:
        return [_run("udp_window", port, 64, seconds)[0] / 1e3]

    (rates,) = _interleave(bench.pair("udp", bench.backend("udp_echo")), repetitions, round_trips)
    yield _row("UDP round trips, 64 under way", "k/s", rates, True)


def memory(docker_proxy: str, processes: int) -> Iterator[Row]:
    """Fresh processes: PSS of a forwarder with 1,000 ports beside that of *processes* docker-proxies."""
    with contextlib.ExitStack() as stack:
        bench = Bench(stack, docker_proxy)
        idle = pss_kib(bench.pid)
        bench.pynet("tcp", 9, 1000)
        ours = pss_kib(bench.pid)
        pids = [bench.docker("tcp", 9)[0] for _ in range(processes)]
        theirs = sum(map(pss_kib, pids)) / processes
    yield Row("memory a port, at 1,000 ports", "KiB", [ours / 1000], [theirs], False)
    yield Row("memory, nothing published / one docker-proxy", "KiB", [float(idle)], [theirs], False)


def run(quick: bool) -> list[Row]:
    """Measure everything; about 20 s when *quick*, else under 2 minutes.  Empty when there is no docker-proxy."""
    docker_proxy = find_docker_proxy()
    if docker_proxy is None:
        print("docker-proxy is not installed (Debian: docker.io): nothing to compare with", file=sys.stderr)
        return []
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    repetitions, seconds, count = (1, 0.5, 2000) if quick else (5, 1.0, 10000)
    with contextlib.ExitStack() as stack:
        bench = Bench(stack, docker_proxy)
        rows = list(tcp_throughput(bench, repetitions, seconds))
        rows += tcp_connections(bench, stack, repetitions, seconds)
        rows += tcp_latency(bench, repetitions, count)
        rows += udp(bench, repetitions, seconds)
    rows += memory(docker_proxy, 20 if quick else 100)
    return rows


def table(rows: list[Row]) -> str:
    def spread(values: list[float]) -> str:
        return "/".join(f"{value:.4g}" for value in (min(values), statistics.median(values), max(values)))

    lines = [f"{'':46} {'unit':6} {'pynet min/median/max':24} {'docker-proxy':24} ratio"]
    for row in rows:
        arrow = "higher" if row.higher_is_better else "lower"
        lines.append(
            f"{row.name:46} {row.unit:6} {spread(row.ours):24} {spread(row.theirs):24} {row.ratio:.2f}x ({arrow} is better)"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the forwarder beside docker-proxy.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="write the raw values here")
    parser.add_argument("--load", choices=sorted(_LOADS), help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        _LOADS[options.load](*(float(word) if "." in word else int(word) for word in options.words))
        return
    rows = run(options.quick)
    print(table(rows))
    if options.json:
        with open(options.json, "w") as output:
            json.dump([{**row._asdict(), "ratio": row.ratio} for row in rows], output, indent=1)


if __name__ == "__main__":
    main()
