"""Control plane: how long commands take, beside Docker.

Every command is run in the same way for both, from spawn to exit of the client.  Repetitions are interleaved: one of
pynet, one of the peer, and again; those before the first that counts are warm-up.  What prepares and clears away is
not timed.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
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


def _attachment(peer: Peer, number: int) -> float:
    connected = peer.run("network", "connect", "attached", "sleeper")
    return (connected.seconds + peer.run("network", "disconnect", "attached", "sleeper").seconds) * 1e3


def _sleeper_beside_a_network(peer: Peer) -> None:
    _sleeper(peer)
    peer.run("network", "create", "attached")


def _sleeper(peer: Peer) -> None:
    peer.run("run", "-d", "--name", "sleeper", "busybox", "sleep", "10000")


CASES = (
    Case("run-none", "run --rm --network none, true", _run("--network", "none"), Target(0.15, 0.1)),
    Case("run", "run --rm, true", _run()),
    Case("run-p", "run --rm -p 18080:80, true", _run("-p", f"{PORT}:80"), Target(0.14, 0.12)),
    Case("run-d", "run -d -p 18080:80", _detached),
    Case("rm", "rm -f of a running one with a port", _remove),
    Case("network-create", "network create", _network, Target(0.28, 0.2)),
    Case("network-both", "network create + rm", _network_both, Target(0.2, 0.12)),
    Case("attach", "network connect + disconnect, running", _attachment, Target(0.25, 0.1), _sleeper_beside_a_network),
    Case("exec", "exec true", _in_container("exec", "sleeper", "true"), Target(0.36, 0.3), _sleeper),
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
    if only in ("", "control", "ps-client"):
        yield from clients(peers[0], warm_up, repetitions)


def clients(pynet: Peer, warm_up: int, repetitions: int) -> Iterator[Row]:
    """Both commands at one engine, pynetd: what is left of the difference is the client's."""
    client = newest_client()
    if not client:
        print("ps of two clients: no docker client of version 28 or newer on the path", file=sys.stderr, flush=True)
        return
    version = pynet.bed.run(client, "--version").out.split()[2].rstrip(",")
    _sleeper(pynet)
    ours: list[float] = []
    theirs: list[float] = []
    at_pynetd = {"DOCKER_HOST": pynet.environment()["PYNET_HOST"], "DOCKER_CONFIG": f"{pynet.bed.path}/config"}
    for number in range(-warm_up, repetitions * 2):
        own = pynet.run("ps").seconds
        other = pynet.bed.run(client, "ps", env=at_pynetd).seconds
        if number >= 0:
            ours.append(own * 1e3)
            theirs.append(other * 1e3)
    pynet.remove_all()
    yield Row("ps at one pynetd, by each client", "ms", ours, theirs, f"docker {version}", target=Target(1.0, 0.8))


def newest_client() -> str:
    """The docker command of version 28 or newer: ``PYNET_BENCH_CLIENT``, else the first on the path; "" when there is none."""
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        path = os.environ.get("PYNET_BENCH_CLIENT") or os.path.join(directory, "docker")
        if not os.access(path, os.X_OK):
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"version (\d+)", said)
        if found and int(found[1]) >= 28:
            return path
    return ""


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
