"""pynet beside another firewall: a network with a published port, and the questions whether both sides work.

Also a program, for where the test itself can not be (a dockerd's bed): ``python -m support.beside PORT`` plays the LAN, asks for
a port of its own and for PORT, which is somebody else's, and says what FORWARD's policy is before and after.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pynet.netlib.controller import Controller
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host, Lan, Namespace, playing_lan

from support.answering import Servers
from support.netlib import inside_of
from support.waiting import PATIENCE, SILENCE

PORT = 8080


@dataclass
class Beside:
    controller: Controller
    lan: Lan
    inside: Namespace
    """The container."""
    servers: Servers

    def asks(self, who: Namespace, address: str, port: int, *, silent: bool = False) -> str:
        try:
            with who.connect((address, port), SILENCE if silent else PATIENCE) as client:
                return client.recv(64).decode().partition(" ")[0]
        except OSError:
            return ""

    def published(self, *, silent: bool = False) -> str:
        return self.asks(self.lan, Lan.host_address, PORT, silent=silent)


@contextmanager
def beside(controller: Controller, host: Namespace, lan: Lan) -> Generator[Beside]:
    with ExitStack() as stack:
        servers = Servers()
        stack.callback(servers.close)
        sandbox = controller.create_sandbox("a")
        controller.create_network("web", subnet="10.1.0.0/24").create_endpoint("a").join(sandbox)
        inside = stack.enter_context(inside_of(controller, sandbox))
        sandbox.publish(parse_publish(f"0.0.0.0:{PORT}:80"))
        servers.serve("container", inside, 80)
        servers.serve("lan", lan, 5000, Lan.address)
        for port in (7000, 7001):
            servers.serve("host", host, port, Lan.host_address)
        yield Beside(controller, lan, inside, servers)


def forward_policy(program: str = "iptables") -> str:
    done = subprocess.run([program, "-S", "FORWARD"], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]


def main(theirs: int) -> None:
    said: dict[str, object] = {"policy": forward_policy()}
    host = Host()
    with tempfile.TemporaryDirectory() as directory, playing_lan(host) as lan, ExitStack() as stack:
        controller = stack.enter_context(Controller(Path(directory, "root"), Path(directory, "run")))
        both = stack.enter_context(beside(controller, host, lan))
        with controller.watch_firewall():
            said["ours"] = both.published()
            said["out"] = both.asks(both.inside, Lan.address, 5000)
            with lan.connect((Lan.host_address, theirs)) as client:
                client.sendall(b"hello")
                said["theirs"] = client.recv(64).decode()
            said["policy with ours"] = forward_policy()
            said["warnings"] = controller.warnings()
        controller.sandbox("a").delete()
        for network in controller.networks():
            for endpoint in network.endpoints():
                endpoint.delete()
            network.delete()
        controller.tools.firewall.destroy()
        said["policy without ours"] = forward_policy()
    host.close()
    print(json.dumps(said))


if __name__ == "__main__":
    main(int(sys.argv[1]))
