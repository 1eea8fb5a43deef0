"""A supervisor of its own for tests of the runtime: a busybox layer, specifications, a pipe to talk to a container."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pynet.runtime.client import ExecStarted, SupervisorClient
from pynet.runtime.launch import spawn
from pynet.runtime.spec import DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS, ContainerSpec, ExecSpec

from support.leaks import RUNS

BUSYBOX = Path("/bin/busybox")
BOUND = 20.0
NO_MAP = Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
needs_root = pytest.mark.skipif(NO_MAP, reason="needs several uids: this is a user namespace with one")


class Result(NamedTuple):
    code: int
    out: str
    err: str
    state: dict[str, Any]

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Lab:
    """A supervisor with a directory, a busybox layer and a cgroup parent of its own."""

    def __init__(self, base: Path) -> None:
        self.base, self.run_directory = base, base / "run"
        self.layer = base / "layer"
        for folder in ("bin", "etc", "tmp"):
            (self.layer / folder).mkdir(parents=True)
        shutil.copy2(BUSYBOX, self.layer / "bin/busybox")
        for name in subprocess.check_output([BUSYBOX, "--list"], text=True).split():
            if name != "busybox":
                (self.layer / "bin" / name).symlink_to("busybox")
        (self.layer / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/srv:/bin/sh\n")
        (self.layer / "etc/group").write_text("root:x:0:\nweb:x:1001:\nlogs:x:50:web\n")
        self.cgroup = f"pynet-test-{os.getpid()}-{base.name}"
        self.events: list[dict[str, Any]] = []
        self._condition = threading.Condition()
        self._count = 0
        self.pid = spawn(self.run_directory)
        self.client = SupervisorClient(self.run_directory / "supervisor.sock")
        self.client.subscribe(self.event)
        self.descriptors = self.open_descriptors()
        self.has_cgroups = bool(self.client.info()["cgroups"])

    def event(self, event: dict[str, Any]) -> None:
        with self._condition:
            self.events.append(event)
            self._condition.notify_all()

    def wait(self, kind: str, id: str, check: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The event *kind* of container *id*, seen already or still to come."""

        def find() -> dict[str, Any] | None:
            found = [e for e in self.events if e["event"] == kind and e["id"] == id and check(e)]
            return found[-1] if found else None

        with self._condition:
            assert self._condition.wait_for(lambda: find() is not None, BOUND), (kind, id, self.events[-10:])
            event = find()
            assert event is not None
            return event

    def spec(self, *args: str, **changes: Any) -> ContainerSpec:
        self._count += 1
        id = f"c{self._count}"
        directory = self.base / id
        for folder in ("upper", "work"):
            (directory / folder).mkdir(parents=True)
        limits = {"memory": 0, "memory_swap": 0, "nano_cpus": 0, "cpu_shares": 0, "cpuset_cpus": "", "pids": 0}
        limits.update(changes.pop("limits", {}))
        spec: Any = {
            "id": id, "name": id, "args": list(args), "env": [], "cwd": "/", "user": "", "groups": [],
            "hostname": "box",
            "rootfs": {"lower": [str(self.layer)], "upper": str(directory / "upper"), "work": str(directory / "work"),
                       "readonly": False},
            "mounts": [], "netns": "", "limits": limits, "cgroup": f"{self.cgroup}/{id}",
            "capabilities": list(DEFAULT_CAPABILITIES), "privileged": False, "no_new_privileges": False,
            "seccomp": "default", "masked_paths": list(MASKED_PATHS), "readonly_paths": list(READONLY_PATHS),
            "devices": [], "sysctls": {}, "rlimits": [], "oom_score_adj": 0, "tty": False, "open_stdin": False,
            "stdin_once": False, "init": False, "shm_size": 0, "stop_signal": 15, "stop_timeout": 10,
            "restart": {"name": "no", "max": 0}, "log": str(directory / "log.json"), "hold": True,
        }  # fmt: skip
        spec.update(changes)
        result: ContainerSpec = spec
        return result

    def control(self, spec: ContainerSpec) -> Control:
        """A directory at /control with FIFOs ``go`` and ``up``: how a test and a container tell each other things."""
        control = Control(self.base / spec["id"] / "control")
        spec["mounts"].append(bind(control.directory, "/control"))
        return control

    def finish(self, spec: ContainerSpec) -> Result:
        """The end of a started container; its record is removed."""
        event = self.wait("exited", spec["id"], lambda e: not e["restarting"])
        state = self.client.state(spec["id"])
        self.client.remove(spec["id"])
        out, err = self.output(spec)
        return Result(event["exit_code"], out, err, state)

    def output(self, spec: ContainerSpec) -> tuple[str, str]:
        text = {"stdout": "", "stderr": ""}
        for record in self.records(spec):
            text[record["stream"]] += record["log"]
        return text["stdout"], text["stderr"]

    def records(self, spec: ContainerSpec) -> list[dict[str, str]]:
        return [json.loads(line) for line in Path(spec["log"]).read_text().splitlines()]

    def run(self, *args: str, **changes: Any) -> Result:
        spec = self.spec(*args, **changes)
        self.client.start(spec)
        return self.finish(spec)

    def sh(self, script: str, **changes: Any) -> Result:
        return self.run("sh", "-c", script, **changes)

    def kill_supervisor(self) -> None:
        pidfd = os.pidfd_open(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        self._collected(pidfd)

    def _collected(self, pidfd: int) -> None:
        """Wait for the supervisor's end, and for the thread that collects it, which another test would miss."""
        reaped = select.poll()
        reaped.register(pidfd, 0)  # HUP alone: it is reaped
        assert reaped.poll(BOUND * 1000), "the supervisor did not end"
        os.close(pidfd)
        for thread in threading.enumerate():
            if getattr(thread, "pid", 0) == self.pid:
                thread.join(BOUND)

    def open_descriptors(self) -> int:
        self.client.list()
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def close(self) -> None:
        for state in self.client.list():
            if state["status"] in ("running", "paused", "restarting"):
                self.client.kill(state["id"], 9)
                self.wait("exited", state["id"])
            self.client.remove(state["id"])
        assert self.open_descriptors() == self.descriptors, os.listdir(f"/proc/{self.pid}/fd")
        pidfd = os.pidfd_open(self.pid)
        self.client.shutdown()
        self._collected(pidfd)


class Control:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        directory.chmod(0o777)
        for name in ("go", "up"):
            os.mkfifo(directory / name)
            (directory / name).chmod(0o666)
        self._up = os.open(directory / "up", os.O_RDWR | os.O_NONBLOCK)
        self._go = os.open(directory / "go", os.O_RDWR)

    def heard(self) -> str:
        """One line that the container wrote to ``up``."""
        line = b""
        while not line.endswith(b"\n"):
            assert select.select([self._up], [], [], BOUND)[0], f"the container said nothing more than {line!r}"
            line += os.read(self._up, 1)
        return line.decode().strip()

    def say(self, text: str) -> None:
        os.write(self._go, text.encode())

    def close(self) -> None:
        os.close(self._up)
        os.close(self._go)


@contextmanager
def waiting(lab: Lab, **changes: Any) -> Generator[ContainerSpec]:
    """A container that does nothing and ends with the block."""
    spec = lab.spec("sh", "-c", "read x < /control/go", **changes)
    control = lab.control(spec)
    lab.client.start(spec)
    yield spec
    control.say("\n")
    lab.finish(spec)
    control.close()


def bind(source: Path, target: str, *, readonly: bool = False, propagation: str = "") -> Any:
    return {
        "type": "bind", "source": str(source), "target": target, "readonly": readonly, "recursive": True,
        "propagation": propagation, "options": "",
    }  # fmt: skip


def read_all(fd: int) -> str:
    data = b""
    while True:
        assert select.select([fd], [], [], BOUND)[0]
        try:
            piece = os.read(fd, 65536)
        except OSError:  # EIO: the terminal hung up
            break
        if not piece:
            break
        data += piece
    os.close(fd)
    return data.decode()


def command(*args: str, **changes: Any) -> ExecSpec:
    """What joins a container: *args* without a terminal and without an input."""
    process: Any = {
        "args": list(args), "env": [], "cwd": "", "user": "", "tty": False, "size": None, "privileged": False, "stdin": False,
    }  # fmt: skip
    process.update(changes)
    result: ExecSpec = process
    return result


def exec_output(lab: Lab, spec: ContainerSpec, process: ExecSpec, id: str) -> tuple[ExecStarted, str]:
    started = lab.client.exec(spec["id"], process, id)
    text = read_all(started.fds[0])
    for fd in started.fds[1:]:
        os.close(fd)
    return started, text


@contextmanager
def running_lab(base: Path) -> Generator[Lab]:
    """A Lab below *base*, which must end as it began."""
    assert BUSYBOX.exists(), "these tests need Debian's busybox-static"
    RUNS.add(base / "run")
    lab = Lab(base)
    yield lab
    lab.close()
    RUNS.discard(base / "run")
    assert str(base) not in Path("/proc/self/mountinfo").read_text(), "a mount was left in the host's table"
    left = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{lab.cgroup}")]
    assert not left, "cgroups were left"
    assert not list((lab.run_directory / "containers").iterdir()), "records were left"
    complaints = (lab.run_directory / "supervisor.log").read_text()
    assert "Traceback" not in complaints, complaints
