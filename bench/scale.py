"""Many containers, many ports, and memory.

Memory is PSS of the engine's own processes: dockerd, containerd, shims and docker-proxies; pynetd, supervisor and
forwarder.  What containers use themselves is not counted for either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from bed import CommandFailed
from peer import Peer
from table import Row, Target

FIRST_PORT = 20000


def run(peers: list[Peer], *, quick: bool, only: str = "") -> Iterator[Row]:
    if only in ("", "scale", "idle"):
        yield idle(peers)
    if only in ("", "scale", "many"):
        yield from many(peers, 10 if quick else 50, 1 if quick else 3)
    if only in ("", "scale", "range"):
        yield from port_range(peers, 100 if quick else 1000)


def _for_each(peers: list[Peer], what: str, work: Callable[[Peer], list[float]]) -> dict[str, list[float]]:
    results: dict[str, list[float]] = {}
    for peer in peers:
        try:
            results[peer.name] = work(peer)
        except CommandFailed as error:
            print(f"{what}: {peer.name}: {error}", file=sys.stderr, flush=True)
            results[peer.name] = []
        finally:
            try:
                peer.remove_all()
            except CommandFailed as error:
                print(f"{what}: {peer.name}: clearing away: {error}", file=sys.stderr, flush=True)
    return results


def idle(peers: list[Peer]) -> Row:
    """After a container with a port has come and gone, so that all that is started on demand was started."""

    def work(peer: Peer) -> list[float]:
        peer.run("run", "--rm", "-p", "18080:80", "busybox", "true")
        return [peer.memory(idle=True)]

    found = _for_each(peers, "idle memory", work)
    return Row(
        "idle memory, PSS", "MiB", found.get("pynet", []), found.get("docker", []), target=Target(0.6, 0.4)
    )  # fmt: skip


def many(peers: list[Peer], count: int, repetitions: int) -> Iterator[Row]:
    """*count* containers with a port each, started one after the other, and removed by one command."""
    starts: dict[str, list[float]] = {peer.name: [] for peer in peers}
    ends: dict[str, list[float]] = {peer.name: [] for peer in peers}
    memory: dict[str, list[float]] = {peer.name: [] for peer in peers}

    def work(peer: Peer) -> list[float]:
        before = peer.memory()
        seconds = sum(
            peer.run("run", "-d", "-p", f"{FIRST_PORT + n}:80", "busybox", "sleep", "10000").seconds
            for n in range(count)
        )
        grown = (peer.memory() - before) / count
        ids = peer.run("ps", "-q").out.split()
        return [seconds, grown, peer.run("rm", "-f", *ids, timeout=600).seconds]

    for _ in range(repetitions):
        for name, values in _for_each(peers, f"{count} containers", work).items():
            if values:
                starts[name].append(values[0])
                memory[name].append(values[1])
                ends[name].append(values[2])
    ours, theirs = starts.get("pynet", []), starts.get("docker", [])
    yield Row(f"start {count} containers with a port each", "s", ours, theirs, target=Target(0.15, 0.1))
    yield Row(
        f"rm -f of {count} running containers", "s", ends.get("pynet", []), ends.get("docker", []),
        target=Target(0.12, 0.08),
    )  # fmt: skip
    yield Row("memory a running container with a port", "MiB", memory.get("pynet", []), memory.get("docker", []))


def port_range(peers: list[Peer], count: int) -> Iterator[Row]:
    """One container with a range of ports: Docker starts two proxies and adds three rules for each."""

    def work(peer: Peer) -> list[float]:
        before = peer.memory()
        ports = f"{FIRST_PORT}-{FIRST_PORT + count - 1}"
        start = peer.run(
            "run", "-d", "--name", "ranged", "-p", f"{ports}:{ports}", "busybox", "sleep", "10000", timeout=900
        )
        after = peer.memory()
        removed = peer.run("rm", "-f", "ranged", timeout=900)
        return [start.seconds, after - before, removed.seconds]

    found = _for_each(peers, f"{count} ports", work)

    def row(name: str, unit: str, index: int, target: Target | None) -> Row:
        values = {peer: [results[index]] if results else [] for peer, results in found.items()}
        return Row(name, unit, values.get("pynet", []), values.get("docker", []), target=target)

    yield row(f"range of {count} ports: run -d", "s", 0, Target(0.02, 0.005))
    yield row(f"range of {count} ports: memory", "MiB", 1, Target(0.05, 0.02))
    yield row(f"range of {count} ports: rm -f", "s", 2, None)
