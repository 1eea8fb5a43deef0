"""What fails in the middle of a container's life in the supervisor: nothing leaks, nobody waits for ever, all is told."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib import ipc
from pynet.netlib.kernel import syscall as k
from pynet.runtime import linux
from pynet.runtime.child import devices
from pynet.runtime.spec import RootFS
from pynet.runtime.supervisor import group as groups
from pynet.runtime.supervisor import logs, main, rootfs, spawn
from pynet.runtime.supervisor.cgroups import Cgroups
from pynet.runtime.supervisor.confinement import Confinement
from pynet.runtime.supervisor.connection import Connection
from pynet.runtime.supervisor.container import Container
from pynet.runtime.supervisor.context import Context
from pynet.runtime.supervisor.errors import StartError
from pynet.runtime.supervisor.execs import Execs
from pynet.runtime.supervisor.group import Group
from pynet.runtime.supervisor.host import Host
from pynet.runtime.supervisor.loop import Loop
from pynet.runtime.supervisor.parents import Parents
from pynet.runtime.supervisor.records import Record
from pynet.runtime.supervisor.spawn import Spawned
from pynet.runtime.supervisor.streams import Streams
from pynet.runtime.supervisor.supervisor import Supervisor
from pynet.runtime.supervisor.watchdog import Watchdog

LIMITS = {"memory": 0, "memory_swap": 0, "nano_cpus": 0, "cpu_shares": 0, "cpuset_cpus": "", "pids": 0}


def specification(place: Path) -> Any:
    return {
        "id": "c", "name": "c", "tty": False, "open_stdin": True, "stdin_once": False, "log": str(place / "log"),
        "cgroup": "pynet-test/c", "limits": LIMITS, "restart": {"name": "no", "max": 0}, "hold": True,
    }  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    context = Context(Loop(), Host(str(tmp_path)), Cgroups(""), lambda _: None)
    yield context
    context.close()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    record = Record(str(tmp_path / "c"))
    record.create()
    return record


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def spawned(errors: int, gate: int) -> Spawned:
    return Spawned(os.getpid(), -1, errors, gate)


# -- a child that somebody else stops or kills -----------------------------------------------------------------------


def test_a_child_that_is_stopped_behind_its_last_words_holds_up_nobody() -> None:
    """A container's root may stop what joins it: the supervisor read on to the end of the pipe, and so waited for it."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.write(writer, b"127\0exec\0no such program")
    error = spawned(reader, -1).outcome()
    assert error is not None
    assert (error.code, error.message) == (127, "no such program")
    os.close(reader)
    os.close(writer)


def test_a_child_that_is_killed_at_its_gate_is_no_error_and_leaves_no_descriptor() -> None:
    """Its end is told as any other's; a refusal came before it, and the gate stayed open."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    spawned(-1, writer).go()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)


# -- output ------------------------------------------------------------------------------------------------------------


class Thief(logs.Peek):
    """The container reads its own standard output, which is open both ways, behind the supervisor's look at it."""

    def look(self, fifo: int) -> bytes:
        data = super().look(fifo)
        if data:
            os.read(fifo, len(data))
        return data


def test_a_container_that_eats_its_own_output_raises_nothing_in_the_supervisor(tmp_path: Path) -> None:
    """Each time it was a traceback in supervisor.log, which grows without a bound, and a journal that stayed set."""
    os.mkfifo(tmp_path / "out")
    log, peek = logs.Log(str(tmp_path / "log"), str(tmp_path / "journal")), Thief()
    stream = logs.FifoStream(str(tmp_path / "out"), "stdout", log, peek)
    os.write(stream.fd, b"one\n")
    assert stream.pump() is None
    assert log.unfinished() is None
    assert (tmp_path / "log").read_text().count('"one\\n"') == 1
    for thing in (stream, log, peek):
        thing.close()


def test_a_log_that_was_emptied_is_not_filled_with_zeros(tmp_path: Path) -> None:
    """Killed within a batch, and somebody truncates the file before the successor looks."""
    log = logs.Log(str(tmp_path / "log"), str(tmp_path / "journal"))
    log.write("stdout", b"first\n", [b"first\n"])
    log.taken()
    log.write("stdout", b"second\n", [b"second\n"])
    os.truncate(tmp_path / "log", 0)
    assert log.unfinished() is None
    assert (tmp_path / "log").read_bytes() == b""
    log.close()


