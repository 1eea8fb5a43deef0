"""What a short command costs before the engine is asked: CPU time of whole processes, which a busy machine disturbs less
than the clock.

    python bench/bench_cli.py [ROUNDS]

Compared: a bare interpreter, `pynet --version`, `pynet ps` at a socket that is not there, what `pynet ps` would be
with http.client in place of cli/http1.py, and Docker's client where it is installed.  Runs are interleaved.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time

NOWHERE = "/nonexistent/engine.sock"
OWN = [sys.executable, "-I"]
PS = f"import sys; sys.argv = ['pynet', '--host', '{NOWHERE}', 'ps']; from pynet.cli.main import main; main()"


def candidates() -> dict[str, list[str]]:
    found = {
        "python -c pass": [*OWN, "-c", "pass"],
        "pynet --version": [*OWN, "-c", "from pynet.cli.main import main; main(['--version'])"],
        "pynet ps": [*OWN, "-c", PS],
        "pynet ps, with http.client": [*OWN, "-c", f"import http.client; {PS}"],
    }
    script = os.path.join(os.path.dirname(sys.executable), "pynet")
    if os.path.exists(script):
        found["pynet --version (installed script)"] = [script, "--version"]
    for docker in dict.fromkeys((shutil.which("docker"), "/usr/bin/docker")):
        if docker and os.path.exists(docker):
            found[f"{docker} --version"] = [docker, "--version"]
            found[f"{docker} ps"] = [docker, "--host", f"unix://{NOWHERE}", "ps"]
    return found


def run(argv: list[str], null: int) -> tuple[float, float]:
    """CPU and clock milliseconds of one process."""
    start = time.perf_counter()
    actions = [(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    pid = os.posix_spawn(argv[0], argv, environ, file_actions=actions)
    _, _, usage = os.wait4(pid, 0)
    return (usage.ru_utime + usage.ru_stime) * 1000, (time.perf_counter() - start) * 1000


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    null = os.open(os.devnull, os.O_WRONLY)
    table = candidates()
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in table}
    for number in range(rounds + 1):
        for name, argv in table.items():
            sample = run(argv, null)
            if number:  # the first round warms caches and writes byte code
                results[name].append(sample)
    print(f"{'':36} {'CPU ms':>16}   {'clock ms':>16}\n{'':36} {'min':>7} {'median':>8}   {'min':>7} {'median':>8}")
    for name, samples in results.items():
        cpu, clock = zip(*samples, strict=True)
        print(
            f"{name:36} {min(cpu):7.1f} {statistics.median(cpu):8.1f}   {min(clock):7.1f} {statistics.median(clock):8.1f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
