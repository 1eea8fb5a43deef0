"""What is built is whole: wheel from the tree, wheel from the sdist, both usable outside the checkout."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pynet.cli.completion import script
from pynet.cli.manual import pages

TOP = Path(__file__).parents[2]
ROOMS = ("cli", "drivers", "engine", "ipam", "names", "netlib", "plugins", "proxy", "runtime")
MODULES = {
    "pynet/__init__.py",
    "pynet/__main__.py",
    "pynet/py.typed",
    *(f"pynet/{path.relative_to(TOP)}" for room in ROOMS for path in (TOP / room).rglob("*.py")),
    "pynet/proxy/standalone/sleeper.s",
}


def build(source: Path, target: Path, kind: str) -> Path:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-I", "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.iterdir()
    return built


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name and ".data/" not in name}


def shared(wheel: Path) -> dict[str, str]:
    """What is installed beside the modules: path below the prefix -> text."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name.partition(".data/data/")[2]: archive.read(name).decode()
            for name in archive.namelist()
            if ".data/data/" in name
        }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a clone of the working tree as it stands would have, links and all."""
    if not (TOP / ".git").exists():
        pytest.skip("not a git checkout")
    target = tmp_path_factory.mktemp("tree")
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={TOP}", "ls-files", "-coz", "--exclude-standard"],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (TOP / name).is_symlink() or (TOP / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, target / name, follow_symlinks=False)
    return target


def test_a_wheel_has_every_module_and_runs_outside_the_checkout(tree: Path, tmp_path: Path) -> None:
    wheel = build(tree, tmp_path / "wheel", "wheel")
    tracked = {name for name in MODULES if (tree / name.removeprefix("pynet/")).exists() or name.count("/") == 1}
    assert names(wheel) == tracked
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        f"import sys; sys.path[:0] = [{str(site)!r}]; sys.path[:] = [p for p in sys.path if p != {str(TOP / 'src')!r}];"
        "import pynet; from pynet import Controller; import pynet.engine.daemon, pynet.cli.main, pynet.runtime.supervisor.main;"
        "print(pynet.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == str(site / "pynet/__init__.py"), done.stderr


LIBRARY_ALONE = """
import sys
sys.path[:0] = [{site!r}]
sys.modules["aiohttp"] = None                       # as if it were not installed
import pynet
for name in pynet.__all__:
    getattr(pynet, name)
import pynet.plugins.pytest_plugin, pynet.plugins.testhost, pynet.proxy.standalone.main, pynet.drivers.bridge
assert pynet.__file__.startswith({site!r})
from pynet.engine.daemon import main
sys.exit(main(["--root", {state!r}, "--run", {state!r}]))
"""


def test_the_library_needs_no_http_server_and_the_engine_says_that_it_does(tree: Path, tmp_path: Path) -> None:
    site, state = tmp_path / "site", tmp_path / "state"
    with zipfile.ZipFile(build(tree, tmp_path / "wheel", "wheel")) as archive:
        archive.extractall(site)
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        needs = re.findall(r"^Requires-Dist: (.*)$", archive.read(metadata).decode(), re.MULTILINE)
    assert metadata.startswith("pynet_containers-")
    assert [need for need in needs if need.startswith("aiohttp")] == ["aiohttp>=3.10; extra == 'engine'"]
    code = LIBRARY_ALONE.format(site=str(site), state=str(state))
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    what, hint = done.stderr.splitlines()
    assert what.startswith("pynetd: the engine needs aiohttp")
    assert hint == "  pip install 'pynet-containers[engine]'"
    assert not state.exists(), "said before anything is made"


def test_manual_pages_and_completions_are_installed_where_programs_look_for_them(tree: Path, tmp_path: Path) -> None:
    found = shared(build(tree, tmp_path / "wheel", "wheel"))
    assert found.pop("share/bash-completion/completions/pynet") == script("bash")
    assert found.pop("share/zsh/site-functions/_pynet") == script("zsh")
    assert found.pop("share/fish/vendor_completions.d/pynet.fish") == script("fish")
    assert set(found) == {f"share/man/man1/{name}" for name in pages("", "")}
    assert "\\fB\\-\\-network\\fR" in found["share/man/man1/pynet-run.1"]


def test_nothing_of_the_tests_is_in_the_wheel(tree: Path, tmp_path: Path) -> None:
    wheel = build(tree, tmp_path / "wheel", "wheel")
    for name in names(wheel):
        assert re.fullmatch(r"pynet/(\w+/)*(\w+\.py|py\.typed|sleeper\.s)", name), name
        assert "test" not in Path(name).name or name in TEST_TOOLS, name
        assert not {"tests", "support", "bench"} & set(Path(name).parts), name


TEST_TOOLS = {"pynet/plugins/pytest_plugin.py", "pynet/plugins/testhost.py"}
"""What other projects test with."""


def test_a_source_distribution_builds_the_same_wheel(tree: Path, tmp_path: Path) -> None:
    sdist = build(tree, tmp_path / "sdist", "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert os.path.exists(unpacked / "tests") and os.path.exists(unpacked / "docs/design.md")
    again, direct = build(unpacked, tmp_path / "again", "wheel"), build(tree, tmp_path / "direct", "wheel")
    assert names(again) == names(direct)
    assert shared(again) == shared(direct)


def test_the_folder_of_pynet_proxy_needs_the_wheel_and_nothing_else(tree: Path, tmp_path: Path) -> None:
    """As docs/docker-proxy.md makes it, with the wheel where the page has the tree: no dependency, and its script serves."""
    page = (tree / "docs/docker-proxy.md").read_text()
    made = re.search(r"^# python3 -m venv (\S+)\n# \1/bin/pip install --no-deps \.$", page, re.MULTILINE)
    script = re.search(r"^```python\n(#!/.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert made is not None and script is not None
    folder = tmp_path / "opt"
    wheel = build(tree, tmp_path / "wheel", "wheel")
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", folder], check=True)
    words = ["--python", str(folder / "bin/python"), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", *words], check=True, timeout=100)
    program = tmp_path / "pynet-docker-proxy"
    program.write_text(script[1].replace(made[1], str(folder)))
    program.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as target, socket.create_server(("127.0.0.1", 0)) as free:
        target.settimeout(20)
        port, number = free.getsockname()[1], target.getsockname()[1]
        free.close()
        where = ["-host-ip", "127.0.0.1", "-host-port", str(port), "-container-ip", "127.0.0.1"]
        environment = {**os.environ, "PYNET_PROXY_RUN": str(tmp_path / "run")}
        process = subprocess.Popen([program, "-proto", "tcp", *where, "-container-port", str(number)], env=environment)
        try:
            client = None
            while client is None:
                assert process.poll() is None
                with contextlib.suppress(ConnectionRefusedError):
                    client = socket.create_connection(("127.0.0.1", port), timeout=20)
            with client, target.accept()[0] as peer:
                client.sendall(b"x")
                assert peer.recv(1) == b"x"
        finally:
            process.terminate()
            process.wait(20)
            lock = os.open(next((tmp_path / "run").iterdir()) / "forwarder.lock", os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX)  # the shared forwarder leaves after its last port
            os.close(lock)
