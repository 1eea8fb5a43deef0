"""The whole firewall table lost with 100 published ports: how long until every one is there again.

    python bench/heal.py [ROUNDS]

Runs in a network namespace of its own and touches nothing.  The library's watch alone; pynetd has the same.  What comes back is
seen by a look of its own at the kernel, again and again, so a look's time (1 ms) is in the numbers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import Row, Target

PORTS = 100


def run(*, quick: bool) -> Row:
    done = subprocess.run(
        [sys.executable, __file__, "3" if quick else "15"], check=True, capture_output=True, text=True
    )  # fmt: skip
    return Row(
        f"the firewall's table lost with {PORTS} ports: repaired in",
        "s",
        json.loads(done.stdout),
        [],
        target=Target(1.0, 0.2, absolute=True),
    )


def measure(rounds: int) -> list[float]:
    from pynet.netlib.controller import Controller
    from pynet.netlib.firewall.nftables.render import table_name
    from pynet.netlib.kernel.libnftables import Nft, NftError
    from pynet.netlib.ports.portspec import parse_publish
    from pynet.plugins.isolation import isolate

    if reason := isolate():
        raise SystemExit(reason)
    found: list[float] = []
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        base = Path(directory)
        with Controller(base / "root", base / "run", firewall="nftables") as controller:
            sandbox = controller.create_sandbox("a")
            controller.create_network("web", subnet="10.1.0.0/24").create_endpoint("a").join(sandbox)
            sandbox.publish(parse_publish(f"0.0.0.0:10000-{10000 + PORTS - 1}:10000-{10000 + PORTS - 1}"))
            table, nft = table_name(controller.instance.suffix), Nft()

            def there() -> int:
                try:
                    objects = nft.list(f"list map inet {table} ports4")
                except NftError:
                    return 0
                return sum(len(item["map"].get("elem", [])) for item in objects if "map" in item)

            with controller.watch_firewall() as watch:
                for _ in range(rounds):
                    watch.forgive()
                    subprocess.run(["nft", "delete", "table", "inet", table], check=True)
                    begun = time.perf_counter()
                    while there() != PORTS:
                        if time.perf_counter() - begun > 30:
                            raise SystemExit("it did not come back")
                    found.append(time.perf_counter() - begun)
            sandbox.delete()
            for network in controller.networks():
                for endpoint in network.endpoints():
                    endpoint.delete()
                network.delete()
            nft.close()
    return found


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
