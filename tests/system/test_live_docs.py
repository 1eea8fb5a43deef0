"""docs/live.md: its command lines, one after the other, on the containers and networks that the page takes for granted."""

from __future__ import annotations

import shlex
from pathlib import Path

from pynet.plugins.testhost import Host

from support.engine import Daemon

PAGE = Path(__file__).parents[2] / "docs/live.md"
GIVEN = """
pynet network create --subnet 10.21.0.0/24 a
pynet network create --subnet 10.22.0.0/24 b
pynet network create front
pynet network create --subnet 10.20.0.0/24 back
pynet network create --subnet 10.30.0.0/24 third
pynet run -d --name web busybox sleep 1000
pynet run -d --name box --network a busybox sleep 1000
"""
BEFORE = {"pynet run -d --name box": "pynet rm -f box", "pynet network create --dry-run": "pynet network rm back"}
AFTER = {"pynet network create --dry-run": "pynet network create --subnet 10.20.0.0/24 back"}


def test_the_command_lines_do_what_the_page_says(daemon: Daemon, host: Host) -> None:
    lines = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    pynet ")]
    assert len(lines) > 10
    for line in [*GIVEN.split("\n")[1:-1], *lines]:
        around = [
            next((extra for start, extra in table.items() if line.startswith(start)), "") for table in (BEFORE, AFTER)
        ]
        for command in filter(None, (around[0], line, around[1])):
            done = daemon.pynet(*shlex.split(command)[1:])
            assert done.returncode == 0, f"{command}: {done.stderr}"
    found = daemon.get("/containers/box/json").body["NetworkSettings"]["Networks"]
    assert sorted(found) == ["back", "front"]
    assert (found["back"]["IPAddress"], found["back"]["Aliases"]) == ("10.20.0.7", ["store"])
    published = daemon.get("/pynet/containers/web/ports").body
    assert {(one["HostPort"], one["Port"]) for one in published} == {
        ("8081", "80/tcp"),
        ("53", "53/tcp"),
        ("53", "53/udp"),
    }
