"""What hangs or dies under a start: a file server that does not answer, a supervisor that is killed. Nobody else waits."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pynet.netlib.kernel import syscall as k
from pynet.runtime.client import StartFailed
from pynet.runtime.launch import spawn

from support.runtime import BOUND, Lab, bind, command, needs_root, running_lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running_lab(tmp_path) as lab:
        yield lab


@needs_root
@pytest.mark.parametrize("what", ["mount", "device"])
def test_a_file_server_that_does_not_answer_holds_up_its_own_container_only(
    lab: Lab, tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    """The supervisor looked at the sources of mounts and devices in its single thread: all waited for a dead server."""
    place = tmp_path_factory.mktemp("dead")
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no file server can be played here: {error}")
    k.mount("dead", str(place), "fuse", data=f"fd={server},rootmode=40000,user_id=0,group_id=0")
    try:
        spec = lab.spec("true")
        if what == "mount":
            spec["mounts"].append(bind(place, "/data"))
        else:
            spec["devices"].append({"source": f"{place}/device", "target": "/dev/dead", "access": "rwm"})
        failures: list[StartFailed] = []

        def start() -> None:
            try:
                lab.client.start(spec)
            except StartFailed as error:
                failures.append(error)

        waiting = threading.Thread(target=start)
        waiting.start()
        assert lab.run("echo", "meanwhile").out == "meanwhile\n"
        assert lab.run("echo", "again").out == "again\n"
        assert waiting.is_alive(), "the source was not looked at"
        os.close(server)  # the server is gone for good: what waits for it fails
        server = -1
        waiting.join(BOUND)
        assert [error.exit_code for error in failures] == [125]
        assert what in str(failures[0])
    finally:
        if server >= 0:
            os.close(server)
        k.umount2(str(place), k.MNT_DETACH)


@needs_root
def test_a_container_that_mounts_a_dead_server_on_its_terminals_holds_up_nobody(lab: Lab) -> None:
    """exec -t looked for the container's terminals there, in the supervisor itself."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no file server can be played here")
    script = (
        "exec 5<>/dev/fuse; mount -t fuse -o fd=5,rootmode=40000,user_id=0,group_id=0 dead /dev/pts;"
        "echo $? > /control/up; read x < /control/go"
    )
    spec = lab.spec("sh", "-c", script, privileged=True)
    control = lab.control(spec)
    lab.client.start(spec)
    assert control.heard() == "0"
    with pytest.raises(StartFailed, match="not a terminal multiplexer"):
        lab.client.exec(spec["id"], command("true", tty=True), "e1")
    assert lab.run("echo", "meanwhile").out == "meanwhile\n"
    control.say("\n")
    assert lab.finish(spec).code == 0
    control.close()


def test_starts_wait_for_the_next_supervisor(lab: Lab) -> None:
    """Killed in the middle of thirty starts, and started again: each container runs, once, and none of the calls fails."""
    specs = [lab.spec("sh", "-c", "echo begun >> /tmp/begun; read x < /control/go") for _ in range(30)]
    controls = [lab.control(spec) for spec in specs]
    killed = threading.Event()

    def start(number: int) -> None:
        if number == 10:
            lab.kill_supervisor()
            lab.pid = spawn(lab.run_directory)
            killed.set()
        lab.client.start(specs[number])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(len(specs))))
    assert killed.is_set()
    assert {state["status"] for state in lab.client.list()} == {"running"}
    for spec, control in zip(specs, controls, strict=True):
        control.say("\n")
        assert lab.finish(spec).code == 0
        control.close()
        begun = Path(spec["rootfs"]["upper"], "tmp/begun").read_text()
        assert begun == "begun\n"


def test_a_shutdown_waits_for_the_groups_of_what_has_just_ended(tmp_path: Path) -> None:
    """A group that is still busy when its container ends is removed a little later; who ended before that left it for ever."""
    lab = Lab(tmp_path)
    try:
        if not lab.has_cgroups:
            pytest.skip("no cgroups may be made here")
        spec = lab.spec("sleep", "1000")
        lab.client.start(spec)
        groups = [path for path in Path("/sys/fs/cgroup").glob(f"*/{lab.cgroup}/{spec['id']}") if path.is_dir()]
        assert groups
        with subprocess.Popen(["sleep", "1000"]) as lodger:
            for group in groups:
                (group / "cgroup.procs").write_text(str(lodger.pid))
            os.kill(lodger.pid, signal.SIGSTOP)
            lab.client.kill(spec["id"], 9)
            lab.wait("exited", spec["id"])
            pidfd = os.pidfd_open(lab.pid)
            lab.client.shutdown()
            assert select.select([pidfd], [], [], BOUND)[0], "the supervisor did not end"
            os.close(pidfd)
    finally:
        lab.client.close()
    assert not [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{lab.cgroup}")], "cgroups were left"
