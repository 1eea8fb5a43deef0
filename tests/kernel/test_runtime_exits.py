"""The end of a container that something goes wrong with: it is told and on record, whatever it was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pynet.runtime import linux
from pynet.runtime.supervisor.cgroups import Cgroups
from pynet.runtime.supervisor.container import Container
from pynet.runtime.supervisor.context import Context
from pynet.runtime.supervisor.host import Host
from pynet.runtime.supervisor.loop import Loop
from pynet.runtime.supervisor.records import Record


def test_output_that_can_not_be_read_loses_no_exit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It left the container running for ever: stop, remove and wait hung with it."""
    loop, events = Loop(), list[dict[str, Any]]()
    context = Context(loop, Host(str(tmp_path)), Cgroups(""), events.append)
    record = Record(str(tmp_path / "c"))
    record.create()
    for name in ("out", "err"):
        record.make_fifo(name)
    limits = {"memory": 0, "memory_swap": 0, "nano_cpus": 0, "cpu_shares": 0, "cpuset_cpus": "", "pids": 0}
    spec: Any = {
        "id": "c", "name": "c", "tty": False, "open_stdin": False, "stdin_once": False, "log": str(tmp_path / "log"),
        "cgroup": "pynet-test/c", "limits": limits, "restart": {"name": "no", "max": 0}, "hold": True,
    }  # fmt: skip
    container = Container(context, record, spec, lambda _: None)
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    container.restore(
        {**container.state, "status": "running", "pid": process.pid, "start_time": linux.start_time(process.pid)}
    )
    _, out, _ = container.held_descriptors()
    loop.discard(out)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, out)  # no pipe: tee(2) says EINVAL
    os.close(null)
    ended = context.emit

    def emit(event: dict[str, Any]) -> None:
        ended(event)
        loop.running = False

    context.emit = emit
    process.communicate()
    loop.later(10, lambda: setattr(loop, "running", False))
    loop.run()
    assert [event["event"] for event in events] == ["exited"]
    assert record.load("state")["status"] == "exited"
    assert "output of container c is lost" in capsys.readouterr().err
    context.close()
