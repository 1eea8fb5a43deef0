"""The library's endpoint join beside the CNI plugins: bridge with host-local addresses, and portmap for one port.

    python bench/join.py [--rounds N]      in a network namespace; prints JSON: {name: [milliseconds, ...]}

Both join a namespace that is there already to a bridge network, with an address, a default route, masquerading and one
published port.  The library does it in process, which is its point; the plugins are started the way every CNI runtime
starts them.  Interleaved.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from bed import Bed, CommandFailed
from table import Row, Target

CNI_PATHS = ("/usr/lib/cni", "/opt/cni/bin")
PORT = 30000


def plugins() -> str:
    """Where the CNI plugins are, "" when they are not."""
    return next((path for path in CNI_PATHS if all((Path(path) / n).exists() for n in ("bridge", "portmap"))), "")


class Cni:
    def __init__(self, path: str, state: str) -> None:
        self._path = path
        base: dict[str, Any] = {"cniVersion": "0.4.0", "name": "bench"}
        ipam = {
            "type": "host-local", "dataDir": state, "ranges": [[{"subnet": "10.9.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }  # fmt: skip
        self._bridge = {
            **base, "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": ipam,
        }  # fmt: skip
        self._portmap = {**base, "type": "portmap", "snat": True, "capabilities": {"portMappings": True}}

    def _call(self, command: str, config: dict[str, Any], identity: str, netns: str) -> bytes:
        environment = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": identity, "CNI_NETNS": netns, "CNI_IFNAME": "eth0",
            "CNI_PATH": self._path, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}",
        }  # fmt: skip
        result = subprocess.run(
            [f"{self._path}/{config['type']}"], input=json.dumps(config).encode(), env=environment, capture_output=True,
            check=False,
        )  # fmt: skip
        if result.returncode:
            raise CommandFailed(f"{config['type']}: {result.stdout.decode()}{result.stderr.decode()}")
        return result.stdout

    def add(self, identity: str, netns: str, host_port: int) -> None:
        previous = json.loads(self._call("ADD", self._bridge, identity, netns))
        mapping = {"hostPort": host_port, "containerPort": 80, "protocol": "tcp"}
        config = {**self._portmap, "runtimeConfig": {"portMappings": [mapping]}, "prevResult": previous}
        self._call("ADD", config, identity, netns)
        self._last = config

    def delete(self, identity: str, netns: str) -> None:
        self._call("DEL", self._last, identity, netns)
        self._call("DEL", self._bridge, identity, netns)


@contextlib.contextmanager
def _timed(values: list[float]) -> Generator[None, None, None]:
    start = time.perf_counter()
    yield
    values.append((time.perf_counter() - start) * 1e3)


def measure(rounds: int, warm_up: int) -> dict[str, list[float]]:
    from pynet.netlib.controller import Controller
    from pynet.netlib.model import IpamConfig
    from pynet.netlib.ports.portspec import parse_publish

    values: dict[str, list[float]] = {name: [] for name in ("join", "leave", "sandbox", "cni add", "cni del")}
    state = "/mnt/join"
    path = plugins()
    with Controller(f"{state}/root", f"{state}/run") as controller:
        network = controller.create_network("bench", ipam=[IpamConfig(subnet="10.8.0.0/16")])
        cni = Cni(path, f"{state}/cni") if path else None
        for number in range(rounds + warm_up):
            if number == warm_up:
                for kept in values.values():
                    kept.clear()
            with _timed(values["sandbox"]):
                sandbox = controller.create_sandbox(f"{number:064x}")
            with _timed(values["join"]):
                endpoint = network.create_endpoint(f"e{number}")
                endpoint.join(sandbox)
                endpoint.publish(parse_publish(f"{PORT}:80"))
            with _timed(values["leave"]):
                endpoint.unpublish()
                endpoint.leave()
                endpoint.delete()
            if cni is not None:
                with _timed(values["cni add"]):
                    cni.add(f"c{number}", sandbox.path, PORT + 1)
                with _timed(values["cni del"]):
                    cni.delete(f"c{number}", sandbox.path)
            sandbox.delete()
        network.delete()
    shutil.rmtree(state)
    return values


def run(*, quick: bool) -> list[Row]:
    """The rows, measured in a bed."""
    if not plugins():
        print("no CNI plugins here (Debian: apt install containernetworking-plugins)", file=sys.stderr)
    with Bed("join") as bed:
        rounds = 10 if quick else 60
        result = bed.run(sys.executable, __file__, "--rounds", str(rounds))
    values = json.loads(result.out)
    target = Target(2.0, 1.5, absolute=True)
    return [
        Row("library: endpoint join with one port", "ms", values["join"], values["cni add"], peer="CNI", target=target),
        Row("library: leave and delete", "ms", values["leave"], values["cni del"], peer="CNI"),
        Row("library: create a sandbox", "ms", values["sandbox"], []),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60)
    print(json.dumps(measure(parser.parse_args().rounds, warm_up=3)))


if __name__ == "__main__":
    main()
