"""pynetd for tests: a real daemon on directories of its own, a raw client, and the docker command pointed at it.

    with Daemon.running() as daemon:                       # in a namespace that plays the host
        daemon.get("/containers/json")
        daemon.docker("run", "--rm", "busybox", "true")

At the end the containers are stopped and all three processes end; what does not is killed by its pid.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlencode

from pynet.netlib.kernel import sysctl
from pynet.netlib.kernel.tree import remove_tree
from pynet.plugins.testhost import Host, Lan, playing_host, playing_lan

from support.waiting import PATIENCE, until


class Reply(NamedTuple):
    status: int
    body: Any
    """Parsed when it is JSON, else text."""
    headers: Mapping[str, str]


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("pynet", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """A pynetd of one test."""

    all: ClassVar[list[Daemon]] = []
    live: ClassVar[list[Daemon]] = []
    """Those that may run now, for whoever looks for leaks."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.root, self.run = directory / "root", directory / "run"
        self.arguments = arguments
        self.socket = str(self.run / "pynet.sock")
        self.process: subprocess.Popen[bytes] | None = None
        Daemon.all.append(self)

    @classmethod
    @contextmanager
    def running(cls, *arguments: str) -> Generator[Daemon]:
        # the temporary directory's name is short: a socket's path has 107 bytes
        directory = Path(tempfile.mkdtemp(prefix="pn"))
        daemon = cls(directory, *arguments)
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.stop_all()
            remove_tree(directory, errors=[])

    # -- the processes ---------------------------------------------------------------------------------------

    def start(self) -> str:
        """Start it and wait until it serves; returns what it said (``1`` when all is well)."""
        self.run.mkdir(parents=True, exist_ok=True)
        if self not in Daemon.live:
            Daemon.live.append(self)
        read, write = os.pipe()
        command = [sys.executable, "-I", "-m", "pynet.engine.daemon", "--root", str(self.root), "--run", str(self.run)]
        with open(self.run / "pynetd.log", "ab") as log:
            process = subprocess.Popen(
                [*command, *self.arguments, "--ready-fd", str(write)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write],
            )
        os.close(write)
        try:
            ready, _, _ = select.select([read], [], [], PATIENCE)
            said = os.read(read, 4096).decode().strip() if ready else ""
        finally:
            os.close(read)
        if said == "1":
            self.process = process
        else:
            process.kill()
            process.wait()
        return said

    def pid(self, name: str = "pynetd") -> int:
        """Of "pynetd", "supervisor" or "names"; 0 when it does not run."""
        try:
            text = (self.run / f"{name}.lock").read_text().strip()
        except OSError:
            return 0
        return int(text) if text.isdigit() and os.path.exists(f"/proc/{text}") else 0

    def kill(self, name: str = "pynetd") -> int:
        """kill -9, and wait for the end; returns the pid that it had."""
        pid = self.forwarder_pid() if name == "forwarder" else self.pid(name)
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert select.select([pidfd], [], [], PATIENCE)[0], f"{name} survived KILL"
        finally:
            os.close(pidfd)
        if name == "pynetd" and self.process is not None and self.process.pid == pid:
            self.process.wait()
            self.process = None
        return pid

    def forwarder_pid(self) -> int:
        from pynet.proxy.process.client import ForwarderClient

        client = ForwarderClient(str(self.run / "forwarder.sock"))
        try:
            return client.ping()
        finally:
            client.close()

    def wait_back(self, old: int) -> None:
        """Wait until a pynetd with another pid serves, and is alone.

        The supervisor and the forwarder start one each; the one that gives way would take the place of the other if that
        were shut down within its start.
        """

        def back() -> bool:
            try:
                return self.pid() not in (0, old) and self.get("/_ping").status == 200 and len(self._starting()) == 1
            except OSError:
                return False

        self.eventually(back, "pynetd did not come back")

    def _starting(self) -> list[int]:
        """All processes that are a pynetd of this one's directories, or want to be."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"pynet.engine.daemon" in words and os.fsencode(self.run) in words:
                    found.append(int(path.parent.name))
        return found

    def eventually(self, condition: Any, message: str = "it did not happen") -> None:
        """Wait, within PATIENCE, for something that has no event to wait for."""
        until(condition, lambda: f"{message}\n{self.log()}")

    def terminate(self) -> None:
        """End pynetd alone, in the orderly way."""
        os.kill(self.pid(), signal.SIGTERM)
        if self.process is not None:
            assert self.process.wait(PATIENCE) == 0, self.log()
            self.process = None
        self.eventually(lambda: not self.pid(), "pynetd did not end")

    def stop_all(self) -> None:
        pids = [self.pid("pynetd"), self.pid("supervisor"), self.pid("names")]
        with suppress(Exception):
            pids.append(self.forwarder_pid())
        grace = 2.0
        with suppress(OSError, http.client.HTTPException):
            for container in self.get("/containers/json", all=1).body:
                self.delete(f"/containers/{container['Id']}", force=1)  # no grace: tests have no state to keep
            if self.post("/pynet/shutdown", all=1).status < 300:
                grace = PATIENCE  # killed on its way down, pynetd would be started again by those who watch it
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        for pid in filter(None, pids):
            _end(pid, grace)
        if self.process is not None:
            self.process.wait()
        if self in Daemon.live:
            Daemon.live.remove(self)

    def log(self) -> str:
        return (self.run / "pynetd.log").read_text(errors="replace")[-4000:]

    # -- talking to it ---------------------------------------------------------------------------------------

    def connection(self, timeout: float = PATIENCE) -> http.client.HTTPConnection:
        return _Connection(self.socket, timeout)

    def request(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Reply:
        """A dict or list is sent as JSON, bytes and text as they are."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        connection = self.connection()
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        kind = response.headers.get("Content-Type", "")
        parsed = json.loads(data) if kind == "application/json" and data and b"\n{" not in data else data.decode()
        return Reply(response.status, parsed, dict(response.headers))

    def pynet(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The pynet command against this daemon; whatever its status."""
        environment = {**os.environ, "PYNET_HOST": f"unix://{self.socket}"}
        command = [sys.executable, "-I", "-m", "pynet", *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE, check=False
        )

    def start_pynet(self, *words: str) -> subprocess.Popen[bytes]:
        """The pynet command, while it goes on; its output in pipes."""
        environment = {**os.environ, "PYNET_HOST": f"unix://{self.socket}"}
        command = [sys.executable, "-I", "-m", "pynet", *words]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def clear(self) -> None:
        """Remove all containers, networks and volumes, and see that nothing is left of them."""
        for container in self.get("/containers/json", all=1).body:
            self.delete(f"/containers/{container['Id']}", force=1, v=1)
        self.post("/networks/prune")
        for network in self.get("/networks").body:
            if network["ConfigOnly"]:  # a prune leaves those
                self.delete(f"/networks/{network['Id']}")
        self.post("/volumes/prune", filters={"all": ["true"]})
        assert self.get("/pynet/check").body == []

    def get(self, path: str, **query: Any) -> Reply:
        return self.request("GET", path + _query(query))

    def post(self, path: str, body: Any = None, /, **query: Any) -> Reply:
        return self.request("POST", path + _query(query), body)

    def delete(self, path: str, **query: Any) -> Reply:
        return self.request("DELETE", path + _query(query))

    def docker(
        self,
        *arguments: str,
        input: str = "",
        check: bool = True,
        timeout: float = 30.0,
        program: str = "docker",
    ) -> subprocess.CompletedProcess[str]:
        """Run Docker's own client against this daemon."""
        environment = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.run)}
        result = subprocess.run(
            [program, *arguments], input=input, capture_output=True, text=True, timeout=timeout, env=environment,
            check=False,
        )  # fmt: skip
        if check:
            assert result.returncode == 0, f"docker {' '.join(arguments)}: {result.stderr}\n{self.log()}"
        return result

    def bootstrap(self) -> None:
        """Make busybox:latest."""
        assert self.post("/pynet/images/bootstrap").status == 201


