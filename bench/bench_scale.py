"""What the thousandth network and the thousandth endpoint cost beside the first.

    python bench/bench_scale.py [--count N] [--firewall NAME] [--profile create|join|leave|remove]

Runs in a namespace that plays the host (root, or in ``unshare -Urnm``), by the library.  JSON of all values on stdout; said
are, in milliseconds,

    create          of networks: the median of the first and of the last tenth, and their ratio
    remove          of all of them, oldest first: each network's share; what the kernel does behind the answers beside it
    join            of endpoints over one bridge for each fifty: the same as for create
    leave, delete   of all endpoints: each one's share

``--profile create`` (remove, join, leave) says where the time of the last tenth went.  The kernel's own part (a bridge, an
address, its routes) is printed beside it: made over the same sockets, with nothing of the library's.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from table import Row, Target

from pynet.netlib.controller import Controller
from pynet.netlib.kernel.rtnetlink import Rtnetlink
from pynet.netlib.kernel.tree import remove_tree
from pynet.plugins.isolation import isolate
from pynet.plugins.testhost import playing_host

PER_BRIDGE = 50


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


@contextmanager
def profiled(wanted: bool) -> Generator[None]:
    if not wanted:
        yield
        return
    profile = cProfile.Profile()
    with profile:
        yield
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)


def tenths(values: list[float]) -> tuple[list[float], list[float]]:
    tenth = max(1, len(values) // 10)
    return values[:tenth], values[-tenth:]


def report(what: str, values: list[float]) -> None:
    first, last = (statistics.median(part) for part in tenths(values))
    print(f"{what:32} first {first:8.3f}  last {last:8.3f}  ratio {last / first:5.2f}", file=sys.stderr, flush=True)


def steps(what: str, actions: list[Callable[[], object]], profile: str) -> list[float]:
    tenth = max(1, len(actions) // 10)
    values = [timed(action) for action in actions[:-tenth]]
    with profiled(profile == what):
        values += [timed(action) for action in actions[-tenth:]]
    report(what, values)
    return values


def kernel_alone(count: int) -> None:
    """A bridge with an address and no more."""

    def make(number: int) -> None:
        index = rtnl.add_bridge(f"kb{number}", up=True)
        rtnl.add_address(index, f"10.{number // 250}.{number % 250}.1", 24)

    with Rtnetlink() as rtnl:
        report("kernel: bridge and address", [timed(lambda n=n: make(n)) for n in range(count)])  # type: ignore[misc]
        for number in range(count):
            link = rtnl.link(f"kb{number}")
            assert link is not None
            rtnl.delete_link(link.index)


def measure(controller: Controller, count: int, profile: str) -> dict[str, list[float]]:
    names = [f"n{number}" for number in range(count)]
    found = {}
    found["create"] = steps("create", [lambda n=n: controller.create_network(n) for n in names], profile)  # type: ignore[misc]
    networks = controller.networks()
    endpoints: list[Callable[[], object]] = []
    leaving: list[Callable[[], object]] = []
    for number in range(count):
        network = networks[number // PER_BRIDGE]

        def join(network=network, number=number) -> None:  # type: ignore[no-untyped-def]
            endpoint = network.create_endpoint(f"e{number}")
            endpoint.join(sandboxes[number])
            leaving.append(endpoint.delete)

        endpoints.append(join)
    sandboxes = [controller.create_sandbox(f"s{number}") for number in range(count)]
    found["join"] = steps("join", endpoints, profile)
    found["leave"] = steps("leave", leaving, profile)
    for sandbox in sandboxes:
        sandbox.delete()
    with profiled(profile == "remove"):
        total = timed(lambda: [network.delete() for network in networks])
    behind = timed(controller.tools.reaper.settle)
    each, later = total / count, behind / count
    print(f"{'remove':32} each  {each:8.3f}  the kernel's deletion behind it {later:8.3f}", file=sys.stderr, flush=True)
    return {**found, "remove": [each], "behind": [later]}


def run(*, quick: bool) -> list[Row]:
    """The rows of ``make bench``: the last tenth beside the first."""
    command = [sys.executable, __file__, "--count", str(100 if quick else 1000)]
    values: dict[str, list[float]] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    target = Target(1.3, 1.05)
    count = len(values["create"])
    rows = [
        Row(f"{count} {what}: the last tenth", "ms", last, first, peer="the first", target=target)
        for what, key in (("networks, create", "create"), ("endpoints, join", "join"))
        for first, last in [tenths(values[key])]
    ]
    share = Row(
        f"{count} networks removed: a network's share", "ms", values["remove"], [], target=Target(5, 1, absolute=True)
    )
    return [*rows, share, Row("the kernel's deletion behind it, a bridge", "ms", values["behind"], [])]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--profile", default="", choices=("create", "join", "leave", "remove"))
    parser.add_argument("--firewall", default="nftables")
    arguments = parser.parse_args()
    if reason := isolate():  # its pins as well: they go with this process, however that ends
        raise SystemExit(reason)
    directory = Path(tempfile.mkdtemp(prefix="pn", dir="/run"))
    try:
        with playing_host():
            kernel_alone(arguments.count)
            with Controller(directory / "root", directory / "run", firewall=arguments.firewall) as controller:
                print(json.dumps(measure(controller, arguments.count, arguments.profile)))
                controller.take_down()
    finally:
        remove_tree(directory, errors=[])


if __name__ == "__main__":
    main()
