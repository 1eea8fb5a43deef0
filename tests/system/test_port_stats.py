"""``pynet port stats``: what the proxy carried is counted on the port that it came by."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

from pynet.engine.testing import Daemon
from pynet.plugins.testhost import Host


def test_a_connection_through_the_proxy_is_counted(host: Host) -> None:
    with Daemon.running() as daemon:

        def pynet(*words: str) -> str:
            environment = {**os.environ, "PYNET_HOST": f"unix://{daemon.socket}"}
            command = [sys.executable, "-I", "-m", "pynet", *words]
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=60, check=True
            ).stdout

        pynet("image", "bootstrap")
        pynet("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", "httpd", "-f", "-p", "80")
        attempts, deadline = 0, time.monotonic() + 20
        received = b""
        while not received:
            attempts += 1  # the container runs, but its server may not listen yet
            with socket.create_connection(("127.0.0.1", 8080), timeout=10) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                try:
                    while part := sock.recv(4096):
                        received += part
                except ConnectionResetError:
                    assert time.monotonic() < deadline
        (port,) = [json.loads(line) for line in pynet("port", "stats", "--json").splitlines()]
        assert (port["Container"], port["HostIp"], port["HostPort"], port["Port"]) == (
            "web",
            "127.0.0.1",
            8080,
            "80/tcp",
        )
        assert (port["Proxy"]["connections"], port["Proxy"]["refused"]) == (attempts, attempts - 1)
        assert port["Proxy"]["bytes_in"] == len(b"GET / HTTP/1.0\r\n\r\n")
        assert port["Proxy"]["bytes_out"] == len(received)
        table = pynet("port", "stats").splitlines()
        assert table[0].split()[:3] == ["CONTAINER", "HOST", "PORT"]
        assert table[1].split()[:4] == ["web", "127.0.0.1:8080", "80/tcp", str(attempts)]
        pynet("rm", "-f", "web")
        assert pynet("port", "stats", "--json") == ""
