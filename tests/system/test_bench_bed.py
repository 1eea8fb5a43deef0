"""The bed in which peers are measured: commands run and are timed in it, and nothing outlives it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pynet.plugins.isolation import maps_every_uid

pytestmark = [pytest.mark.system, pytest.mark.skipif(not maps_every_uid(), reason="needs root with every uid")]
BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def bed() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("bench_bed", BENCH / "bed.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_bed"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_bed"]


def test_a_bed_runs_commands_and_takes_everything_along(bed: ModuleType) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    links = os.listdir("/sys/class/net")
    with bed.Bed("test") as one:
        result = one.run("sh", "-c", "echo out; echo err >&2; exit 3", check=False)
        assert (result.code, result.out, result.err) == (3, "out\n", "err\n") and 0 < result.seconds < 60
        with pytest.raises(bed.CommandFailed, match="exit status 3: sad"):
            one.run("sh", "-c", "echo sad; exit 3")
        with pytest.raises(bed.CommandFailed, match="FileNotFoundError"):
            one.run("no-such-program")
        assert one.run("sleep", "100", check=False, timeout=0.01).code == 124
        assert one.run("readlink", "/proc/self/ns/net").out.strip() != os.readlink("/proc/self/ns/net")
        one.run("ip", "link", "add", "left0", "type", "bridge")
        one.run("mount", "-t", "tmpfs", "none", "/mnt")
        daemon = one.spawn("sleep", "1000")
        one.run("sh", "-c", 'sleep 1000 & until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done')
        sleepers = [process for process in one.processes() if process.command == "sleep 1000"]
        assert daemon in [process.pid for process in sleepers] and len(sleepers) == 2
        assert all(process.pss > 0 for process in sleepers)
        group = bed.CGROUPS / "pids" / one.cgroup / "deep"
        if group.parents[1].is_dir():
            group.mkdir(parents=True)
        path = one.path
        worker = one._worker
    assert worker.poll() is not None
    assert not Path(path).exists() and not group.parent.exists()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert os.listdir("/sys/class/net") == links
