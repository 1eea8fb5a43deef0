"""How fast a pool hands out addresses, and that it does not matter how many are out.

    python bench/bench_ipam.py [--rounds N]

Prints allocations a second in a 10.0.0.0/8 that holds 10, 10,000 and 1,000,000 leases (min, median and max over the rounds,
interleaved, so that a busy machine hits all alike), the same for an IPv6 /64, a worst case, default subnets and host ports.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from pynet.ipam.pool import Pool
from pynet.ipam.prefix import parse_loose
from pynet.ipam.space import AddressSpace
from pynet.netlib.ports.leases import EphemeralRange, PortTable

BATCH = 2000


def filled(subnet: str, leases: int) -> Pool:
    pool = Pool(parse_loose(subnet)[0])
    for _ in range(leases):
        pool.allocate()
    return pool


def almost_full() -> Pool:
    """A /8 of which the first 15 million addresses are taken, and the choice starts anew at the bottom."""
    pool = filled("10.0.0.0/8", 15_000_000)
    pool.resume_after("10.0.0.1")
    return pool


def allocate_and_release(pool: Pool, *, from_start: bool = False) -> Callable[[], None]:
    def batch() -> None:
        got: list[str] = []
        for _ in range(BATCH):
            if from_start:
                pool.resume_after("10.0.0.1")
            got.append(pool.allocate())
        for address in got:
            pool.release(address)

    return batch


def default_subnets() -> Callable[[], None]:
    space = AddressSpace(instance="bench")

    def batch() -> None:
        pools = [space.request_pool() for _ in range(BATCH)]
        for pool in reversed(pools):
            space.release_pool(pool)

    return batch


def host_ports(held: int) -> Callable[[], None]:
    table, ephemeral = PortTable(), EphemeralRange(20000, 60000)
    for _ in range(held):
        table.claim_ephemeral("tcp", ("0.0.0.0", "::"), "held", ephemeral)

    def batch() -> None:
        for _ in range(BATCH):
            table.claim_ephemeral("tcp", ("0.0.0.0", "::"), "bench", ephemeral)
        for lease in [lease for lease in table if lease.owner == "bench"]:
            table.release(lease.proto, [lease.host_ip], lease.port, lease.owner)

    return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worst", action="store_true", help="also a /8 with 15 million leases (takes half a minute)")
    options = parser.parse_args()
    work = {
        f"{subnet:<12} {leases:>9,} leases": allocate_and_release(filled(subnet, leases))
        for subnet in ("10.0.0.0/8", "fd00::/64")
        for leases in (10, 10_000, 1_000_000)
    }
    if options.worst:
        work["10.0.0.0/8  15,000,000, search from the bottom"] = allocate_and_release(almost_full(), from_start=True)
    work["default subnets, 2,000 at a time"] = default_subnets()
    work["host ports on two addresses, 10 held"] = host_ports(10)
    work["host ports on two addresses, 10,000 held"] = host_ports(10_000)
    rates: dict[str, list[float]] = {name: [] for name in work}
    for batch in work.values():
        batch()  # warm-up
    for _ in range(options.rounds):
        for name, batch in work.items():
            begun = time.perf_counter()
            batch()
            rates[name].append(BATCH / (time.perf_counter() - begun))
    print(f"{'allocate + release, per second':<48}{'min':>12}{'median':>12}{'max':>12}")
    for name, measured in rates.items():
        print(f"{name:<48}{min(measured):>12,.0f}{statistics.median(measured):>12,.0f}{max(measured):>12,.0f}")


if __name__ == "__main__":
    main()
