"""What a process costs that only waits: the sleeping program of pynet-proxy beside what could stand in its place.

    python bench/bench_waiting.py [--number N]

KiB of PSS (proc_pid_smaps(5)) a process, of N that run at one time, as dockerd has one for each published port; and the time
from exec to the wait.  What is not installed is left out; docker-proxy itself is in ``make bench-proxy``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from pynet.proxy.standalone import sleeper


def _pss_kib(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def _waits(pid: int) -> bool:
    """Whether it sleeps in a system call, after its exec."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()[0] == b"S"


def measure(argv: list[str], number: int) -> tuple[float, float]:
    """(KiB, milliseconds)."""
    processes: list[subprocess.Popen[bytes]] = []
    times: list[float] = []
    for _ in range(number):
        began = time.perf_counter()
        processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        while not _waits(processes[-1].pid):
            assert processes[-1].poll() is None, f"{argv[0]} does not wait"
        times.append((time.perf_counter() - began) * 1e3)
    try:
        return sum(_pss_kib(process.pid) for process in processes) / number, statistics.median(times)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--number", type=int, default=100)
    number = parser.parse_args().number
    with tempfile.TemporaryDirectory() as run:
        sleeper.install(run)
        ways = {
            "the sleeping program": [f"{run}/{sleeper.FILE}", "/bin/false"],
            "busybox sleep, static": ["/bin/busybox", "sleep", "600"],
            "sleep": ["/bin/sleep", "600"],
        }
        for name, argv in ways.items():
            if not Path(argv[0]).exists():
                print(f"{name:24} is not installed")
                continue
            kib, milliseconds = measure(argv, number)
            print(f"{name:24} {kib:7.0f} KiB  {milliseconds:6.2f} ms")
    print(f"load average {os.getloadavg()[0]:.1f}, {number} of each")


if __name__ == "__main__":
    main()
