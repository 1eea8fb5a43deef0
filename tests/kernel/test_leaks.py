"""The fixture that every kernel and system test has sees each kind of thing that a test can leave behind.

A suite of its own, under this project's conftest, leaks each kind on purpose and has to fail for it, with a line that says what.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.addressing import Addressing
from pynet.netlib.controller import Controller
from pynet.netlib.model import IpamConfig
from pynet.netlib.ports.hostports import HostPorts
from pynet.netlib.ports.portspec import parse_publish

from support.leaks import lost_leases
from support.suites import run_suite

TESTS = Path(__file__).parents[1]
SOURCE = """
import os, signal, socket, subprocess, sys, threading, time
import pytest
from pynet.netlib.kernel.netns import NetnsThread
from pynet.netlib.kernel.rtnetlink import Rtnetlink
from pynet.netlib.kernel.syscall import mount
from support import leaks
from support.engine import Daemon

leaks.PATIENCE = 0.05
pytestmark = pytest.mark.kernel
KEPT = []


@pytest.fixture(scope="module")
def shared():
    with Daemon.running() as daemon:
        yield daemon

"""
LEAKS = {
    "links": 'Rtnetlink().add_bridge("br0")',
    "nftables": 'subprocess.run(["nft", "add table inet left"], check=True)',
    "mounts": 'mount("x", str(tmp_path), "tmpfs")',
    "namespaces": 'with NetnsThread() as thread: thread.create(str(tmp_path / "pin"))',
    "sockets": 'KEPT.append(socket.create_server(("127.0.0.1", 0)))',
    "unix sockets": 'KEPT.append(sock := socket.socket(socket.AF_UNIX)); sock.bind(str(tmp_path / "s")); sock.listen()',
    "threads": 'threading.Thread(target=threading.Event().wait, daemon=True, name="left").start()',
    "fds": "os.dup(0)",
    "cgroups": "os.mkdir(GROUP)",
    "children": 'KEPT.append(subprocess.Popen(["sleep", "1000"], env={}))',
    "orphans": 'subprocess.run(["sh", "-c", "setsid unshare -nm sleep 1000 <&- >&- 2>&- &"], check=True)',
    "daemons": "[KEPT.append(c) or c.connect() for c in [shared.connection()]]",
}
LINES = {
    "namespaces": r"\+ mounts: \S+/pin nsfs",
    "unix sockets": r"\+ sockets: unix \S+/s",
    "children": r"\+ processes: \d+ sleep",
    "orphans": r"\+ processes: \d+ sleep",
    "daemons": r"\+ fds of pynetd: socket:",
}
"""What shall be said of a leak, where it is not "+ KIND: "."""


def own_group() -> Path | None:
    """Where the suite, whose own pid will be 1, makes a group; None where no group can be made."""
    for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        group = top / f"pynet-leaks-{os.getpid()}-1"
        if (top / "cgroup.procs").exists():
            try:
                group.mkdir()
            except OSError:
                continue
            group.rmdir()
            return group
    return None


def test_whatever_a_test_leaves_is_seen_and_told(tmp_path: Path) -> None:
    group, leaks = own_group(), dict(LEAKS)
    if group is None:
        del leaks["cgroups"]
    source = SOURCE + f"GROUP = {str(group)!r}\n\n"
    for number, (kind, statement) in enumerate(leaks.items()):
        fixture = "tmp_path, shared" if kind == "daemons" else "tmp_path"
        source += f"def test_{number}_{kind.replace(' ', '_')}({fixture}):\n    {statement}\n\n"
    source += f"def test_{len(leaks)}_clean(tmp_path, shared):\n    assert shared.get('/_ping').status == 200\n"
    prefix = ("env", f"PYTHONPATH={TESTS}", *KILLS_ALL)
    try:
        counts, output = run_suite(tmp_path, source, "-p", "conftest", prefix=prefix)
    finally:
        if group is not None:
            group.rmdir()
    assert counts == {"passed": len(leaks) + 1, "error": len(leaks)}, output
    for number, kind in enumerate(leaks):
        line = LINES.get(kind, rf"\+ {kind}: ")
        said = rf"ERROR at teardown of test_{number}_{kind.replace(' ', '_')} _+\nthe test left something behind:\n(.*\n)*?{line}"
        assert re.search(said, output), f"{kind} was not noticed\n{output}"
    assert "Look(" not in output and "Snapshot(" not in output, "buried the message"


KILLS_ALL = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""In a pid namespace whatever leaks ends with the suite."""


@pytest.mark.parametrize(
    ("owner", "verb", "said"),
    [
        (Addressing, "release", "+ leases: address of 10.1.0.0/24"),
        (HostPorts, "give_back", "+ leases: port PortLease("),
    ],
)
def test_a_lease_that_no_record_explains_is_seen(
    start_controller: Callable[..., Controller], monkeypatch: pytest.MonkeyPatch, owner: Any, verb: str, said: str
) -> None:
    controller = start_controller()
    network = controller.create_network("web", ipam=[IpamConfig(subnet="10.1.0.0/24")])
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    endpoint.publish(parse_publish("8080:80"))
    held: list[tuple[Any, ...]] = []

    def forget(*arguments: Any, **_: Any) -> None:
        held.append(arguments)

    with monkeypatch.context() as forgetful:
        forgetful.setattr(owner, verb, forget)
        sandbox.delete()
        endpoint.delete()
    found = lost_leases(controller)
    assert found and all(line.startswith(said) for line in found)
    for arguments in held:
        getattr(owner, verb)(*arguments)
    assert lost_leases(controller) == []
