"""The real dockerd publishing a range of ports: with docker-proxy, and with pynet-proxy in its place.

Each in a bed of its own (dockerd.py).  Timed are ``run -d`` with the range and ``rm -f``; memory is PSS of everything that
proxies, a TCP port being two processes (0.0.0.0 and ::).  One repetition: with docker-proxy it takes minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile

from dockerd import Docker
from proxy_rows import OURS, THEIRS, Row

_SCRIPT = f"#!{sys.executable} -I\nfrom pynet.proxy.standalone.main import main\nraise SystemExit(main())\n"


def run(ports: int) -> list[Row]:
    missing = Docker.missing()
    if missing or os.geteuid() != 0:
        print(f"the real dockerd is not measured: {missing or 'root is needed'}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as directory:
        script = f"{directory}/pynet-proxy"
        with open(script, "w") as file:
            file.write(_SCRIPT)
        os.chmod(directory, 0o755)
        os.chmod(script, 0o755)
        ours = _measure(ports, "--userland-proxy-path", script)
        theirs = _measure(ports)
    rows: list[Row] = []
    for index, (name, unit, must) in enumerate(
        ((f"dockerd, run -p with {ports} ports", "s", None), (f"dockerd, rm of {ports} ports", "s", None),
         (f"dockerd, memory of the proxies of {ports} ports", "MiB", 0.1 if ports >= 1000 else None))
    ):  # fmt: skip
        rows.append(Row(name, unit, False, {OURS: [ours[index]], THEIRS: [theirs[index]]}, must))
    return rows


def _measure(ports: int, *options: str) -> tuple[float, float, float]:
    """Seconds to start, seconds to remove, MiB."""
    print(f"dockerd {' '.join(options)}", file=sys.stderr, flush=True)
    with Docker(*options) as docker:
        docker.run("run", "--rm", "busybox", "true")
        publish = f"20001-{20000 + ports}:1-{ports}"
        start = docker.run("run", "-d", "--name", "many", "-p", publish, "busybox", "sleep", "100000", timeout=900)
        proxies = [
            found for found in docker.bed.processes() if "-proxy" in found.command or "pynet.proxy" in found.command
        ]
        proxies = [found for found in proxies if not found.command.startswith("dockerd")]
        memory = sum(found.pss for found in proxies) / 1024
        removal = docker.run("rm", "-f", "many", timeout=900)
    return start.seconds, removal.seconds, memory
