"""kill -9 at every point of a life: the next controller's repair makes store and kernel agree, and nothing is astray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pynet.netlib.errors import NotSupported
from pynet.netlib.firewall.choice import select_backend
from pynet.plugins.testhost import Host

THOROUGH = bool(os.environ.get("PYNET_THOROUGH"))
"""Every point (half a minute), and not every few."""


@pytest.mark.parametrize(("firewall", "points", "stride"), [("nftables", "every", 3), ("iptables", "steps", 4)])
def test_a_crash_anywhere_is_mended(host: Host, tmp_path: Path, firewall: str, points: str, stride: int) -> None:
    try:
        select_backend(firewall).close()
    except NotSupported as error:
        pytest.skip(str(error))
    live_and_die(tmp_path, firewall, points, stride, "bridge")


@pytest.mark.usefixtures("lan")
def test_a_crash_anywhere_in_a_macvlan_networks_life_is_mended(tmp_path: Path) -> None:
    live_and_die(tmp_path, "nftables", "every", 3, "macvlan")


def live_and_die(directory: Path, firewall: str, points: str, stride: int, kind: str) -> None:
    script = Path(__file__).with_name("crash_everywhere.py")
    command = [sys.executable, str(script), str(directory), firewall, points, "1" if THOROUGH else str(stride), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) >= 25, "so many points has this life"
