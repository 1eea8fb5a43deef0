"""Control plane: how long commands take, beside Docker.

Every command is run in the same way for both, from spawn to exit of the client.  Repetitions are interleaved: one of
pynet, one of the peer, and again; those before the first that counts are warm-up.  What prepares and clears away is
not timed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from bed import CommandFailed
from peer import Peer
from table import Row, Target

Measure = Callable[[Peer, int], float]
PORT = 18080


@dataclass(frozen=True)
class Case:
    key: str
    name: str
    measure: Measure
    """(peer, number of the repetition) to milliseconds."""
    target: Target | None = None
    setup: Callable[[Peer], object] | None = None


def _run(*options: str) -> Measure:
    return lambda peer, _: peer.run("run", "--rm", *options, "busybox", "true").seconds * 1e3


def _detached(peer: Peer, number: int) -> float:
    name = f"detached{number}"
    result = peer.run("run", "-d", "--name", name, "-p", f"{PORT}:80", "busybox", "sleep", "1000")
    peer.run("rm", "-f", name)
    return result.seconds * 1e3


def _remove(peer: Peer, number: int) -> float:
    name = f"removed{number}"
    peer.run("run", "-d", "--name", name, "-p", f"{PORT}:80", "busybox", "sleep", "1000")
    return peer.run("rm", "-f", name).seconds * 1e3


def _network(peer: Peer, number: int) -> float:
    name = f"created{number}"
    result = peer.run("network", "create", name)
    peer.run("network", "rm", name)
    return result.seconds * 1e3


def _network_both(peer: Peer, number: int) -> float:
    name = f"both{number}"
    return (peer.run("network", "create", name).seconds + peer.run("network", "rm", name).seconds) * 1e3


def _in_container(*args: str) -> Measure:
    return lambda peer, _: peer.run(*args).seconds * 1e3


def _sleeper(peer: Peer) -> None:
    peer.run("run", "-d", "--name", "sleeper", "busybox", "sleep", "10000")


CASES = (
    Case("run-none", "run --rm --network none, true", _run("--network", "none")),
    Case("run", "run --rm, true", _run()),
    Case("run-p", "run --rm -p 18080:80, true", _run("-p", f"{PORT}:80"), Target(0.25, 0.12)),
    Case("run-d", "run -d -p 18080:80", _detached),
    Case("rm", "rm -f of a running one with a port", _remove),
    Case("network-create", "network create", _network, Target(0.5, 0.3)),
    Case("network-both", "network create + rm", _network_both),
    Case("exec", "exec true", _in_container("exec", "sleeper", "true"), setup=_sleeper),
    Case("ps", "ps, one container", _in_container("ps"), setup=_sleeper),
    Case("version", "--version (no daemon)", _in_container("--version"), Target(1.0)),
)


def run(peers: list[Peer], *, quick: bool, only: str = "") -> Iterator[Row]:
    """Rows of all cases; a case that fails for a peer has no values for it and says why."""
    warm_up, repetitions = (1, 3) if quick else (2, 15)
    for case in CASES:
        if only and only not in ("control", case.key):
            continue
        yield measure(case, peers, warm_up, repetitions)


def measure(case: Case, peers: list[Peer], warm_up: int, repetitions: int) -> Row:
    values: dict[str, list[float]] = {peer.name: [] for peer in peers}
    failed: dict[str, str] = {}
    for peer in peers:
        with _noting(failed, peer):
            if case.setup is not None:
                case.setup(peer)
    for number in range(-warm_up, repetitions):
        for peer in peers:
            if peer.name in failed:
                continue
            with _noting(failed, peer):
                taken = case.measure(peer, number + warm_up)
                if number >= 0:
                    values[peer.name].append(taken)
    for peer in peers:
        with _noting(failed, peer):
            peer.remove_all()
    note = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    if note:
        print(f"{case.name}: {note}", file=sys.stderr, flush=True)
    return Row(case.name, "ms", values.get("pynet", []), values.get("docker", []), target=case.target, note=note)


@contextlib.contextmanager
def _noting(failed: dict[str, str], peer: Peer) -> Generator[None, None, None]:
    try:
        yield
    except CommandFailed as error:
        failed[peer.name] = str(error)
