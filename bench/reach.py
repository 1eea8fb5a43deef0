"""Setting up a connection through a published port, with 10 ports published and with 10,000.

    python bench/reach.py [ROUNDS]

A client on the host's LAN connects to ports of the host, each to another one of those that are published; the host is a network
namespace of its own, and nothing else is touched.  Rounds with few and with many ports take turns: the others are published and
withdrawn in between, out of the time.  A value is a connection's: connect, accept and reset, in one thread, so that the
scheduler is not in the numbers; the first packet of each walks the whole rule set and the maps.
"""

from __future__ import annotations

import json
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import Row, Target

FEW, MANY = 10, 10_000
FIRST = 20_000
CONNECTIONS = 500
"""In a round, for each of both."""
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, whose number would grow with the rounds


def run(*, quick: bool) -> Row:
    done = subprocess.run(
        [sys.executable, __file__, "3" if quick else "15"], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    return Row(
        f"connection set-up through {MANY:,} published ports",
        "ms",
        found[str(MANY)],
        found[str(FEW)],
        peer=f"{FEW} ports",
        target=Target(1.2, 1.0),
    )


def measure(rounds: int) -> dict[int, list[float]]:
    from pynet.netlib.controller import Controller
    from pynet.netlib.ports.portspec import PortBinding
    from pynet.plugins.isolation import isolate
    from pynet.plugins.testhost import Lan, playing_host, playing_lan

    resource.setrlimit(resource.RLIMIT_NOFILE, (MANY + 1000, MANY + 1000))  # a socket for each port
    found: dict[int, list[float]] = {FEW: [], MANY: []}

    def bindings(first: int, last: int) -> list[PortBinding]:
        return [PortBinding("tcp", Lan.host_address, FIRST + n, FIRST + n, 80) for n in range(first, last)]

    if reason := isolate():
        raise SystemExit(reason)
    with (
        tempfile.TemporaryDirectory(dir="/run") as directory,
        playing_host() as host,
        playing_lan(host) as lan,
        Controller(Path(directory) / "root", Path(directory) / "run", firewall="nftables") as controller,
    ):
        network, sandbox = controller.create_network("web", subnet="10.1.0.0/24"), controller.create_sandbox("a")
        endpoint = network.create_endpoint("a")
        endpoint.join(sandbox)
        try:
            with controller.tools.inside(sandbox.path) as inside:
                server = inside.call(socket.create_server, ("", 80), backlog=16)
            sandbox.publish(bindings(0, FEW))
            with server:
                for number in range(-1, rounds):  # the first warms up
                    for count in (FEW, MANY):
                        more = sandbox.publish(bindings(FEW, count)) if count > FEW else ()
                        took = connect(lan, server, count)
                        if more:
                            sandbox.unpublish(more)
                        if number >= 0:
                            found[count].append(took)
        finally:
            sandbox.delete()
            endpoint.delete()
            network.delete()
            controller.tools.firewall.destroy()
    return found


def connect(lan: object, server: socket.socket, count: int) -> float:
    """Milliseconds that a connection takes, to ports all over the range."""
    from pynet.plugins.testhost import Lan

    assert isinstance(lan, Lan)
    clients = [lan.socket() for _ in range(CONNECTIONS)]
    step = count // min(count, CONNECTIONS)
    begun = time.perf_counter()
    for number, client in enumerate(clients):
        client.connect((Lan.host_address, FIRST + number * step % count))
        accepted, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
        accepted.close()
    return (time.perf_counter() - begun) * 1e3 / CONNECTIONS


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
