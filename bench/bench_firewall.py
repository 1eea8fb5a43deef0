"""What a published port costs in each firewall back end: ``python bench/bench_firewall.py [--rounds N] [--ports
N,N,...]``.

Runs in a network namespace of its own (root, or in ``unshare -Urnm``), so it touches nothing.  Printed are min,
median and max in milliseconds of

    add one / remove one     at 10, 1,000 and 10,000 ports that are there already
    add 1,000 at once        to an empty table, as a published range does
    state                    reading everything back, as reconciling does

and why each back end goes the way it goes, by turns: libnftables in process beside the nft program with the same text, a
port's elements by hand beside libnftables, and python-iptables beside iptables-restore for so many ports at once (both in
the helper's process), with the ratio of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable

from pynet.netlib.errors import NotSupported
from pynet.netlib.firewall.choice import select_backend
from pynet.netlib.firewall.intents import FirewallBackend, NetworkRules, PortRule
from pynet.netlib.firewall.iptables import render as ipt_render
from pynet.netlib.firewall.iptables.backend import BULK
from pynet.netlib.firewall.iptables.process import LegacyTables
from pynet.netlib.firewall.nftables import render as nft_render
from pynet.netlib.kernel.libnftables import Nft
from pynet.netlib.kernel.nft_elements import ElementSocket
from pynet.netlib.kernel.syscall import CLONE_NEWNET, unshare

NETWORK = NetworkRules("pb0", ("10.0.0.0/16",))


def ports(first: int, count: int, proto: str = "tcp") -> list[PortRule]:
    return [PortRule(proto, "", first + i, f"10.0.{i // 250}.{i % 250 + 2}", 80, "pb0") for i in range(count)]


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def report(what: str, values: list[float]) -> None:
    print(f"{what:42} {min(values):9.3f} {statistics.median(values):9.3f} {max(values):9.3f}", flush=True)


def measure(backend: FirewallBackend, rounds: int, sizes: list[int]) -> None:
    one = ports(5000, 1, "udp")
    for size in sizes:
        backend.replace([NETWORK], ports(10000, size))
        adding: list[float] = []
        removing: list[float] = []
        for _ in range(rounds + 1):
            adding.append(timed(lambda: backend.add_ports(one)))
            removing.append(timed(lambda: backend.remove_ports(one)))
        report(f"{backend.name}: add one at {size:,}", adding[1:])  # the first one warms up
        report(f"{backend.name}: remove one at {size:,}", removing[1:])
        report(f"{backend.name}: state at {size:,}", [timed(backend.state) for _ in range(3)])
    many = ports(10000, 1000)
    bulk: list[float] = []
    for _ in range(max(3, rounds // 4)):
        backend.replace([NETWORK], [])
        bulk.append(timed(lambda: backend.add_ports(many)))
    report(f"{backend.name}: add 1,000 at once", bulk)


def by_turns(what: str, ways: dict[str, Callable[[], object]], undo: Callable[[], object], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name, act in ways.items():
            took = timed(act)
            undo()
            if number >= 0:
                times[name].append(took)
    for name, values in times.items():
        report(f"{what}: {name}", values)
    first, second = times.values()
    report("  ratio", [a / b for a, b in zip(first, second, strict=True)])


def compare_nft(rounds: int) -> None:
    """The same change, in the same text."""
    nft = Nft()
    nft.run(nft_render.base("pynet"))
    elements = list(nft_render.port_elements(ports(5000, 1)[0], loopback=False))
    add, delete = nft_render.add("pynet", elements), nft_render.delete("pynet", elements)
    ways: dict[str, Callable[[], object]] = {
        "libnftables": lambda: nft.run(add),
        "nft program": lambda: subprocess.run(["nft", "-f", "-"], input=add, text=True, check=True),
    }
    by_turns("one port", ways, lambda: nft.run(delete), rounds)
    nft.run(nft_render.destroy("pynet"))
    nft.close()


def compare_elements(rounds: int) -> None:
    """The elements of a port, packed by hand, beside the same through libnftables."""
    nft, by_hand = Nft(), ElementSocket()
    nft.run(nft_render.base("pynet"))
    elements = list(nft_render.port_elements(ports(5000, 1)[0], loopback=False))
    add, delete = nft_render.add("pynet", elements), nft_render.delete("pynet", elements)
    ways: dict[str, Callable[[], object]] = {
        "by hand": lambda: by_hand.change(
            "pynet", [("add", [one for element in elements for one in nft_render.packed(element)])]
        ),
        "libnftables": lambda: nft.run(add),
    }
    by_turns("one port", ways, lambda: nft.run(delete), rounds)
    nft.run(nft_render.destroy("pynet"))
    by_hand.close()
    nft.close()


def compare_iptables(rounds: int, count: int) -> None:
    tables = LegacyTables()
    names = ipt_render.Names("")
    declare = [(table, names.chain(short)) for table, shorts in ipt_render.TABLES.items() for short in shorts]
    hooks = [hook for hook in names.hooks(4) if hook.table == "nat"]
    tables.restore(4, ipt_render.edit(hooks, (), declare))
    rules = [rule for port in ports(5000, count) for rule in names.port(port, loopback=False)]
    ways: dict[str, Callable[[], object]] = {
        "python-iptables": lambda: tables.apply(4, add=rules, require=hooks),
        "iptables-restore": lambda: tables.restore(4, ipt_render.edit(rules, (), require=hooks)),
    }
    by_turns(f"{count} ports", ways, lambda: tables.restore(4, ipt_render.edit((), rules)), rounds)
    tables.restore(4, ipt_render.destroy(names, 4, tables.save(4)))
    tables.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--ports", default="10,1000,10000", help="how many ports are there already")
    options = parser.parse_args()
    unshare(CLONE_NEWNET)
    print(f"{'milliseconds':42} {'min':>9} {'median':>9} {'max':>9}")
    for name in ("nftables", "iptables"):
        try:
            backend = select_backend(name)
        except NotSupported as error:
            print(f"{name}: {error}")
            continue
        try:
            measure(backend, options.rounds, [int(size) for size in options.ports.split(",")])
            if name == "nftables":
                compare_nft(options.rounds)
                compare_elements(options.rounds)
            else:
                for count in (1, 2, BULK, 10, 100):
                    compare_iptables(max(3, options.rounds // 2), count)
        finally:
            backend.destroy()
            backend.close()


if __name__ == "__main__":
    main()
