"""What a test has left behind, wherever: one look before it and one after, compared (conftest's ``nothing_left``).

    network, sockets, mounts, threads, fds    of this process and the namespace it lives in (pynet's own Snapshot)
    processes     children, all that inherited the test run's mark, and those whose root lies in a directory of ours
    cgroups       below the names that our daemons, and tests by their pid, give them
    daemons       the descriptors of each live pynetd, supervisor and forwarder: back to the level before
    leases        addresses and ports that a controller's memory and its store do not agree on (``lost_leases``)

A server that several tests share may listen on new sockets and start workers meanwhile: what a process that was there
before the test makes is that process's.

One look takes about four milliseconds.  After the test all is looked at until it agrees, a few times within a few
seconds; only a leak costs those.
"""

from __future__ import annotations

import gc
import os
import re
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pynet.ipam.driver import DefaultIpam
from pynet.netlib.addressing import Addressing
from pynet.netlib.controller import Controller
from pynet.netlib.driver import Reserved
from pynet.netlib.instance import Instance
from pynet.netlib.ports.hostports import HostPorts
from pynet.plugins.snapshot import Snapshot
from pynet.plugins.testhost import Host

from support.engine import Daemon
from support.waiting import PATIENCE

MARK = "PYNET_TEST_RUN"
"""An environment variable that every descendant of the tests inherits, unless somebody cleans it."""
ONCE = {
    ("pynetd", "anon_inode:inotify"): "one for all files of logs, when the first is followed",
    ("forwarder", "/dev/null"): "for the first worker",
    ("forwarder", "anon_inode:[pidfd]"): "a pynetd that was killed is its child, when it was first to start it again",
}
"""What a daemon opens at its first need and keeps."""
RUNS: set[Path] = set()
"""Run directories of supervisors that several tests share and some of them kill."""
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_ADDRESS = re.compile(r". (addresses|routes): .*\b(fe80|ff00)::")
"""A link's own address (RFC 4291, 2.5.6) comes at any time after the link."""
_listeners: dict[tuple[str, int], int] = {}


def mark(environment: Any = os.environ) -> None:
    """Give this process, a worker say, a mark of its own."""
    environment[MARK] = f"{os.getpid()}."


class Look(NamedTuple):
    """What is there now."""

    here: Snapshot
    pids: frozenset[int]
    """All on the machine: what is new after the test is looked at closely."""
    shared: bool
    """Whether servers of ours run already, which several tests share."""
    cgroups: frozenset[str]
    daemons: dict[int, tuple[str, Counter[str]]]
    """By pid: what it is, and its descriptors."""

    @classmethod
    def take(cls) -> Look:
        daemons = {pid: (name, _descriptors(pid)) for pid, name in _daemons().items()}
        shared = bool(_children(os.getpid()))
        return cls(Snapshot.take(), frozenset(_pids()), shared, frozenset(_cgroups()), daemons)

    def left(self, directories: Iterable[str]) -> list[str]:
        """What is there now and was not, or is gone, a line each.  *directories* are the tests' own."""
        now = Look.take()
        lines = [line for line in self.here.difference(now.here).splitlines() if not self._is_anothers(line)]
        for pid in sorted(now.pids - self.pids - set(now.daemons)):
            if shown := self._came_from_here(pid, directories):
                lines.append(f"+ processes: {pid} {shown}")
        groups = now.cgroups - self.cgroups
        lines += [
            f"+ cgroups: {name}" for name in sorted(groups) if not self.shared or "/pynet" in os.path.dirname(name)
        ]
        for pid, (name, before) in self.daemons.items():
            more = now.daemons.get(pid, (name, Counter()))[1] - before
            lines += [f"+ fds of {name}: {line}" for line in sorted(more.elements()) if (name, line) not in ONCE]
        return lines

    def _is_anothers(self, line: str) -> bool:
        """Processes are looked at below."""
        section = line[2:].partition(":")[0]
        return section == "processes" or (self.shared and section == "sockets") or bool(_OWN_ADDRESS.match(line))

    def _came_from_here(self, pid: int, directories: Iterable[str]) -> str:
        """What *pid* is if it came from this test and still lives, else ""."""
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                head, _, tail = file.read().rpartition(")")
            parent = int(tail.split()[1])
            if parent in self.pids and parent not in (1, os.getpid()):
                return ""  # its parent was there before
            with open(f"/proc/{pid}/environ", "rb") as file:
                marked = f"{MARK}={os.environ[MARK]}".encode() in file.read().split(b"\0")
            if not marked and parent != os.getpid():
                with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
                    root = file.readline()
                if not any(f"{directory}/" in root for directory in directories):
                    return ""
        except OSError:  # it ended
            return ""
        return head.partition("(")[2]

    def settled(self, directories: Iterable[str]) -> list[str]:
        """``left`` as soon as that is nothing, or what it is after PATIENCE."""
        directories = list(directories)
        if not (lines := self.left(directories)):
            return lines
        gc.collect()  # descriptors in unreachable cycles are not leaks
        pause, deadline = 0.002, time.monotonic() + PATIENCE
        while (lines := self.left(directories)) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
        return lines


