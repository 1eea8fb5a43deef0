"""The name server beside Docker's own resolver and aardvark-dns: questions a second, latency, CPU; changes; memory.

    python bench/bench_dns.py [--quick]

    load (dns_load.py) in a container's network namespace --> 127.0.0.11:53 --NAT--> dockerd, pynet's server, aardvark-dns

The load is one program, the same for all, and the sides take turns within a repetition; the ratio is the median of the
repetitions' own ratios.  pynet's and Docker's asker is a container on a network with another one, each engine in a bed; its
``--dns`` leads to an upstream in the bed, which is next door, so Docker forwards as fast as it can.  CPU is of the process
that answers; what the kernel does on the asker's side of loopback is the same for all.

Push: 1,000 sandboxes on a network of 5,000 names that have all asked ten questions; a container's address changes, and
the time ends when each of the 1,000 has been asked for it and has answered the new one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from dns_side import SANDBOXES
from dockerd import Docker
from peer import Peer
from pynet_peer import Pynet
from table import Row, Target, render, summary

from pynet.names.message import wire_name
from pynet.netlib.kernel.syscall import CLONE_NEWNET, setns
from pynet.netlib.naming import ADDRESS

HERE = Path(__file__).parent
WINDOWS = (1, 16, 64)
LOCAL, OUTSIDE, FRESH = "db", "www.example.com", "*.example.com"
SUBNET, UPSTREAM = "10.98.0.0/24", "10.98.0.1"
TARGETS = {
    (LOCAL, "rate", 1): Target(1.1),
    (LOCAL, "rate", 16): Target(1.0, 1.6),
    (LOCAL, "rate", 64): Target(1.0, 1.7),
    (LOCAL, "p99", 16): Target(1.0, 0.5),
    (LOCAL, "cpu", 16): Target(1.0, 0.5),
    (OUTSIDE, "rate", 16): Target(3.0, 10.0),
}
"""By name, what is measured and the window, against Docker's; towards aardvark-dns's."""
AARDVARK = os.environ.get("PYNET_BENCH_AARDVARK", "/usr/lib/podman/aardvark-dns")


class Side(NamedTuple):
    netns: str
    pid: int
    """Of the process that answers."""


@contextmanager
def helper(*words: str) -> Iterator[tuple[Side, list[str], subprocess.Popen[str]]]:
    """A side of dns_side.py, what else it said, and its process."""
    argv = [sys.executable, str(HERE / "dns_side.py"), *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            netns, pid, *more = process.stdout.readline().split()
            yield Side(netns, int(pid)), more, process
        finally:
            process.stdin.close()


@contextmanager
def engine(peer: Peer, server: str) -> Iterator[Side]:
    """A container of an engine on a network with another one; *server* is in the command line of what answers it."""
    with peer:
        peer.run("network", "create", "--subnet", SUBNET, "--gateway", UPSTREAM, "back")
        peer.bed.spawn(sys.executable, str(HERE / "dns_side.py"), "upstream")
        peer.run("run", "-d", "--network", "back", "--name", "db", "busybox", "sleep", "3600")
        peer.run("run", "-d", "--network", "back", "--name", "asker", "--dns", UPSTREAM, "busybox", "sleep", "3600")
        key = peer.run("inspect", "-f", "{{.NetworkSettings.SandboxKey}}", "asker").out.strip()
        (inner,) = [each.pid for each in peer.bed.processes() if server in each.command.split()[:4]]
        pid = peer.bed.outer_pid(inner)
        yield Side(f"/proc/{pid}/root{key.replace('/var/run/', '/run/')}", pid)


def cpu(pid: int) -> float:
    """Microseconds of processor time so far (proc_pid_schedstat: nanoseconds; a clock tick is as long as 2,000 questions)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e3


def load(side: Side, name: str, window: int, questions: int) -> dict[str, float]:
    argv = [sys.executable, str(HERE / "dns_load.py"), side.netns, ADDRESS, name, str(window), str(questions)]
    before = cpu(side.pid)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found | {"cpu": (cpu(side.pid) - before) / questions}