@pytest.mark.parametrize("broken", ["err", "log", "journal"])
def test_streams_that_can_not_be_opened_leave_nothing_open(
    context: Context, record: Record, tmp_path: Path, broken: str
) -> None:
    spec = specification(tmp_path)
    if broken == "log":
        spec["log"] = str(tmp_path / "missing/log")
    else:
        os.mkdir(record.path(broken))
    before = descriptors()
    streams = Streams(context, record, spec)
    with pytest.raises(OSError, match="directory"):
        streams.open()
    streams.close()
    assert descriptors() == before


def test_a_log_that_is_gone_does_not_lose_the_container(
    context: Context, record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The successor of a supervisor could not take it over: it ran on, and could be neither stopped nor removed."""
    spec = specification(tmp_path)
    spec["log"] = str(tmp_path / "missing/log")
    container = Container(context, record, spec, lambda _: None)
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    state = {
        **container.state, "status": "running", "pid": process.pid, "start_time": linux.start_time(process.pid)
    }  # fmt: skip
    container.restore(state)
    assert "output of container c is lost" in capsys.readouterr().err
    container.stop(signal.SIGKILL, -1, lambda: setattr(context.loop, "running", False))
    process.communicate()
    context.loop.later(10, lambda: setattr(context.loop, "running", False))
    context.loop.run()
    assert container.state["status"] == "exited"


# -- control groups ----------------------------------------------------------------------------------------------------


def test_a_group_that_can_not_be_removed_holds_up_no_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error went up in the middle of a container's end: whoever waited for its stop waited for ever."""
    (tmp_path / "group/file").mkdir(parents=True)
    confinement = Confinement(Loop(), Cgroups(""), lambda: None)
    confinement.group = Group("broken", {"memory": str(tmp_path / "group")}, "")
    confinement.remove()
    told: list[str] = []
    confinement.when_removed(lambda: told.append("removed"))
    assert told == ["removed"]
    assert "cgroup broken can not be removed" in capsys.readouterr().err


def test_a_container_that_does_not_stand_still_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that failed froze it as soon as its last process could be, while its state said that it ran."""
    monkeypatch.setattr(groups, "_FREEZE_SECONDS", 0.01)
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (tmp_path / "cgroup.freeze").write_text("0")
    with pytest.raises(TimeoutError):
        Group("stubborn", {}, str(tmp_path)).freeze(True)
    assert (tmp_path / "cgroup.freeze").read_text() == "0"


def test_one_name_is_kept_for_all_groups_of_a_parent(tmp_path: Path) -> None:
    """Each start cost as much as there had been starts: their names were kept, and gone through."""
    loop = Loop()
    parents = Parents(loop, Cgroups(""), str(tmp_path / "cgroups"), lambda: False)
    for number in range(100):
        parents.remember(f"pynet/instance/{number}")
    assert (tmp_path / "cgroups").read_text().splitlines() == ["pynet/instance/0"]
    loop.close()


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_bug_in_one_request_is_not_the_next_ones_loss(capsys: pytest.CaptureFixture[str]) -> None:
    """Frames that came together: those behind it were not answered, and their descriptors stayed open."""
    ours, theirs = socket.socketpair()
    loop = Loop()
    handled: list[str] = []

    def handle(_: Connection, message: dict[str, Any], fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        handled.append(message["op"])
        raise AssertionError(message["op"])

    connection = Connection(theirs, loop, handle, lambda _: None)
    channel = ipc.Channel(ours)
    channel.send({"op": "one"}, [0])
    channel.send({"op": "two"}, [0])
    before = descriptors()
    loop.add(theirs.fileno(), connection.handle)
    connection.handle(select.EPOLLIN)
    assert handled == ["one", "two"]
    assert descriptors() == before
    assert capsys.readouterr().err.count("AssertionError: ") == 2
    connection.close()
    channel.close()
    loop.close()


def nothing(_connection: Connection, _message: dict[str, Any], _fds: list[int]) -> None:
    """A handler."""


def test_descriptors_that_can_not_be_copied_do_not_end_the_connection() -> None:
    """Nothing of such a message is sent: the next one may be."""
    ours, theirs = socket.socketpair()
    loop = Loop()
    connection = Connection(theirs, loop, nothing, lambda _: None)
    loop.add(theirs.fileno(), connection.handle)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    spare = [os.dup(0) for _ in range(highest + 1 - descriptors())]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare, default=highest) + 1, hard))
    try:
        with pytest.raises(ipc.TooFewDescriptors):
            while True:
                connection.send({"ok": True}, [0] * 64)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in spare:
        os.close(fd)
    assert connection.open
    connection.close()
    ours.close()
    loop.close()


class Joined:
    """What a command that joins a container asks of it: this process plays the container's first one."""

    def __init__(self) -> None:
        self.state = {"status": "running"}
        self.id, self.alive = "c", True
        self.spec: dict[str, Any] = {}
        self.run: Any = self
        self.first, self.group, self.context = self, None, None
        self.pid, self.pidfd = os.getpid(), os.pidfd_open(os.getpid())

    def need_alive(self) -> None: ...


def untold(_error: StartError | None, _pid: int, _fds: list[int]) -> None:
    """A reply that nobody is to get."""
    raise AssertionError


def fails(execs: Execs, *, tty: bool) -> None:
    wanted: Any = {"tty": tty, "stdin": True, "size": None}
    with pytest.raises(StartError):
        execs.start("e", wanted, untold)


@pytest.mark.parametrize("left", range(5))
def test_a_command_for_which_too_few_descriptors_are_left_keeps_none(left: int) -> None:
    """Each that failed kept up to four, so that nothing could be run any more when there was room again."""
    owner: Any = Joined()
    execs = Execs(owner)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    spare = [os.dup(0) for _ in range(highest + 1 - descriptors())]
    before = descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max([*spare, highest]) + 1 + left, hard))
    try:
        fails(execs, tty=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    after = descriptors()
    for fd in [*spare, owner.pidfd]:
        os.close(fd)
    assert after == before


def test_a_terminal_that_can_not_be_opened_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    owner: Any = Joined()
    monkeypatch.setattr(spawn, "ioctl", refuse)
    before = descriptors()
    fails(Execs(owner), tty=True)
    after = descriptors()
    os.close(owner.pidfd)
    assert after == before


class Full:
    """A listener of a process that has no descriptor left."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self.asked = sock, 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> tuple[socket.socket, str]:
        self.asked += 1
        if self.asked == 3:
            return self._sock.accept()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_the_loop_does_not_spin_while_no_descriptor_is_left(tmp_path: Path) -> None:
    supervisor = Supervisor(str(tmp_path))
    listener = ipc.listen(str(tmp_path / "sock"))
    full: Any = Full(listener)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "sock"))
        supervisor.serve(full)
        supervisor.loop.later(0.3, lambda: setattr(supervisor.loop, "running", False))
        supervisor.loop.run()
    assert full.asked == 3
    assert len(supervisor.connections) == 1
    for connection in list(supervisor.connections):
        connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener.close()
    supervisor.context.close()


# -- processes that start each other -----------------------------------------------------------------------------------


def test_the_daemon_is_tried_again_when_it_can_not_be_started(tmp_path: Path) -> None:
    """A file that is being replaced, no memory for a moment: it was given up for good."""
    fifo, program = tmp_path / "up", tmp_path / "daemon"
    os.mkfifo(fifo)
    up = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    loop = Loop()
    watchdog = Watchdog(loop)
    with subprocess.Popen(["sleep", "1000"]) as before:
        watchdog.watch(before.pid, [str(program)], None)
        before.kill()

    def install() -> None:
        program.write_text(f"#!/bin/sh\necho $$ > {fifo}\n")
        program.chmod(0o755)

    loop.later(0.05, install)
    loop.later(10, lambda: setattr(loop, "running", False))
    loop.add(up, lambda _: setattr(loop, "running", False))
    loop.run()
    os.waitpid(int(os.read(up, 100)), 0)
    watchdog.watch(os.getpid(), [], None)
    os.close(up)
    loop.close()


def test_a_supervisor_whose_starter_is_gone_serves_all_the_same() -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    main._say(writer, "ready 1")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)


def test_a_supervisor_is_started_by_a_process_with_many_descriptors(tmp_path: Path) -> None:
    """select(2) takes none above 1023: a pynetd of 400 containers could not start its supervisor again."""
    script = f"""
import os, resource, select, signal
from pynet.runtime.launch import spawn
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
while os.dup(0) < 1030: pass
pid = spawn({str(tmp_path)!r})
pidfd = os.pidfd_open(pid)
os.kill(pid, signal.SIGTERM)
ended = select.poll()
ended.register(pidfd, select.POLLIN)
print("started" if ended.poll(20000) else "it did not end")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "started\n", done.stderr


# -- a kill between the record and the gate ------------------------------------------------------------------------------


def test_a_start_that_was_never_let_go_is_as_if_never_asked_for(tmp_path: Path) -> None:
    """It was told as started, and three seconds later as ended with 255: the caller could not know that nothing ran."""
    supervisor = Supervisor(str(tmp_path))
    with subprocess.Popen(["true"]) as process:
        start_time = linux.start_time(process.pid)
    for name, begun in (("never", b""), ("once", b"1")):
        record = Record(str(tmp_path / "containers" / name))
        record.create()
        spec = specification(tmp_path) | {"id": name, "tty": True}
        state = Container(supervisor.context, record, spec, lambda _: None).state
        record.save("spec", spec)
        record.save("state", {**state, "status": "running", "pid": process.pid, "start_time": start_time})
        Path(record.path("begun")).write_bytes(begun)
    supervisor.restore()
    assert list(supervisor.containers) == ["once"]
    assert not (tmp_path / "containers/never").exists()
    supervisor.containers["once"].abandon()
    supervisor.context.close()


def test_a_restart_that_was_never_let_go_is_made_again(context: Context, record: Record, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    context.emit = told.append
    container = Container(context, record, specification(tmp_path), lambda _: None)
    with subprocess.Popen(["true"]) as process:
        start_time = linux.start_time(process.pid)
    os.close(record.open_begun())
    state = {**container.state, "restarts": 1, "status": "running", "pid": process.pid, "start_time": start_time}
    container.restore(state | {"delay": 1000.0})
    assert container.state["status"] == "restarting"
    assert [event["event"] for event in told] == ["restarting"]


def test_what_a_client_holds_of_an_earlier_run_says_nothing_about_this_one(
    context: Context, record: Record, tmp_path: Path
) -> None:
    """Its exit code was taken for that of the run after it."""
    container = Container(context, record, specification(tmp_path) | {"tty": True}, lambda _: None)
    earlier, now = subprocess.Popen(["false"]), subprocess.Popen(["true"])
    held = [os.pidfd_open(process.pid) for process in (earlier, now)]
    state = {
        **container.state, "status": "running", "pid": now.pid, "start_time": linux.start_time(now.pid),
        "pidfd_inode": os.fstat(held[1]).st_ino,
    }  # fmt: skip
    for process in (earlier, now):
        process.wait()
    if linux.exit_status(held[0], earlier.pid, -1) is None:
        pytest.skip("this kernel does not tell how a process has ended (before 6.15)")
    container.restore(state)
    container.adopt([held[0]])
    assert container.alive
    container.adopt([held[1]])
    assert (container.state["status"], container.state["exit_code"]) == ("exited", 0)


# -- devices -------------------------------------------------------------------------------------------------------------


def test_a_device_that_goes_away_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop device, a stick that is pulled: the start of a privileged container failed."""
    for name in ("gone", "stays"):
        os.mknod(tmp_path / name, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    lstat = os.lstat

    def late(path: str) -> os.stat_result:
        if path.endswith("gone"):
            os.unlink(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", late)
    assert [node.target for node in devices.of_host(str(tmp_path))] == [str(tmp_path / "stays")]


def test_an_images_device_nodes_are_opened_only_where_a_cgroup_says_which(tmp_path: Path) -> None:
    """Without a guard, an image with a node of the host's disk was enough to read it."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    k.mount("none", str(tmp_path), "tmpfs")
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    os.mknod(tmp_path / "lower/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    tree: RootFS = {
        "lower": [str(tmp_path / "lower")], "upper": str(tmp_path / "upper"), "work": str(tmp_path / "work"),
        "readonly": False,
    }  # fmt: skip
    for guarded in (True, False):
        root = rootfs.make_overlay(tree, user_namespace=False, devices=guarded)
        assert bool(os.fstatvfs(root).f_flag & os.ST_NODEV) is not guarded
        os.close(root)
    k.umount2(str(tmp_path), k.MNT_DETACH)
