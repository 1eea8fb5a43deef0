"""Traffic by the commands: docs/traffic.md's, in order, and what limits, counters and captures do to a real container."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from support.engine import Daemon

PAGE = Path(__file__).parents[2] / "docs/traffic.md"


def test_the_commands_of_the_page_are_understood_by_a_real_engine(daemon: Daemon) -> None:
    lines = re.findall(r"^\$ pynet (.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        done = daemon.pynet(*shlex.split(line, comments=True))
        assert (done.returncode, done.stderr) == (0, ""), f"pynet {line}"
    assert daemon.pynet("check").returncode == 0


def test_limits_are_given_changed_shown_and_kept(daemon: Daemon) -> None:
    def limits() -> dict[str, dict[str, int]]:
        shown = daemon.pynet("network", "stats", "--no-stream", "--json").stdout.splitlines()
        return {row["Network"]: row["Limits"] for row in map(json.loads, shown)}

    assert daemon.pynet("network", "create", "-o", "rate_in=8mbit", "back").returncode == 0
    opt = "name=back,driver-opt=com.docker.network.endpoint.rate_out=1mbit"
    assert daemon.pynet("run", "-d", "--name", "web", "--network", opt, "busybox", "sleep", "1000").returncode == 0
    assert limits() == {"back": {"rate_in": 1_000_000, "rate_out": 125_000, "burst": 0}}
    assert daemon.pynet("network", "limit", "--rate-out", "2mbit", "--burst", "64k", "back", "web").returncode == 0
    kept = {"back": {"rate_in": 1_000_000, "rate_out": 250_000, "burst": 65536}}
    assert limits() == kept
    assert daemon.pynet("restart", "-t", "0", "web").returncode == 0
    assert limits() == kept
    assert daemon.pynet("network", "limit", "--rate-out", "", "--burst", "", "back", "web").returncode == 0
    assert limits() == {"back": {"rate_in": 1_000_000, "rate_out": 0, "burst": 0}}
    daemon.kill()
    daemon.start()
    assert limits() == {"back": {"rate_in": 1_000_000, "rate_out": 0, "burst": 0}}
    assert daemon.pynet("stop", "-t", "0", "web").returncode == 0
    assert daemon.pynet("network", "limit", "--rate-out", "1mbit", "back", "web").returncode == 0
    assert daemon.pynet("start", "web").returncode == 0
    assert limits()["back"]["rate_out"] == 125_000


def test_what_is_wrong_with_a_limit_is_said_and_nothing_changes(daemon: Daemon) -> None:
    def refused(*words: str) -> str:
        done = daemon.pynet(*words)
        assert done.returncode
        return str(done.stderr)

    assert "invalid value 'quick' for option rate_in" in refused("network", "create", "-o", "rate_in=quick", "bad")
    assert "bad" not in daemon.pynet("network", "ls", "--format", "{{.Name}}").stdout.split()
    assert daemon.pynet("network", "create", "back").returncode == 0
    run = ("run", "-d", "--name", "web", "busybox", "sleep", "1000")
    assert "invalid value 'x' for option rate_in" in refused(
        *run[:4], "--network", "name=back,driver-opt=rate_in=x", *run[4:]
    )
    assert daemon.pynet("ps", "-aq").stdout == ""
    assert daemon.pynet(*run).returncode == 0
    assert "burst" in refused("network", "limit", "--burst", "9", "bridge", "web")
    assert "nothing to change" in refused("network", "limit", "bridge", "web")
    assert "is not connected to network back" in refused("network", "limit", "--rate-in", "1mbit", "back", "web")
    assert "network nosuch not found" in refused("network", "stats", "--no-stream", "nosuch")
    (row,) = daemon.pynet(
        "network", "stats", "--no-stream", "--format", "{{.Network}} {{.Container}} {{.Limit}}"
    ).stdout.splitlines()
    assert row == "bridge web -"