def against(rounds: int, questions: int) -> Iterator[Row]:
    """pynet's rows beside each peer that is installed."""
    with ExitStack() as stack:
        sides = {"pynet": stack.enter_context(engine(Pynet(), "pynet.names.process.server"))}
        missing = Docker.missing()
        if missing:
            print(f"nothing to compare with: no {missing}", file=sys.stderr)
        else:
            sides["docker"] = stack.enter_context(engine(Docker(), "dockerd"))
        if shutil.which(AARDVARK):
            sides["aardvark-dns"] = stack.enter_context(helper("aardvark", AARDVARK))[0]
        found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
        for _ in range(rounds):
            for what, window in (*((LOCAL, window) for window in WINDOWS), (OUTSIDE, 16), (FRESH, 16)):
                for name, side in sides.items():
                    if what == LOCAL or name != "aardvark-dns":
                        found.setdefault((name, what, window), []).append(load(side, what, window, questions))
    for peer in [name for name in sides if name != "pynet"] or ["docker"]:
        for window in WINDOWS:
            yield row("local name", LOCAL, "rate", "1/s", window, peer=peer, found=found)
        yield row("local name, p99", LOCAL, "p99", "us", 16, peer=peer, found=found)
        yield row("local name, CPU a query", LOCAL, "cpu", "us", 16, peer=peer, found=found)
        if peer == "docker":
            yield row("outside name, cached", OUTSIDE, "rate", "1/s", 16, peer=peer, found=found)
            yield row("outside names, each asked once", FRESH, "rate", "1/s", 16, peer=peer, found=found)


Found = Mapping[tuple[str, str, int], list[dict[str, float]]]


def row(what: str, asked: str, key: str, unit: str, window: int, *, peer: str, found: Found) -> Row:
    ours = [one[key] for one in found["pynet", asked, window]]
    theirs = [one[key] for one in found.get((peer, asked, window), [])]
    target = TARGETS.get((asked, key, window)) if peer == "docker" else None
    name = f"dns: {what}, window {window}"
    made = Row(name, unit, ours, theirs, peer, higher_is_better=key == "rate", target=target)
    if theirs:
        made.ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return made


def thousand(rounds: int) -> Iterator[Row]:
    with helper("thousand") as (side, ports, process):
        assert process.stdin and process.stdout
        home, fd = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(side.netns, os.O_RDONLY)
        setns(fd, CLONE_NEWNET)
        askers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ports]
        setns(home, CLONE_NEWNET)
        for asker, port in zip(askers, ports, strict=True):
            asker.connect((ADDRESS, int(port)))
            asker.settimeout(10)
        for number in range(10):
            for asker in askers:
                _ask(asker, f"container-{number}")
                asker.recv(4096)
        told, everywhere, memory = list[float](), list[float](), list[float]()
        for _ in range(rounds):
            start = perf_counter()
            process.stdin.write("change\n")
            process.stdin.flush()
            address, kib = process.stdout.readline().split()
            told.append((perf_counter() - start) * 1e3)
            for asker in askers:
                _ask(asker, "container-0")
            wrong = sum(not asker.recv(4096).endswith(socket.inet_aton(address)) for asker in askers)
            everywhere.append((perf_counter() - start) * 1e3)
            if wrong:
                raise SystemExit(f"{wrong} of {len(askers)} sandboxes were answered what was so before")
            memory.append(int(kib) / SANDBOXES)
        for each in askers:
            each.close()
        os.close(home)
        os.close(fd)
    what = "dns: 1,000 sandboxes, 5,000 names"
    yield Row(f"{what}: a change until it is told", "ms", told, [], target=None)
    yield Row(f"{what}: until answered everywhere", "ms", everywhere, [], target=Target(50, 10, absolute=True))
    yield Row(f"{what}: memory a sandbox", "KiB", memory, [], target=Target(20, absolute=True))


def _ask(asker: socket.socket, name: str) -> None:
    asker.send(b"\0\1\1\0\0\1\0\0\0\0\0\0" + wire_name(name) + b"\0\1\0\1")


def run(*, quick: bool) -> Iterator[Row]:
    yield from against(2 if quick else 7, 5_000 if quick else 50_000)
    yield from thousand(3 if quick else 15)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it work?")
    rows = list(run(quick=parser.parse_args().quick))
    print(f"{render(rows)}\n\n{summary(rows)}")


if __name__ == "__main__":
    main()
