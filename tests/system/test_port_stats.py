"""``pynet port stats``: what the proxy carried is counted on the port that it came by."""

from __future__ import annotations

import json
import socket
import time

from support.engine import Daemon


def test_a_connection_through_the_proxy_is_counted(daemon: Daemon) -> None:
    assert (
        daemon.pynet(
            "run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", "httpd", "-f", "-p", "80"
        ).returncode
        == 0
    )
    attempts, deadline = 0, time.monotonic() + 20
    received = b""
    while not received:
        attempts += 1  # the container runs, but its server may not listen yet
        try:
            with socket.create_connection(("127.0.0.1", 8080), timeout=10) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while part := sock.recv(4096):
                    received += part
        except (ConnectionResetError, BrokenPipeError):
            assert time.monotonic() < deadline
    (port,) = [json.loads(line) for line in daemon.pynet("port", "stats", "--json").stdout.splitlines()]
    assert (port["Container"], port["HostIp"], port["HostPort"], port["Port"]) == (
        "web",
        "127.0.0.1",
        8080,
        "80/tcp",
    )
    assert (port["Proxy"]["connections"], port["Proxy"]["refused"]) == (attempts, attempts - 1)
    assert port["Proxy"]["bytes_in"] == len(b"GET / HTTP/1.0\r\n\r\n")
    assert port["Proxy"]["bytes_out"] == len(received)
    assert port["NatConnections"] is None, "the proxy serves the loopback"
    table = daemon.pynet("port", "stats").stdout.splitlines()
    assert table[0].split()[:3] == ["CONTAINER", "HOST", "PORT"]
    assert table[1].split()[:5] == ["web", "127.0.0.1:8080", "80/tcp", str(attempts), "-"]
    assert daemon.pynet("rm", "-f", "web").returncode == 0
    assert daemon.pynet("port", "stats", "--json").stdout == ""
