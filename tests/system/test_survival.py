"""Nothing dies: kill -9 of pynetd, the supervisor and the forwarder, in every order, under traffic.

What is checked: a container writes numbered lines all the while, until it is told to end with a known code; a LAN client
asks the NAT'd port without a pause; a connection through the proxy stays open.  No line, no exit code, no published port may
be lost, and the dead process must be back.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.plugins.testhost import Host, Lan

PROCESSES = ("pynetd", "supervisor", "forwarder")
SOCKETS = {"pynetd": "pynet.sock", "supervisor": "supervisor.sock", "forwarder": "forwarder.sock"}
LIMIT = 20.0
"""Seconds within which a dead process must be back; a bound, not a measurement."""


class Engine:
    """One pynet of its own, driven by its command."""

    def __init__(self, directory: Path) -> None:
        self.run_directory = directory / "run"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYNET_", "DOCKER_"))},
            "PYNET_ROOT": str(directory / "root"),
            "PYNET_RUN": str(self.run_directory),
        }

    def __call__(self, *words: str, code: int = 0, timeout: float = 60) -> str:
        done = subprocess.run(
            [sys.executable, "-I", "-m", "pynet", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == code, f"pynet {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def pid(self, process: str) -> int | None:
        """The pid of whoever listens on the process's socket now (SO_PEERCRED, unix(7))."""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(LIMIT)
                sock.connect(str(self.run_directory / SOCKETS[process]))
                pid, _, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                return int(pid)
        except OSError:
            return None

    def kill(self, process: str) -> int:
        pid = self.pid(process)
        assert pid is not None
        kill(pid)
        return pid

    def wait_for(self, process: str, old: int) -> int:
        """The pid of the one that took the place of *old*."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            pid = self.pid(process)
            if pid is not None and pid != old:
                self("ps", "-q")  # pynetd listens before it is ready; a command waits until it is
                return pid
            threading.Event().wait(0.01)  # a socket that is not there yet gives nothing else to wait for
        pytest.fail(f"{process} did not come back within {LIMIT} s")


def kill(pid: int) -> None:
    """kill -9, and wait until it is dead."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        assert select.select([fd], [], [], LIMIT)[0], "a process survived kill -9"
    finally:
        os.close(fd)


@pytest.fixture
def engine(host: Host) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="pn", dir="/tmp") as directory:
        engine = Engine(Path(directory))
        engine("image", "bootstrap")
        try:
            yield engine
        finally:
            for line in engine("ps", "-aq").split():
                engine("rm", "-f", line)
            assert json.loads(engine("check", "--json") or "[]") == []
            engine("daemon", "stop", "--all")


class Traffic:
    """A LAN client that opens one connection after the other and wants the page each time."""

    def __init__(self, lan: Lan, port: int) -> None:
        self._lan, self._port = lan, port
        self.answered = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._lan.connect((self._lan.host_address, self._port)) as sock:
                    assert page(sock) == "here I am\n"
                    self.answered += 1
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))


def page(sock: socket.socket) -> str:
    sock.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
    data = b""
    while part := sock.recv(4096):
        data += part
    return data.partition(b"\r\n\r\n")[2].decode()


WRITER = "trap 'echo the end; exit 42' TERM; i=0; while :; do echo line $i; i=$((i+1)); usleep 10000; done"
SERVER = "mkdir /www; echo here I am > /www/index.html; exec httpd -f -p 80 -h /www"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("order", [*itertools.permutations(PROCESSES)], ids="-".join)
def test_any_order_of_deaths_loses_nothing(engine: Engine, lan: Lan, order: tuple[str, ...]) -> None:
    engine("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", SERVER)
    engine("run", "-d", "--name", "writer", "busybox", "sh", "-c", WRITER)
    with socket.create_connection(("127.0.0.1", 8080), LIMIT) as first:
        assert page(first) == "here I am\n"
    with Traffic(lan, 8080) as traffic:
        for process in order:
            held = None if process == "forwarder" else socket.create_connection(("127.0.0.1", 8080), LIMIT)
            old = engine.kill(process)
            with socket.create_connection(("127.0.0.1", 8080), LIMIT) as fresh:
                assert page(fresh) == "here I am\n", f"the proxied port after the death of the {process}"
            if held is not None:
                with held:
                    assert page(held) == "here I am\n", f"a live connection over the death of the {process}"
            engine.wait_for(process, old)
    assert traffic.answered > 0
    assert traffic.failures == []
    engine("kill", "--signal", "TERM", "writer")
    assert engine("wait", "writer") == "42"
    *lines, last = engine("logs", "writer").splitlines()
    assert lines == [f"line {i}" for i in range(len(lines))]
    assert last == "the end"
    states = [json.loads(line) for line in engine("ps", "-a", "--json").splitlines()]
    assert {s["Names"][0]: s["State"] for s in states} == {"/web": "running", "/writer": "exited"}


@pytest.mark.timeout(180)
def test_the_death_of_all_at_once_leaves_nothing_astray(engine: Engine, lan: Lan) -> None:
    engine("network", "create", "--subnet", "10.7.0.0/24", "n")
    engine("run", "-d", "--name", "web", "--network", "n", "-p", "8080:80", "busybox", "sh", "-c", SERVER)
    engine("run", "-d", "--name", "short", "-p", "8081:80", "busybox", "sh", "-c", "usleep 300000; exit 7")
    pids = [engine.pid(process) for process in PROCESSES]
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # or the first two would be started again before the third dies
    for pid in pids:
        assert pid is not None
        kill(pid)
    with Traffic(lan, 8080) as traffic:
        assert engine("inspect", "--format", "{{.State.Status}}", "web") == "running"
        with socket.create_connection(("127.0.0.1", 8080), LIMIT) as sock:
            assert page(sock) == "here I am\n"
    assert traffic.failures == []
    engine("wait", "short")
    engine("rm", "-f", "web", "short")
    engine("network", "rm", "n")
    assert json.loads(engine("check", "--json") or "[]") == []
