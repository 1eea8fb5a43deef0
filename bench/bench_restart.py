"""A restart of pynetd with many running containers that publish ports: how long until it serves and has reconciled, and
whether a port ever stops answering meanwhile.

    unshare -nm .venv/bin/python bench/bench_restart.py [containers]

In a namespace of its own: a host, a LAN, and a client on it that connects to one port after the other all the time; a connection
that is refused or not answered within a second is a stop.  What listens in the containers has a backlog that is never full, so
that a stop is ours.  pynetd is killed and started again, three times.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pynet.plugins.testhost import Lan, playing_host, playing_lan

from support.engine import Daemon

FIRST_PORT = 20000
ROUNDS = 3


class Client:
    """Connects to the ports in turn, from the LAN."""

    def __init__(self, lan: Lan, ports: range) -> None:
        self.lan, self.ports = lan, ports
        self.tried, self.slowest = 0, 0.0
        self.stops: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            for port in self.ports:
                began = time.perf_counter()
                try:
                    with self.lan.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                        sock.settimeout(1.0)
                        sock.connect((Lan.host_address, port))
                except OSError as error:
                    self.stops.append(f"{port}: {error}")
                self.tried += 1
                self.slowest = max(self.slowest, time.perf_counter() - began)


def listening(lan: Lan, path: str) -> socket.socket:
    """A listener at port 80 in a container."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return lan.netns_thread.call(fd, lambda: socket.create_server(("", 80), backlog=4096))
    finally:
        os.close(fd)


def main(count: int) -> None:
    with playing_host() as host, playing_lan(host) as lan, Daemon.running() as daemon:
        daemon.bootstrap()
        ports = range(FIRST_PORT, FIRST_PORT + count)
        serve = {"Image": "busybox", "Cmd": ["sleep", "1000"]}
        servers: list[socket.socket] = []

        def start(port: int) -> None:
            bindings = {"PortBindings": {"80/tcp": [{"HostPort": str(port)}]}}
            id = daemon.post("/containers/create", {**serve, "HostConfig": bindings}).body["Id"]
            assert daemon.post(f"/containers/{id}/start").status == 204
            servers.append(listening(lan, daemon.get(f"/containers/{id}/json").body["NetworkSettings"]["SandboxKey"]))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(start, ports))
        client = Client(lan, ports)
        thread = threading.Thread(target=client.run)
        serving: list[float] = []
        reconciled: list[float] = []
        thread.start()
        try:
            for _ in range(ROUNDS):
                old = daemon.kill()
                began = time.perf_counter()
                daemon.wait_back(old)
                serving.append(time.perf_counter() - began)
                assert daemon.get("/pynet/check").body == []
                reconciled.append(time.perf_counter() - began)
        finally:
            client.done.set()
            thread.join()
            for server in servers:
                server.close()
        print(
            f"{count} containers: pynetd serves after {statistics.median(serving):.2f} s (the slowest {max(serving):.2f}),"
        )
        print(
            f"has reconciled, and a check is done, after {statistics.median(reconciled):.2f} s ({max(reconciled):.2f});"
        )
        print(
            f"{client.tried} connections meanwhile, {len(client.stops)} failed, the slowest {client.slowest * 1e3:.0f} ms"
        )
        for stop in client.stops[:5]:
            print(f"  {stop}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
