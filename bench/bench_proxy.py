"""``make bench-proxy``: the forwarder beside docker-proxy, haproxy and nginx, on loopback, in one run.

    python bench/bench_proxy.py [--quick] [--only GROUP[,GROUP]] [--json FILE]

All serve the same back ends at the same time; each repetition measures one after the other, the first is warm-up
(proxy_rows.py).  The load is in proxy_load.py, the proxies in proxy_sides.py, what is measured in proxy_cases.py, and the
real dockerd with a thousand ports in proxy_dockerd.py (root only).  Every value goes to bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import proxy_dockerd
from proxy_cases import GROUPS, Effort
from proxy_rows import Row, summary, table
from proxy_sides import Sides, find_docker_proxy

HERE = Path(__file__).parent
QUICK = Effort(repetitions=2, seconds=0.4, trips=4000)
FULL = Effort(repetitions=5, seconds=1.0, trips=20000)


def run(quick: bool, only: tuple[str, ...] = ()) -> list[Row]:
    """Measure; half a minute when *quick*, else about six.  Empty when there is no docker-proxy."""
    docker_proxy = find_docker_proxy()
    if docker_proxy is None:
        print("docker-proxy is not installed (Debian: docker.io): nothing to compare with", file=sys.stderr)
        return []
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    rows: list[Row] = []
    for name, group in GROUPS.items():
        if only and name not in only:
            continue
        print(f"{name} (load average {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
        with Sides(docker_proxy) as sides:
            rows += group(sides, QUICK if quick else FULL)
    return rows


def main() -> None:
    names = [*GROUPS, "dockerd"]
    parser = argparse.ArgumentParser(description="Measure the forwarder beside docker-proxy, haproxy and nginx.")
    parser.add_argument("--quick", action="store_true", help="few and short repetitions: does it work?")
    parser.add_argument("--only", default="", metavar="GROUPS", help=f"of {', '.join(names)}; separated by commas")
    parser.add_argument("--json", metavar="FILE", help="write the raw values here, not to bench/results/")
    options = parser.parse_args()
    only = tuple(filter(None, options.only.split(",")))
    if unknown := set(only) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    before = os.getloadavg()
    rows = run(options.quick, only) if not only or set(only) != {"dockerd"} else []
    if not only or "dockerd" in only:
        rows += proxy_dockerd.run(100 if options.quick else 1000)
    print(table(rows), summary(rows), sep="\n\n")
    print(
        f"load average: {before[0]:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; {os.cpu_count()} processors"
    )
    (HERE / "results").mkdir(exist_ok=True)
    path = Path(options.json or HERE / "results" / time.strftime("proxy-%Y%m%d-%H%M%S.json"))
    machine = {"kernel": platform.release(), "processors": os.cpu_count(), "python": platform.python_version()}
    context = {"machine": machine, "load": [before, os.getloadavg()], "quick": options.quick}
    path.write_text(json.dumps({**context, "rows": [row.as_dict() for row in rows]}, indent=1) + "\n")
    print(f"raw values: {path}")


if __name__ == "__main__":
    main()