class Bed(NamedTuple):
    """What tests of a module share (conftest's ``bed``)."""

    daemon: Daemon
    host: Host
    lan: Lan


@contextmanager
def playing() -> Generator[Bed]:
    """A pynetd with the busybox image, on a host of its own that has a client on its LAN."""
    with playing_host() as host, playing_lan(host) as lan, Daemon.running() as daemon:
        # the first network with IPv6 turns it on for good, and the kernel makes routes of its own then
        sysctl.write("net.ipv6.conf.all.forwarding", 1)
        daemon.bootstrap()
        warm_up(daemon)
        yield Bed(daemon, host, lan)


def warm_up(daemon: Daemon) -> None:
    """A container from its create to its removal: what is opened once and kept (sockets to the kernel) is there then."""
    assert daemon.post("/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"]}, name="warm").status == 201
    assert daemon.post("/containers/warm/start").status == 204
    assert daemon.delete("/containers/warm", force=1).status == 204
    # its link goes behind the answer, and would be missed by who compares before and after
    daemon.eventually(lambda: not any(name.startswith("pd") for _, name in socket.if_nameindex()))


def _query(query: Mapping[str, Any]) -> str:
    values = {key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in query.items()}
    return f"?{urlencode(values)}" if values else ""


def _end(pid: int, grace: float) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([pidfd], [], [], grace)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], grace)
    finally:
        os.close(pidfd)
