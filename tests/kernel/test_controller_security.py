"""What a hostile container, a curious local user or a mishap must not be able to do to the host and to others."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.instance import veth_name

from support.netlib import call_in


@pytest.fixture
def start(start_controller: Callable[..., Controller]) -> Callable[[], Controller]:
    return start_controller


def modes(root: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.glob("pynet.db*"))}


def test_state_is_its_owners_alone_also_what_an_older_pynet_left_open(start: Callable[[], Controller]) -> None:
    controller = start()
    root = controller.instance.root
    expected = {"root": 0o700, "pynet.db": 0o600, "pynet.db-wal": 0o600, "pynet.db-shm": 0o600}
    controller.create_network("web")
    assert modes(root) == expected
    for path in (root, *root.glob("pynet.db*")):
        path.chmod(0o755)
    controller = start()
    controller.network("web")
    assert modes(root) == expected


def test_a_directory_that_was_there_before_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o755)
    Controller(tmp_path / "root", tmp_path / "run").close()
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o755


@pytest.mark.parametrize("ipv6", [False, True])
def test_a_bridge_takes_no_router_advertisements_from_its_containers(
    start: Callable[[], Controller], ipv6: bool
) -> None:
    """CVE-2020-13401; also on a network that has only IPv4."""
    Path("/proc/sys/net/ipv6/conf/default/accept_ra").write_text("2")
    network = start().create_network("web", ipv6=ipv6)
    assert Path(f"/proc/sys/net/ipv6/conf/{network.bridge}/accept_ra").read_text() == "0\n"


def inhabitant(controller: Controller, path: str) -> subprocess.Popen[bytes]:
    """A process that lives in the namespace that is pinned at *path* until its input ends."""
    process: subprocess.Popen[bytes] = call_in(
        controller, path, lambda: subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    return process


@pytest.mark.parametrize("unlinked", [False, True])
def test_a_living_container_whose_pin_is_lost_is_pinned_again_and_not_cut_off(
    start: Callable[[], Controller], unlinked: bool
) -> None:
    controller = start()
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    neighbour = controller.create_sandbox("b")
    network.create_endpoint("b").join(neighbour)
    with inhabitant(controller, sandbox.path), inhabitant(controller, neighbour.path):
        before = os.stat(sandbox.path).st_ino
        subprocess.run(["umount", sandbox.path], check=True)
        if unlinked:
            os.unlink(sandbox.path)
        assert f"missing netns {sandbox.path}" in {str(d) for d in controller.check()}
        controller = start()
        assert [str(d) for d in controller.repair()] == [f"missing netns {sandbox.path}"]
        assert os.stat(sandbox.path).st_ino == before
        assert controller.check() == []


def test_another_hosts_container_that_looks_alike_is_not_taken_for_ours(
    start: Callable[[], Controller], tmp_path: Path
) -> None:
    """Two pynets behind two host namespaces of one machine: names, addresses and even indices may be equal."""
    controller = start()
    endpoint = controller.create_network("web", subnet="10.1.0.0/24").create_endpoint("a")
    sandbox = controller.create_sandbox("a")
    endpoint.join(sandbox)
    host_end = controller.tools.rtnl.link(veth_name(endpoint.id))
    assert host_end is not None
    other_host, theirs = str(tmp_path / "host"), str(tmp_path / "theirs")
    for path in (other_host, theirs):
        os.close(controller.tools.netns.create(path))
    with inhabitant(controller, theirs) as stranger, inhabitant(controller, sandbox.path):
        command = f"link add {host_end.name} index {host_end.index} type veth peer name {endpoint.ifname}"
        command += f" index {host_end.peer} address {endpoint.mac} netns {stranger.pid}"
        call_in(controller, other_host, lambda: subprocess.run(["ip", *command.split()], check=True))
        before = os.stat(sandbox.path).st_ino
        subprocess.run(["umount", sandbox.path], check=True)
        controller.repair()
        assert os.stat(sandbox.path).st_ino == before
    for path in (other_host, theirs):
        controller.tools.netns.delete(path)
