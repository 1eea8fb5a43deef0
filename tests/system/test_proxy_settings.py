"""What a user of pynetd may ask of the proxy: who the client is, for each port; workers, drain and metrics, for all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib import ipc
from pynet.plugins.testhost import Host, Lan
from pynet.proxy.process.client import ForwarderClient

from support.engine import Daemon


@contextlib.contextmanager
def forwarder(daemon: Daemon) -> Generator[ForwarderClient]:
    with contextlib.closing(ForwarderClient(str(daemon.run / "forwarder.sock"))) as client:
        yield client


def told(daemon: Daemon, name: str) -> list[str]:
    """What the container, which prints what it gets, was told."""
    return daemon.pynet("logs", name).stdout.splitlines()


@pytest.mark.parametrize("where", ["lan", "loopback", "lan6"])
def test_a_container_is_told_who_its_client_is(daemon: Daemon, lan: Lan, where: str) -> None:
    listening = "nc -l -p 80"
    done = daemon.pynet("run", "-d", "--name", "web", "-p", "8080:80,proxy-protocol=1", "busybox", *listening.split())
    assert done.returncode == 0, done
    # no connection must be wasted on finding out: it serves one
    listens = ["exec", "web", "sh", "-c", "until netstat -ltn | grep -q :80; do usleep 1000; done"]
    assert daemon.pynet(*listens).returncode == 0
    address = {"lan": lan.host_address, "lan6": lan.host_address6, "loopback": "127.0.0.1"}[where]
    connect = socket.create_connection if where == "loopback" else lan.connect
    with connect((address, 8080)) as client:
        client.sendall(b"hello\n")
        port = client.getsockname()[1]
        source = {"lan": lan.address, "lan6": lan.address6, "loopback": "127.0.0.1"}[where]
        family = "TCP6" if where == "lan6" else "TCP4"
        daemon.eventually(lambda: len(told(daemon, "web")) == 2)
        assert told(daemon, "web") == [f"PROXY {family} {source} {address} {port} 8080", "hello"]
    assert daemon.get("/pynet/check").body == []


def test_the_header_is_for_tcp_and_needs_a_version_that_there_is(daemon: Daemon) -> None:
    for publish, why in (
        ("53:53/udp,proxy-protocol=1", "the PROXY protocol is for tcp ports"),
        ("80:80,proxy-protocol=3", "invalid version of the PROXY protocol: 3"),
        ("80:80,", "invalid option of a published port: ''"),
    ):
        done = daemon.pynet("run", "--rm", "-p", publish, "busybox", "true")
        assert done.returncode == 125 and why in done.stderr, done
    for port, version, why in (
        ("53/udp", 1, "the PROXY protocol is for tcp ports, not udp"),
        ("80/tcp", 7, "invalid version of the PROXY protocol: 7"),
        ("80/tcp", True, "ProxyProtocol is 1 or 2"),
        ("80/tcp", "2", "ProxyProtocol is 1 or 2"),
        ("80/tcp", [], "ProxyProtocol is 1 or 2"),
        ("80/tcp", 1.5, "ProxyProtocol is 1 or 2"),
    ):
        host_config: dict[str, Any] = {"PortBindings": {port: [{"HostPort": "8080", "ProxyProtocol": version}]}}
        reply = daemon.post("/containers/create", {"Image": "busybox", "HostConfig": host_config})
        assert reply.status == 400 and why in reply.body["message"], reply
    assert daemon.get("/containers/json", all=1).body == []


def test_the_header_outlives_every_process(daemon: Daemon) -> None:
    server = ["sh", "-c", "while true; do nc -l -p 80; done"]
    assert daemon.pynet("run", "-d", "--name", "web", "-p", "8080:80,proxy-protocol=1", "busybox", *server).stdout

    def greeted() -> bool:
        """Of a connection that was answered at all: between two servers the target refuses."""
        done = daemon.pynet("logs", "web")
        before = done.stdout.count("PROXY TCP4 127.0.0.1 127.0.0.1 ")
        assert done.returncode == 0, done
        try:
            with socket.create_connection(("127.0.0.1", 8080), 5) as client:
                client.shutdown(socket.SHUT_WR)
                client.recv(1)  # the server's end
        except OSError:
            return False
        return daemon.pynet("logs", "web").stdout.count("PROXY TCP4 127.0.0.1 127.0.0.1 ") > before

    for victim in ("forwarder", "pynetd", "supervisor"):
        old = daemon.kill(victim)
        if victim == "pynetd":
            daemon.wait_back(old)
        daemon.eventually(lambda: _forwarder_pid(daemon) != 0)
        daemon.eventually(greeted)


def _forwarder_pid(daemon: Daemon) -> int:
    try:
        return daemon.forwarder_pid()
    except Exception:
        return 0


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_prometheus_is_answered_where_the_daemon_was_told(host: Host) -> None:
    address = "127.0.0.1:9323"
    with Daemon.running("--metrics-addr", address) as daemon:
        assert "pynet_proxy_" in scrape(address)
        daemon.kill("forwarder")
        daemon.eventually(lambda: _scraped(address), "metrics did not come back")
        old = daemon.kill()
        daemon.wait_back(old)
        assert "pynet_proxy_" in scrape(address)
        daemon.terminate()
        daemon.arguments = ()
        assert daemon.start() == "1"
        with pytest.raises(OSError):
            scrape(address)  # this start does not ask for it


def _scraped(address: str) -> bool:
    try:
        return "pynet_proxy_" in scrape(address)
    except OSError:
        return False


def test_a_daemon_says_which_setting_is_wrong(host: Host) -> None:
    with Daemon.running() as daemon, socket.create_server(("127.0.0.1", 9323)):
        daemon.terminate()
        for words, why in (
            (("--metrics-addr", "127.0.0.1:9323"), "9323"),
            (("--metrics-addr", "9323"), "'9323' is not an address and port"),
            (("--proxy-workers", "0"), "--proxy-workers must be from 1 to 64, not 0"),
            (("--proxy-drain", "-1"), "--proxy-drain: drain must be a number of seconds"),
            (("--proxy-drain", "nan"), "--proxy-drain: drain must be a number of seconds"),
            (("--metrics-addr", "localhost:9323"), "--metrics-addr: 'localhost' is not an address"),
        ):
            daemon.arguments = words
            assert why in daemon.start()
        daemon.arguments = ()
        assert daemon.start() == "1"


def test_a_start_that_fails_leaves_published_ports_as_they_were(daemon: Daemon) -> None:
    server = ["sh", "-c", "while true; do nc -l -p 80 -e cat; done"]
    assert daemon.pynet("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", *server).returncode == 0
    with _connected(daemon) as client, socket.create_server(("127.0.0.1", 9323)):
        old = daemon.forwarder_pid()
        daemon.terminate()
        daemon.arguments = ("--proxy-workers", "2", "--metrics-addr", "127.0.0.1:9323")
        assert "9323" in daemon.start()
        assert daemon.forwarder_pid() == old
        client.sendall(b"as it was")
        assert client.recv(100) == b"as it was"
        daemon.arguments = ()
        assert daemon.start() == "1"


def test_a_header_moves_with_its_port_to_another_network(daemon: Daemon) -> None:
    sleep = ("busybox", "sleep", "1000")
    assert daemon.pynet("run", "-d", "--name", "web", "-p", "8080:80,proxy-protocol=2", *sleep).returncode == 0
    assert daemon.pynet("network", "create", "other").returncode == 0

    def versions() -> set[int]:
        with forwarder(daemon) as control:
            ports = control.fetch()
            for port in ports:
                assert isinstance(port.sock, socket.socket)
                port.sock.close()
        return {port.proxy_protocol for port in ports}

    def target() -> str:
        (found,) = {p["target"][0] for p in _ports(daemon)}
        return str(found)

    before = target()
    settings = {"Container": "web", "EndpointConfig": {"GwPriority": 10}}
    assert daemon.post("/networks/other/connect", settings).status == 200
    assert target() != before, "the ports follow the default route"
    assert versions() == {2}
    assert daemon.post("/networks/other/disconnect", {"Container": "web"}).status == 200
    assert target() == before
    assert versions() == {2}
    assert daemon.get("/pynet/check").body == []


def _ports(daemon: Daemon) -> list[dict[str, Any]]:
    with contextlib.closing(ipc.connect(str(daemon.run / "forwarder.sock"), 10)) as channel:
        channel.send({"op": "fetch"})
        frame = channel.receive()
    assert frame is not None
    for fd in frame[1]:
        os.close(fd)
    ports: list[dict[str, Any]] = frame[0]["ports"]
    return ports


def test_other_settings_replace_the_forwarder_and_lose_no_connection(daemon: Daemon) -> None:
    server = ["sh", "-c", "while true; do nc -l -p 80 -e cat; done"]
    assert daemon.pynet("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", *server).returncode == 0
    client = _connected(daemon)
    old = daemon.forwarder_pid()
    daemon.terminate()
    daemon.arguments = ("--proxy-workers", "3", "--proxy-drain", "5")
    assert daemon.start() == "1"
    assert daemon.forwarder_pid() != old
    with forwarder(daemon) as control:
        assert control.settings() == (3, 5.0)
        assert [port["drain"] for port in _ports(daemon)] == [5.0], "ports that were there have it, too"
        daemon.eventually(lambda: len(control.stats()["processes"]) == 3)
    with client:
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
    _connected(daemon).close()
    old = daemon.forwarder_pid()
    daemon.terminate()
    assert daemon.start() == "1"
    assert daemon.forwarder_pid() == old, "the settings are the same"


@pytest.mark.parametrize("after", [0.0, 0.01, 0.02, 0.04])
def test_kill_9_in_the_middle_of_a_replacement_loses_no_port(daemon: Daemon, after: float) -> None:
    server = ["sh", "-c", "while true; do nc -l -p 80 -e cat; done"]
    assert daemon.pynet("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", *server).returncode == 0
    _connected(daemon).close()
    daemon.terminate()
    daemon.arguments = ("--proxy-workers", "2")
    path = daemon.run / "forwarder.sock"
    known = path.stat()
    start = threading.Thread(target=daemon.start)
    start.start()
    daemon.eventually(lambda: not _is_still(path, known), "the old forwarder does not leave")
    time.sleep(after)  # somewhere between its goodbye and the end of the start
    os.kill(daemon.pid(), signal.SIGKILL)
    start.join()
    daemon.eventually(lambda: _answers(daemon), "pynetd does not come back")
    _connected(daemon).close()
    with forwarder(daemon) as control:
        assert control.settings() == (2, 10.0)
    assert daemon.get("/pynet/check").body == []


def _is_still(path: Path, known: os.stat_result) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_ctime_ns) == (known.st_ino, known.st_ctime_ns)


def _answers(daemon: Daemon) -> bool:
    try:
        return daemon.get("/_ping").status == 200
    except OSError:
        return False


def _connected(daemon: Daemon) -> socket.socket:
    """A connection through the proxy that was answered."""
    found: list[socket.socket] = []

    def answered() -> bool:
        with contextlib.ExitStack() as stack:
            try:
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", 8080), 10))
                sock.sendall(b"x")
                if sock.recv(1) == b"x":
                    found.append(sock)
                    stack.pop_all()
            except OSError:
                pass  # between two servers the target refuses
        return bool(found)

    daemon.eventually(answered)
    return found[0]
