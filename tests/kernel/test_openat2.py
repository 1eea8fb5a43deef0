"""openat2 while others rename: the kernel can not prove that ".." stays below the root, and wants to be asked again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pynet.netlib.kernel import syscall as k

RENAMES = """
import os, sys
os.chdir(sys.argv[1])
print("begun", flush=True)
for _ in range(50_000):
    os.rename("a", "b")
    os.rename("b", "a")
"""


def test_renames_elsewhere_do_not_fail_a_look_up(tmp_path: Path) -> None:
    """EAGAIN of it failed starts of containers with a link that has ".." in it, once in some thousand."""
    (tmp_path / "root/d").mkdir(parents=True)
    (tmp_path / "elsewhere/a").mkdir(parents=True)
    root = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    path = "d/../" * 10 + "d"
    command = [sys.executable, "-I", "-c", RENAMES, str(tmp_path / "elsewhere")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as others:
        assert others.stdout is not None
        others.stdout.readline()
        while others.poll() is None:
            os.close(k.openat2(root, path, os.O_PATH))
    os.close(root)