@contextmanager
def ends_with_its_process() -> Generator[None]:
    """For what never closes, as its process ends with it (a supervisor, its loop): closes what was opened meanwhile."""
    before = set(os.listdir("/proc/self/fd"))
    try:
        yield
    finally:
        for name in set(os.listdir("/proc/self/fd")) - before:
            with suppress(OSError):  # the one that listed
                os.close(int(name))


def changes(host: Host, before: Snapshot) -> list[str]:
    """What is not as it was *before*, a line each, when what goes by itself has gone."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = before.difference(host.snapshot()).splitlines()
        lines = [line for line in found if not _OWN_ADDRESS.match(line)]
        if not lines or time.monotonic() > deadline:
            return lines
        select.select([], [], [], 0.01)


def lost_leases(controller: Controller) -> list[str]:
    """Addresses and ports that *controller* holds and no record explains (+), or the reverse (-), a line each."""
    registry = controller.registry
    addressing = Addressing(controller.core.addressing.pools)
    ports = HostPorts(has_proxy=False)
    for network in registry.networks.values():
        addressing.restore(network, registry.endpoints_of_network(network.id), Reserved())
    for sandbox in registry.sandboxes.values():
        ports.restore(sandbox.id, sandbox.ports)
    explained = _leases(addressing, ports)
    held = _leases(controller.core.addressing, controller.tools.ports)
    return [f"+ leases: {lease}" for lease in sorted((held - explained).elements())] + [
        f"- leases: {lease}" for lease in sorted((explained - held).elements())
    ]


def _leases(addressing: Addressing, ports: HostPorts) -> Counter[str]:
    ipam = addressing.driver("default")
    assert isinstance(ipam, DefaultIpam)
    pools = ipam._space.pools
    found = Counter({f"address of {pool.prefix}": pool.used for pool in pools})
    found.update(f"pool {pool.prefix}" for pool in pools)
    found.update(f"port {lease}" for lease in ports._table)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _daemons() -> dict[int, str]:
    """The processes of the live daemons of these tests, workers of forwarders included."""
    found: dict[int, str] = {}
    for run in (*(daemon.run for daemon in Daemon.live), *RUNS):
        for name, path in (
            *(("pynetd", "pynet"), ("supervisor", "supervisor"), ("forwarder", "forwarder")),
            ("names", "names"),
        ):
            if pid := _holder(run, name, f"{path}.sock"):
                found[pid] = name
    return found


def _holder(run: Path, name: str, sock: str) -> int:
    """A daemon's pid from its lock file; the forwarder writes none there, but listens."""
    try:
        text = (run / f"{name}.lock").read_text().strip()
        pid = int(text) if text.isdigit() else _listener(run / sock)
    except OSError:
        return 0
    return pid if pid and os.path.exists(f"/proc/{pid}") else 0


def _listener(path: Path) -> int:
    """Who listens at a unix socket (SO_PEERCRED, unix(7)), asked once for each socket; 0 when nobody does."""
    try:
        key = (str(path), path.stat().st_ino)
        if key not in _listeners:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                _listeners[key] = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return _listeners[key] if os.path.exists(f"/proc/{_listeners[key]}") else 0
    except OSError:
        return 0


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _descriptors(pid: int) -> Counter[str]:
    """What *pid* has open, by kind; the store's, one for each thread that asked it something, left out."""
    found: Counter[str] = Counter()
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:  # the process ended
        return found
    for name in names:
        try:
            target = os.readlink(f"{directory}/{name}")
        except OSError:  # closed meanwhile
            continue
        if not re.search(r"/pynet\.db(-wal|-shm)?$", target):
            found[re.sub(r"\[\d+\]", "", target)] += 1
    return found


def _cgroups() -> list[str]:
    """Groups of ours in any hierarchy: parents by the names that we know, and what is in them."""
    names = {Instance.at(daemon.root).cgroup for daemon in Daemon.all}
    found: list[str] = []
    try:
        tops = [_CGROUPS, *_CGROUPS.iterdir()]
    except OSError:
        return found
    for top in tops:
        try:
            entries = [entry.path for entry in os.scandir(top) if entry.name.startswith("pynet")]
        except OSError:
            continue
        for path in entries:
            name = os.path.basename(path)
            if name in names or re.match(rf"pynet-.*\b{os.getpid()}\b", name):
                with suppress(OSError):  # its supervisor removes it just now
                    found += [path, *(entry.path for entry in os.scandir(path) if entry.is_dir())]
    return found
