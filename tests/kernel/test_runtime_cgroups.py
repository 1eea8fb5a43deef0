"""Groups of the v2 tree alone, as on a host without v1: made, frozen, killed and removed with real processes."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.runtime.spec import Limits
from pynet.runtime.supervisor.cgroups import Cgroups, Group

NO_LIMITS: Limits = {"memory": 0, "memory_swap": 0, "nano_cpus": 0, "cpu_shares": 0, "cpuset_cpus": "", "pids": 0}


@pytest.fixture
def v2() -> Cgroups:
    lines = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    cgroups = Cgroups("\n".join(lines))
    if not cgroups.v2 or cgroups.refused:
        pytest.skip("no cgroup2 tree is mounted here, or none may be made in it")
    return cgroups


@pytest.fixture
def group(v2: Cgroups) -> Iterator[Group]:
    name = f"pynet-test-v2-{os.getpid()}/c"
    group = v2.create(name, NO_LIMITS, devices=[])
    yield group
    assert group.remove()
    v2.remove_parents(name)
    assert not os.path.exists(os.path.dirname(group.v2)), "a cgroup was left"


def test_it_is_frozen_and_killed(group: Group) -> None:
    process = subprocess.Popen(["sleep", "1000"])
    pidfd = os.pidfd_open(process.pid)
    Path(group.v2, "cgroup.procs").write_text(str(process.pid))
    assert group.processes() == [process.pid]
    group.freeze(True)
    assert "frozen 1" in Path(group.v2, "cgroup.events").read_text()
    group.freeze(False)
    assert not group.remove(), "a busy group was removed"
    group.kill()
    assert select.select([pidfd], [], [], 10)[0]
    assert process.wait() == -9
    os.close(pidfd)


@pytest.mark.parametrize(("rules", "answer"), [([], "refused"), (["c 1:11 r"], "opened")])
def test_only_the_named_devices_are_opened(v2: Cgroups, rules: list[str], answer: str) -> None:
    if not v2.guards_devices:
        pytest.skip("device filters may not be loaded here")
    script = """
    mount -t tmpfs none "$2"
    echo 0 > "$1/cgroup.procs"
    true < /dev/null && true < /dev/zero && echo x > /dev/null && echo ordinary
    mknod "$2/kmsg" c 1 11 && echo made
    if true < "$2/kmsg"; then echo opened; else echo refused; fi
    true 2> /dev/null >> "$2/kmsg" || echo read-only
    """
    name = f"pynet-test-v2-{os.getpid()}/d"
    group = v2.create(name, NO_LIMITS, devices=rules)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", group.v2, folder],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    assert done.stdout.split() == ["ordinary", "made", answer, "read-only"], done.stderr
    assert group.remove()
    v2.remove_parents(name)


def test_limits_without_a_controller_are_warnings(v2: Cgroups) -> None:
    name = f"pynet-test-v2-{os.getpid()}/w"
    limits: Limits = {**NO_LIMITS, "memory": 64 << 20, "pids": 5, "nano_cpus": 10**9}
    group = v2.create(name, limits, devices=[])
    missing = {"memory", "pids", "cpu"} - set(v2.v2_controllers)
    assert {warning.split()[0] for warning in group.warnings} == missing
    assert v2.find(name, limits).v2 == group.v2
    assert group.remove()
    assert group.remove(), "removing twice is no error"
    v2.remove_parents(name)


def test_where_nothing_may_be_made_limits_are_warnings() -> None:
    cgroups = Cgroups("")
    group = cgroups.create("a/b", {**NO_LIMITS, "memory": 1 << 20, "pids": -1}, devices=[])
    assert group.warnings == ["memory limit ignored: this process may not make cgroups (none are mounted)"]
    assert group.stats() == {}
    assert group.processes() == []
    assert group.open_v2() == -1
    assert group.remove()
