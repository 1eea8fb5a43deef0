"""What docs/networks.md tells users to type is typed, section by section, and does what the page says."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pynet.plugins.testhost import Host

from support.engine import Daemon

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
STARTS = "pynet daemon"
"""Starts of the engine: tests/system/test_network_starts.py has them."""


def sections() -> Iterator[tuple[str, list[str]]]:
    for section in re.split(r"^##+ ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        lines = re.findall(r"^ {4}((?:pynet|ip) .*)$", section, re.MULTILINE)
        yield section.partition("\n")[0], [re.split(r" {3,}", line)[0] for line in lines if not line.startswith(STARTS)]


def test_the_commands_of_the_page_do(host: Host) -> None:
    """One after the other: sections go on with what earlier ones made."""
    typed = 0
    with Daemon.running() as daemon:
        for title, lines in sections():
            if title == "Look, and clear away":
                made = {network["Name"] for network in daemon.get("/networks").body}
                assert {"front", "wide", "lan", "small", "both", "six", "db"} <= made
            for line in lines:
                words = shlex.split(line)
                done = (
                    daemon.pynet(*words[1:])
                    if words[0] == "pynet"
                    else subprocess.run(words, capture_output=True, text=True, check=False)
                )
                assert done.returncode == 0, f"{line}: {done.stderr}"
                typed += 1
                if words[-1] == "web":  # two sections use the name
                    assert daemon.pynet("network", "rm", "web").returncode == 0
        daemon.clear()
        subprocess.run(["ip", "link", "del", "br9"], check=True)
    assert typed > 15
