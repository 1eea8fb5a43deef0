"""Beside the firewalls that people have: Debian's ufw and firewalld, and a dockerd that runs.

Our ports work, theirs work, nobody's FORWARD policy is changed by us; with ``host-input`` it is their INPUT rules that open our
ports.  They run in the namespace that plays the host, on copies of their configuration.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.controller import Controller
from pynet.plugins.isolation import maps_every_uid
from pynet.plugins.testhost import Host, Lan

from support.beside import Beside, beside, forward_policy
from support.proxy import Proxy
from support.waiting import until

TESTS = Path(__file__).parents[1]
needs_root = pytest.mark.skipif(not maps_every_uid(), reason="needs root with every uid")


def find(program: str) -> str:
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


class Own:
    """Runs a program on copies of the directories that it keeps its state in."""

    def __init__(self, tmp_path: Path, *directories: str) -> None:
        self._copies = {directory: tmp_path / directory.strip("/").replace("/", "-") for directory in directories}
        for directory, copy in self._copies.items():
            shutil.copytree(directory, copy, symlinks=True)

    def at(self, directory: str) -> Path:
        return self._copies[directory]

    def argv(self, *argv: str) -> list[str]:
        binds = " && ".join(f"mount --bind '{copy}' '{directory}'" for directory, copy in self._copies.items())
        return ["unshare", "-m", "sh", "-c", f'{binds} && exec "$@"', "sh", *argv]

    def run(self, *argv: str) -> str:
        done = subprocess.run(self.argv(*argv), check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def proxy(tmp_path: Path, host: Host) -> Iterator[Proxy]:
    (tmp_path / "run").mkdir()
    with Proxy.running(tmp_path / "run") as proxy:
        yield proxy


@pytest.fixture
def others_rules_go(host: Host) -> Iterator[None]:
    """Whatever tables they made, their ends do not take them all away."""
    yield
    subprocess.run(["nft", "flush", "ruleset"], check=True)


@pytest.fixture(params=["nat", "host-input"])
def both(
    request: pytest.FixtureRequest, proxy: Proxy, start_controller: Callable[..., Controller], lan: Lan
) -> Iterator[Beside]:
    host: Host = request.getfixturevalue("host")
    controller = start_controller("nftables", proxy=proxy.client, publish_policy=request.param)
    with beside(controller, host, lan) as both, controller.watch_firewall():
        yield both


def is_judged_by_input(both: Beside) -> bool:
    return both.controller.core.plans.host_input


# -- ufw --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ufw(tmp_path: Path, others_rules_go: None) -> Iterator[Callable[..., str]]:
    program = find("ufw")
    own = Own(tmp_path, "/etc/ufw", "/etc/default")
    settings = own.at("/etc/default") / "ufw"
    settings.write_text(settings.read_text().replace("IPT_SYSCTL=/etc/ufw/sysctl.conf", "IPT_SYSCTL="))
    (tmp_path / "lock").mkdir()
    yield lambda *words: own.run(program, *words)


@needs_root
def test_beside_ufw(ufw: Callable[..., str], both: Beside) -> None:
    ufw("--force", "enable")
    ufw("allow", "7000/tcp")
    assert forward_policy() == "-P FORWARD DROP"
    assert both.asks(both.lan, Lan.host_address, 7000) == "host", "theirs is open"
    assert not both.asks(both.lan, Lan.host_address, 7001, silent=True), "and theirs alone"
    if is_judged_by_input(both):
        assert not both.published(silent=True), "INPUT drops it"
        ufw("allow", "8080/tcp")
    until(lambda: both.published(silent=True) == "container", "our port is not reached beside ufw")
    assert both.asks(both.inside, Lan.address, 5000) == "lan", "and containers reach the LAN"
    ufw("reload")
    until(lambda: both.published(silent=True) == "container", "ufw's reload took our port")
    if is_judged_by_input(both):
        ufw("delete", "allow", "8080/tcp")
        assert not both.published(silent=True)
    assert forward_policy() == "-P FORWARD DROP"
    assert forward_policy("ip6tables") == "-P FORWARD DROP"
    ufw("--force", "disable")


# -- firewalld --------------------------------------------------------------------------------------------------------


@pytest.fixture
def firewall_cmd(tmp_path: Path, host: Host, others_rules_go: None) -> Iterator[Callable[..., str]]:
    daemon, client, bus = find("firewalld"), find("firewall-cmd"), find("dbus-daemon")
    own = Own(tmp_path, "/etc/firewalld")
    Path("/run/dbus").mkdir(exist_ok=True)  # a tmpfs of the tests' own
    log = (tmp_path / "log").open("wb")
    programs = [subprocess.Popen([bus, "--system", "--nofork", "--nopidfile"], stdout=log, stderr=log)]
    try:
        until(Path("/run/dbus/system_bus_socket").exists, "the bus does not come up")
        programs.append(subprocess.Popen(own.argv(daemon, "--nofork", "--nopid"), stdout=log, stderr=log))

        def is_up() -> bool:
            state = subprocess.run([client, "--state"], check=False, capture_output=True, text=True, timeout=60)
            return state.stdout.strip() == "running"

        until(is_up, (tmp_path / "log").read_text() or "firewalld does not come up")
        yield lambda *words: own.run(client, *words)
    finally:
        for program in reversed(programs):
            program.terminate()
            program.wait(20)
        log.close()
        Path("/run/dbus/system_bus_socket").unlink(missing_ok=True)


@needs_root
def test_beside_firewalld(both: Beside, firewall_cmd: Callable[..., str]) -> None:
    firewall_cmd("--add-port=7000/tcp")
    assert both.asks(both.lan, Lan.host_address, 7000) == "host", "theirs is open"
    assert not both.asks(both.lan, Lan.host_address, 7001, silent=True), "and theirs alone"
    if is_judged_by_input(both):
        assert not both.published(silent=True), "INPUT rejects it"
        firewall_cmd("--add-port=8080/tcp")
    assert both.published() == "container"
    bridge = both.controller.network("web").bridge
    (said,) = [sentence for sentence in both.controller.warnings() if "firewalld" in sentence]
    assert f"--add-interface={bridge}" in said
    firewall_cmd("--zone=trusted", f"--add-interface={bridge}")
    assert both.asks(both.inside, Lan.address, 5000) == "lan"
    firewall_cmd("--runtime-to-permanent")
    firewall_cmd("--reload")
    until(lambda: both.published(silent=True) == "container", "firewalld's reload took our port")
    assert both.asks(both.inside, Lan.address, 5000) == "lan"


# -- dockerd ----------------------------------------------------------------------------------------------------------

_ECHO = """
import socket
with socket.create_server(("", 80)) as server:
    print("ready", flush=True)
    while True:
        with server.accept()[0] as peer:
            peer.sendall(peer.recv(100).upper())
