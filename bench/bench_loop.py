"""The supervisor's loop beside asyncio: what each costs in memory, and how long it takes to wake up for a byte.

    python -m bench.bench_loop        prints the two rows of docs/benchmarks.md

Each runs in a process of its own, single-threaded and with what it needs imported and no more: a socket pair on which one byte
comes and goes. The asker is this process, the same for both; the difference is the loop's. Memory is private (USS), of a process
that has forked nothing.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time

ROUNDS = 20_000
REPEATS = 5

OURS = """
import os, sys
from pynet.runtime.supervisor.loop import Loop
fd = int(sys.argv[1])
loop = Loop()
def heard(_):
    data = os.read(fd, 1)
    if not data:
        loop.running = False
    else:
        os.write(fd, data)
loop.add(fd, heard)
os.write(fd, b"r")
loop.run()
"""

ASYNCIO = """
import asyncio, os, sys
fd = int(sys.argv[1])
loop = asyncio.new_event_loop()
def heard():
    data = os.read(fd, 1)
    if not data:
        loop.stop()
    else:
        os.write(fd, data)
loop.add_reader(fd, heard)
os.write(fd, b"r")
loop.run_forever()
"""


def private_kib(pid: int) -> int:
    """Unique memory of *pid* (proc(5), smaps_rollup)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def measure(program: str) -> tuple[float, float, int]:
    """(seconds until it answers, microseconds a round, KiB)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        begun = time.perf_counter()
        argv = [sys.executable, "-I", "-c", program, str(theirs.fileno())]
        with subprocess.Popen(argv, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            assert ours.recv(1) == b"r"
            start = time.perf_counter() - begun
            fd = ours.fileno()
            times: list[float] = []
            for _ in range(ROUNDS):
                before = time.perf_counter()
                os.write(fd, b".")
                os.read(fd, 1)
                times.append(time.perf_counter() - before)
            memory = private_kib(process.pid)
            ours.close()
            process.wait(10)
    return start, statistics.median(times) * 1e6, memory


def main() -> None:
    print("| | start, ms | wake-up and answer, us (median of medians) | private memory, MiB |")
    print("|---|---|---|---|")
    for name, program in (("`supervisor/loop.py`", OURS), ("asyncio", ASYNCIO)):
        found = [measure(program) for _ in range(REPEATS)]
        start, latency = min(item[0] for item in found), statistics.median(item[1] for item in found)
        memory = statistics.median(item[2] for item in found)
        print(f"| {name} | {start * 1e3:.0f} | {latency:.1f} | {memory / 1024:.1f} |")


if __name__ == "__main__":
    main()
