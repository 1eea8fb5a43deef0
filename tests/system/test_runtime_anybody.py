"""The tests of the runtime once more: as user nobody in ``unshare -Urnm``, and where cgroup v2 alone is mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.runtime import needs_root

SUITE = [str(Path(__file__).with_name(f"test_runtime_{part}.py")) for part in ("containers", "io", "lives")]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urnm"]


def interpreter_for_nobody(base: Path) -> str:
    """This interpreter, or when it lives where only root may go, the system's with our modules."""
    if not subprocess.run([*NOBODY, sys.executable, "-c", ""], capture_output=True, check=False).returncode:
        return sys.executable
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin")
    if system is None:
        pytest.skip(f"user nobody may not execute {sys.executable}, and there is no other Python {version}")
    subprocess.run([system, "-m", "venv", "--without-pip", base / "venv"], check=True)
    paths = [path for path in sys.path if path.endswith("site-packages")]
    paths.append(str(Path(__file__).parents[2] / "src"))
    (base / f"venv/lib/python{version}/site-packages/ours.pth").write_text("\n".join(paths))
    return str(base / "venv/bin/python")


@needs_root
def test_all_of_it_as_nobody() -> None:
    base = Path(subprocess.check_output(["mktemp", "-d", "/tmp/pynet-nobody-XXXXXX"], text=True).strip())
    base.chmod(0o755)
    (base / "t").mkdir()
    os.chown(base / "t", 65534, 65534)
    environment = {"PATH": os.environ["PATH"], "HOME": str(base / "t"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        inner = [interpreter_for_nobody(base), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command = [*NOBODY, *inner, "--basetemp", str(base / "t/pytest"), *SUITE]
        root = Path(__file__).parents[2]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert " passed" in done.stdout
    finally:
        shutil.rmtree(base)


@needs_root
def test_the_same_where_only_cgroup_v2_is_mounted(tmp_path: Path) -> None:
    """A mount namespace without the v1 hierarchies: containers see their v2 group, devices are filtered by eBPF."""
    mounted = Path("/proc/self/mountinfo").read_text()
    if " - cgroup2 " not in mounted or " - cgroup cgroup " not in mounted:
        pytest.skip("this host has not both versions, so the other tests cover what it has")
    script = """
    for point in $(awk '/ - cgroup cgroup /{print $5}' /proc/self/mountinfo); do umount "$point" || exit 9; done
    exec "$@"
    """
    chosen = "exit_code or alone or descriptor or capabilities or devices or pause or exec_joins or everything"
    inner = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "t")]
    command = ["unshare", "-m", "sh", "-c", script, "sh", *inner, "-k", chosen, *SUITE]
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