"""


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(TESTS.parent / "bench"))
    dockerd = importlib.import_module("dockerd")
    missing = dockerd.Docker.missing()
    if missing:
        pytest.skip(f"not installed: {missing}")
    try:
        with dockerd.Docker() as docker:
            yield docker
    finally:
        for name in ("dockerd", "peer", "bed"):
            sys.modules.pop(name, None)


@needs_root
def test_beside_a_dockerd_that_runs(docker: Any) -> None:
    docker.run("run", "-d", "--name", "web", "-p", "9090:80", "busybox", "sleep", "1000")
    pid = docker.run("inspect", "-f", "{{.State.Pid}}", "web").out.strip()
    log = f"{docker.bed.path}/echo"
    docker.bed.spawn("nsenter", "-t", pid, "-n", sys.executable, "-c", _ECHO, log=log)
    end = time.monotonic() + 20
    while not Path(log).exists() or not Path(log).read_text():
        assert time.monotonic() < end
    said = json.loads(
        docker.bed.run(sys.executable, "-m", "support.beside", "9090", env={"PYTHONPATH": str(TESTS)}).out
    )
    assert said == {
        "policy": "-P FORWARD DROP",
        "ours": "container",
        "out": "lan",
        "theirs": "HELLO",
        "policy with ours": "-P FORWARD DROP",
        "warnings": [],
        "policy without ours": "-P FORWARD DROP",
    }
    docker.run("rm", "-f", "web")
