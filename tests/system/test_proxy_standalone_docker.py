"""The real dockerd with pynet-proxy in docker-proxy's place."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.plugins.isolation import maps_every_uid

BENCH = Path(__file__).parents[2] / "bench"

_ECHO = """
import select, socket
stream = socket.create_server(("", 80)); datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.bind(("", 80)); print("ready", flush=True)
while True:
    for sock in select.select([stream, datagram], [], [])[0]:
        if sock is stream:
            with sock.accept()[0] as peer: peer.sendall(peer.recv(100).upper())
        else:
            data, client = sock.recvfrom(100); sock.sendto(data.upper(), client)
"""
_ASK = """
import socket
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for kind, port in ((socket.SOCK_STREAM, 8080), (socket.SOCK_DGRAM, 8081)):
        with socket.socket(family, kind) as sock:
            sock.settimeout(10); sock.connect((host, port)); sock.send(b"hello"); print(sock.recv(100).decode())
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if not maps_every_uid():
        pytest.skip("needs root with every uid")
    monkeypatch.syspath_prepend(str(BENCH))
    dockerd = importlib.import_module("dockerd")
    missing = dockerd.Docker.missing()
    if missing:
        pytest.skip(f"not installed: {missing}")
    proxy = tmp_path / "proxy"
    proxy.write_text(f"#!{sys.executable} -I\nfrom pynet.proxy.standalone.main import main\nraise SystemExit(main())\n")
    proxy.chmod(0o755)
    try:
        with dockerd.Docker("--userland-proxy-path", str(proxy)) as docker:
            yield docker
    finally:
        for name in ("dockerd", "peer", "bed"):
            sys.modules.pop(name, None)


def _proxies(docker: Any) -> list[str]:
    return [process.command for process in docker.bed.processes() if "pynet.proxy" in process.command]


def test_dockerd_publishes_through_pynet_proxy(docker: Any) -> None:
    publish = ("-p", "8080:80/tcp", "-p", "8081:80/udp", "-p", "127.0.0.1:8100-8104:100-104")
    docker.run("run", "-d", "--name", "web", *publish, "busybox", "sleep", "1000")
    pid = docker.run("inspect", "-f", "{{.State.Pid}}", "web").out.strip()
    log = f"{docker.bed.path}/echo"
    docker.bed.spawn("nsenter", "-t", pid, "-n", sys.executable, "-c", _ECHO, log=log)
    end = time.monotonic() + 20
    while not Path(log).read_text():
        assert time.monotonic() < end

    # 127.0.0.1 and ::1 are the proxy's alone: neither NAT nor a route leads from there to the container
    assert docker.bed.run(sys.executable, "-c", _ASK).out.split() == ["HELLO"] * 4
    sleepers = [command for command in _proxies(docker) if "-host-port" in command]
    assert len(sleepers) == 9 and len(_proxies(docker)) == 10

    # the port that a container leaves is there for the next one
    docker.run("rm", "-f", "web")
    docker.run("run", "-d", "--name", "next", *publish, "busybox", "sleep", "1000")
    docker.run("rm", "-f", "next")
    end = time.monotonic() + 20
    while left := _proxies(docker):
        assert time.monotonic() < end, left
    assert "8080" not in docker.bed.run("ss", "-Hltn").out


def test_dockerd_hears_why_a_port_can_not_be_had(docker: Any) -> None:
    docker.bed.spawn(sys.executable, "-c", "import socket; s = socket.create_server(('', 8080)); s.accept()")
    end = time.monotonic() + 20
    while "8080" not in docker.bed.run("ss", "-Hltn").out:
        assert time.monotonic() < end
    result = docker.run("run", "-d", "-p", "8080:80", "busybox", "true", check=False)
    assert result.code == 125 and "port" in result.err and "8080" in result.err
    assert not [command for command in _proxies(docker) if "-host-port" in command]
