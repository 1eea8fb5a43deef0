"""Groups of the v2 tree alone, as on a host without v1: made, frozen, killed and removed with real processes."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.kernel import syscall as k
from pynet.runtime.child import devices
from pynet.runtime.spec import Limits
from pynet.runtime.supervisor.cgroups import Cgroups
from pynet.runtime.supervisor.confinement import Confinement
from pynet.runtime.supervisor.group import Group
from pynet.runtime.supervisor.loop import Loop

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
    group = v2.create(name, NO_LIMITS)
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


def test_a_group_that_can_not_be_made_whole_is_not_made(v2: Cgroups) -> None:
    """The kernel refuses a value half-way: no directory stays."""
    name = f"pynet-test-half-{os.getpid()}/c"
    limits: Any = {**NO_LIMITS, "memory": "much"}
    with pytest.raises(TypeError):
        v2.create(name, limits)
    assert not Path(v2.v2, name).exists()
    v2.remove_parents(name)


def test_a_limit_that_was_met_is_heard_of_once(group: Group, tmp_path: Path) -> None:
    """A read that does not begin at 0 does not re-arm EPOLLPRI (kernfs): the supervisor spun from then on.

    memory.events is cgroup.events here, which every v2 tree has and any process can change.
    """
    (tmp_path / "memory.events").touch()
    k.mount(f"{group.v2}/cgroup.events", str(tmp_path / "memory.events"), flags=k.MS_BIND)
    loop = Loop()
    confinement = Confinement(loop, Cgroups(""), lambda: None)
    confinement.group = Group("watched", {}, str(tmp_path))
    spec: Any = {"limits": {**NO_LIMITS, "memory": 1 << 20}}
    confinement.watch(spec)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        Path(group.v2, "cgroup.procs").write_text(str(process.pid))  # populated 1
        process.communicate()
    loop.later(0.3, lambda: setattr(loop, "running", False))
    before = time.process_time()
    loop.run()
    assert time.process_time() - before < 0.15, "the loop does nothing but to look at memory.events"
    confinement.unwatch()
    loop.close()
    k.umount2(str(tmp_path / "memory.events"))


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
    group = v2.create(name, NO_LIMITS)
    devices.guard([*devices.ALLOWED, *rules], v2=group.v2)
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
    group = v2.create(name, limits)
    missing = {"memory", "pids", "cpu"} - set(v2.v2_controllers)
    assert {warning.split()[0] for warning in group.warnings} == missing
    assert v2.find(name, limits).v2 == group.v2
    assert group.remove()
    assert group.remove(), "removing twice is no error"
    v2.remove_parents(name)


def test_where_nothing_may_be_made_limits_are_warnings() -> None:
    cgroups = Cgroups("")
    group = cgroups.create("a/b", {**NO_LIMITS, "memory": 1 << 20, "pids": -1})
    assert group.warnings == ["memory limit ignored: this process may not make cgroups (none are mounted)"]
    assert group.stats() == {}
    assert group.processes() == []
    assert group.open_v2() == -1
    assert group.remove()


def test_what_a_privileged_container_has_made_below_its_group_goes_with_it(v2: Cgroups) -> None:
    """Its rmdir(2) says EBUSY for ever: the directories stayed on the host."""
    name = f"pynet-test-nested-{os.getpid()}/c"
    group = v2.create(name, NO_LIMITS)
    Path(group.v2, "init.scope/deeper").mkdir(parents=True)
    assert group.remove()
    assert not os.path.exists(group.v2)
    v2.remove_parents(name)
