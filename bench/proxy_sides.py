"""The proxies that are compared: started, pointed at a back end, measured from outside, and ended.

Every process has a session of its own: where the kernel shares processors among sessions (autogroup, sched(7)), each has
the same share, and a load generator's does not depend on how many proxies there are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from pynet.proxy.process.client import ForwarderClient, Listen
from pynet.proxy.process.launch import spawn

HOST = "127.0.0.1"
LOAD = str(Path(__file__).with_name("proxy_load.py"))
_PATH = f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}"
_NGINX_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Side(NamedTuple):
    """A proxy before a back end."""

    name: str
    pid: int
    port: int


def find_docker_proxy() -> str | None:
    for name in ("docker-proxy", "/usr/libexec/docker/docker-proxy", "/usr/lib/docker/docker-proxy"):
        if found := shutil.which(name, path=_PATH):
            return found
    return None


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def _tree(pid: int) -> list[int]:
    """*pid* and its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError), open(f"/proc/{parent}/task/{parent}/children") as children:
            found.extend(int(child) for child in children.read().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Time on a processor of all threads of *pid* and its descendants that live (schedstat, ns)."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{process}/task/{task}/schedstat") as stat:
                    total += int(stat.read().split()[0])
    return total / 1e9


def pss_kib(pid: int) -> int:
    """Memory of *pid* and its descendants; what processes share is divided among them."""
    total = 0
    for process in _tree(pid):
        with open(f"/proc/{process}/smaps_rollup") as rollup:
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total


def anonymous_kib(pid: int) -> int:
    """Memory that is the process's own alone: the growth of this does not depend on who else runs the same program."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))


def run_load(name: str, *words: object) -> list[float]:
    """Run a client to its end; what it printed."""
    command = [sys.executable, LOAD, name, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, start_new_session=True)
    return [float(word) for word in done.stdout.split()]


class Sides:
    """A forwarder of ours and whatever is started beside it; a context manager that ends all of it."""

    def __init__(self, docker_proxy: str) -> None:
        self._docker_proxy = docker_proxy
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Sides:
        self.directory = self._stack.enter_context(tempfile.TemporaryDirectory())
        process = spawn(self.directory)
        assert process is not None
        self.client = ForwarderClient(f"{self.directory}/forwarder.sock")
        self.pid = process.pid
        self._stack.callback(process.wait)
        self._stack.callback(self.client.shutdown)
        return self

    def __exit__(self, *unused: object) -> None:
        self._stack.close()

    def start(self, command: list[str], *, fds: tuple[int, ...] = (), talks: bool = False) -> subprocess.Popen[bytes]:
        """*talks*: its stdout and stdin are pipes."""
        pipe = subprocess.PIPE if talks else subprocess.DEVNULL
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=None if talks else pipe, pass_fds=fds, start_new_session=True
        )

        def stop() -> None:
            # a session each: what it has started goes with it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

        self._stack.callback(stop)
        return process

    def load(self, name: str, *words: object) -> tuple[subprocess.Popen[bytes], int]:
        """Start a back end, or a client that holds something; the number that it prints."""
        process = self.start([sys.executable, LOAD, name, *map(str, words)], talks=True)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    def backend(self, name: str) -> int:
        return self.load(name)[1]

    def background(self, name: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a client that is ended by whoever started it."""
        return self.start([sys.executable, LOAD, name, *map(str, words)], talks=True)

    def fresh(self) -> Sides:
        return Sides(self._docker_proxy)

    # -- the proxies -------------------------------------------------------------------------------------------

    def docker(self, proto: str, target: int) -> Side:
        port = free_port(socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
        read, write = os.pipe()
        words = ["-proto", proto, "-host-ip", HOST, "-host-port", str(port)]
        words += ["-container-ip", HOST, "-container-port", str(target)]
        # it tells on descriptor 3 that it serves
        code = f"import os, sys; os.dup2({write}, 3); os.closerange(4, 100); os.execv(sys.argv[1], sys.argv[1:])"
        process = self.start([sys.executable, "-I", "-S", "-c", code, self._docker_proxy, *words], fds=(write,))
        os.close(write)
        with os.fdopen(read, "rb") as ready:
            said = ready.read(2)
        if said != b"0\n":
            raise RuntimeError(f"docker-proxy did not start: {said!r}")
        return Side("docker-proxy", process.pid, port)

    def pynet(self, proto: str, target: int, count: int = 1) -> Side:
        """Publish *count* ports; the last one."""
        socks: list[socket.socket] = []
        listens: list[Listen] = []
        for _ in range(count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
            sock.bind((HOST, 0))
            socks.append(sock)
            listens.append(Listen(f"{proto}{sock.getsockname()[1]}", proto, HOST, target, sock))
        self.client.listen(listens)
        port = int(socks[-1].getsockname()[1])
        for sock in socks:
            sock.close()
        return Side("pynet", self.pid, port)

    def _configured(self, name: str, text: str, command: list[str], port: int) -> Side:
        path = f"{self.directory}/{name}.{port}"
        Path(path).write_text(text)
        process = self.start([*command, path])
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((HOST, port)).close()
                return Side(name, process.pid, port)
            except ConnectionRefusedError:
                if time.monotonic() > end or process.poll() is not None:
                    raise
                time.sleep(0.01)

    def haproxy(self, target: int) -> Side:
        port = free_port()
        text = (
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n maxconn 4096\n"
            f"listen one\n bind {HOST}:{port}\n server one {HOST}:{target}\n"
        )
        return self._configured("haproxy", text, [str(shutil.which("haproxy", path=_PATH)), "-db", "-f"], port)

    def nginx(self, target: int) -> Side:
        port = free_port()
        module = f"load_module {_NGINX_MODULE};\n" if _NGINX_MODULE.exists() else ""
        text = (
            f"{module}daemon off; worker_processes auto; pid {self.directory}/nginx.{port}.pid; error_log /dev/null;\n"
            f"events {{ worker_connections 8192; }}\n"
            f"stream {{ server {{ listen {HOST}:{port} backlog=4096; proxy_pass {HOST}:{target}; }} }}\n"
        )
        command = [str(shutil.which("nginx", path=_PATH)), "-p", self.directory, "-e", "/dev/null", "-c"]
        return self._configured("nginx", text, command, port)

    def all(self, target: int) -> list[Side]:
        """Every TCP proxy that is installed, ours and docker-proxy first, before one back end."""
        sides = [self.pynet("tcp", target), self.docker("tcp", target)]
        if shutil.which("haproxy", path=_PATH):
            sides.append(self.haproxy(target))
        if shutil.which("nginx", path=_PATH):
            sides.append(self.nginx(target))
        return sides
