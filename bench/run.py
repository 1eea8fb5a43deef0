"""``make bench``: pynet beside Docker on this machine.

    python bench/run.py [--quick] [--only NAME] [--no-docker]

Docker and pynet are started each in a bed of its own (bed.py) and take turns.  Prints a table of min / median / max, the
ratio of the medians and whether each target is met, and writes every value to bench/results/.  Root is needed.
docs/benchmarks.md says what each row is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import bench_dns
import bench_libraries
import bench_scale
import control
import heal
import join
import reach
import scale
from dockerd import Docker
from peer import Peer
from pynet_peer import Pynet
from table import Row, Target, render, save, summary

HERE = Path(__file__).parent

GROUPS = (
    "control",
    "scale",
    "idle",
    "many",
    "range",
    "join",
    "heal",
    "reach",
    "thousand",
    "libraries",
    "proxy",
    "dns",
    "ps-client",
    *(case.key for case in control.CASES),
)
PROXY_TARGETS = (
    ("TCP throughput", Target(0.9, 1.1)),
    ("TCP CPU, ", Target(1.0, 0.8)),
    ("TCP new connections", Target(1.0, 1.3)),
    ("UDP one way", Target(1.0, 1.5)),
)
"""By the beginning of the row's name; the proxy's benchmark is its own."""


def proxy_rows(quick: bool) -> list[Row]:
    """The rows of bench_proxy.py, with the targets that are theirs."""
    import bench_proxy

    rows: list[Row] = []
    for found in bench_proxy.run(quick):
        target = next((target for name, target in PROXY_TARGETS if found.name.startswith(name)), None)
        row = Row(
            f"proxy: {found.name}", found.unit, list(found.ours), list(found.theirs), "docker-proxy",
            found.higher_is_better, target,
        )  # fmt: skip
        row.ratio = found.ratio  # of pairs: that benchmark alternates within a second
        rows.append(row)
    return rows


def measure(options: argparse.Namespace) -> Iterator[Row]:
    only, quick = options.only, options.quick
    if only not in ("join", "heal", "reach", "thousand", "libraries", "proxy", "dns"):
        with ExitStack() as stack:
            peers: list[Peer] = [stack.enter_context(Pynet())]
            missing = Docker.missing()
            if not options.no_docker and not missing:
                peers.append(stack.enter_context(Docker()))
            elif missing:
                print(f"nothing to compare with: no {missing}", file=sys.stderr)
            yield from scale.run(peers, quick=quick, only="idle" if only in ("", "scale", "idle") else "none")
            yield from control.run(peers, quick=quick, only=only)
            if only in ("", "scale", "many", "range"):
                for part in ("many", "range"):
                    if only in ("", "scale", part):
                        yield from scale.run(peers, quick=quick, only=part)
    if only in ("", "join"):
        yield from join.run(quick=quick)
    if only in ("", "heal"):
        yield heal.run(quick=quick)
    if only in ("", "reach"):
        yield reach.run(quick=quick)
    if only in ("", "thousand"):
        yield from bench_scale.run(quick=quick)
    if only in ("", "libraries"):
        yield from bench_libraries.measure(3 if quick else 15)
    if only in ("", "proxy"):
        yield from proxy_rows(quick)
    if only in ("", "dns"):
        yield from bench_dns.run(quick=quick)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions, smaller scales: does it work?")
    parser.add_argument("--only", default="", choices=("", *GROUPS), metavar="NAME", help=", ".join(GROUPS))
    parser.add_argument("--no-docker", action="store_true", help="pynet alone")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: Docker needs root, and both must run alike\nhint: sudo make bench", file=sys.stderr)
        return 1
    rows: list[Row] = []
    start = time.monotonic()
    try:
        for row in measure(options):
            rows.append(row)
            ratio = "" if row.ratio is None else f"{row.ratio:.3g}x"
            ours = f"{statistics.median(row.ours):.4g}" if row.ours else "-"
            print(f"  {row.name}: {ours} {row.unit} {ratio}", flush=True)
    finally:
        if rows:
            context = {"quick": options.quick, "only": options.only, "seconds": round(time.monotonic() - start)}
            path = save(rows, HERE / "results", context)
            print(
                f"\nmin / median / max; ratio is pynet / peer\n\n{render(rows)}\n\n{summary(rows)}\nraw values: {path}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
