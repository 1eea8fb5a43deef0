"""The runtime's rules that need no kernel: users, environments, logs, restarts, limits, sysctls, mounts' options."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynet.netlib import ipc
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.kernel import syscall as k
from pynet.runtime import linux
from pynet.runtime.child import devices, program, users
from pynet.runtime.grammar import capabilities, environment, sysctls, tmpfs, ulimits
from pynet.runtime.spec import DEFAULT_CAPABILITIES, Restart
from pynet.runtime.supervisor import backoff, cgroups, logs, records
from pynet.runtime.supervisor.connection import Connection
from pynet.runtime.supervisor.loop import Loop

PASSWD = """\
# a comment:x:1:1::/:
root:x:0:0:root:/root:/bin/sh
broken line
web:x:1000:1001:Web:/srv:/bin/sh
nohome:x:1002:1002:::/bin/sh
bad:x:abc:1:::
1000name:x:1005:1005::/odd:
"""
GROUP = "root:x:0:\nweb:x:1001:\nlogs:x:50:web,root\nempty:x:51:\nbroken\n"


def test_a_mount_point_may_be_of_any_bytes() -> None:
    """A stick whose label has a space and is no UTF-8 was enough for pynetd not to start."""
    line = b"29 23 0:26 / /media/FOO\\040\xe9 rw shared:4 - vfat /dev/sdb1 rw\n"
    group = b"30 23 0:27 / /sys/fs/c\\040g rw shared:5 - cgroup2 cgroup2 rw\n"
    assert cgroups.parse_mountinfo((line + group).decode("utf-8", "surrogateescape")) == ({}, "/sys/fs/c g")


@pytest.mark.parametrize(
    ("user", "extra", "expected"),
    [
        ("", [], (0, 0, [0, 50], "/root")),
        ("0", [], (0, 0, [0, 50], "/root")),
        ("web", [], (1000, 1001, [1001, 50], "/srv")),
        ("1000", [], (1000, 1001, [1001, 50], "/srv")),
        ("1000:7", [], (1000, 7, [7], "/srv")),
        ("web:logs", [], (1000, 50, [50], "/srv")),
        ("web:", [], (1000, 1001, [1001, 50], "/srv")),
        (":logs", [], (0, 50, [50], "/root")),
        ("4711", ["logs", "99"], (4711, 0, [0, 50, 99], "/")),
        ("nohome", ["50", "50"], (1002, 1002, [1002, 50], "/")),
        ("1000name", [], (1005, 1005, [1005], "/odd")),
    ],
)
def test_users(user: str, extra: list[str], expected: tuple[int, int, list[int], str]) -> None:
    who = users.identify(user, extra, PASSWD, GROUP)
    assert (who.uid, who.gid, who.groups, who.home) == expected


@pytest.mark.parametrize(
    ("user", "extra", "text"),
    [
        ("who", [], "unable to find user who: no matching entries in passwd file"),
        ("bad", [], "unable to find user bad"),
        ("web:who", [], "unable to find group who: no matching entries in group file"),
        ("web", ["who"], "Unable to find group who"),
        ("2147483648", [], "must be in range"),
        ("0:4294967296", [], "must be in range"),
    ],
)
def test_users_that_are_not_there(user: str, extra: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        users.identify(user, extra, PASSWD, GROUP)


@settings(max_examples=50)
@given(st.text(), st.text(), st.text())
def test_no_file_of_an_image_breaks_the_look_up(user: str, passwd: str, group: str) -> None:
    try:
        who = users.identify(user, [], passwd, group)
    except ValueError:
        return
    assert 0 <= who.uid <= users.MAX_ID
    assert 0 <= who.gid <= users.MAX_ID


def test_environment() -> None:
    env = environment.environment(["A=1", "A=2", "EMPTY=", "=x", "NONE"], hostname="box", tty=True)
    assert env == {"PATH": environment.DEFAULT_PATH, "HOSTNAME": "box", "TERM": "xterm", "A": "2", "EMPTY": ""}
    env = environment.environment(["PATH=/x", "HOSTNAME=y", "HOME="], hostname="", tty=False)
    assert env == {"PATH": "/x", "HOSTNAME": "y", "HOME": ""}
    program.add_home(env, "/root")
    assert env["HOME"] == "/root"
    program.add_home(env, "/other")
    assert env["HOME"] == "/root"


def test_finding_a_program(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/tool").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/tool").write_text("")
    (tmp_path / "b/tool").chmod(0o755)
    path = f"{tmp_path}/nowhere:{tmp_path}/a:{tmp_path}/b"
    assert program.find("tool", path) == f"{tmp_path}/b/tool"
    assert program.find(f"{tmp_path}/b/tool", "") == f"{tmp_path}/b/tool"
    with pytest.raises(program.ExecError, match=r'exec: "tool": executable file not found in \$PATH') as caught:
        program.find("tool", f"{tmp_path}/a")
    assert caught.value.code == 127
    with pytest.raises(program.ExecError, match="is a directory") as caught:
        program.find(f"{tmp_path}/a", "")
    assert caught.value.code == 126
    with pytest.raises(program.ExecError, match="not a directory") as caught:
        program.find(f"{tmp_path}/b/tool/x", "")
    assert caught.value.code == 127


# -- logs -----------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.binary(max_size=200), st.booleans())
def test_splitting_loses_nothing(data: bytes, partial: bool) -> None:
    records, count = logs.split(data, partial=partial)
    assert b"".join(records) == data[:count]
    assert all(record.endswith(b"\n") for record in records[:-1])
    rest = data[count:]
    assert b"\n" not in rest
    assert not (partial and rest)


def test_long_lines_are_split_as_docker_does() -> None:
    line = b"x" * (2 * logs.PART + 5)
    records, count = logs.split(line, partial=False)
    assert [len(record) for record in records] == [logs.PART, logs.PART]
    assert count == 2 * logs.PART
    assert logs.split(b"x" * logs.PART + b"\n", partial=False)[0] == [b"x" * logs.PART, b"\n"]


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5))
def test_a_log_line_gives_the_bytes_back(pieces: list[bytes]) -> None:
    text = logs.encode(pieces, "stderr", 1_700_000_000_000_000_001)
    found = [json.loads(line) for line in text.splitlines()]
    assert [record["log"].encode("utf-8", "surrogateescape") for record in found] == pieces
    assert all(record["stream"] == "stderr" for record in found)
    assert all(record["time"] == "2023-11-14T22:13:20.000000001Z" for record in found)


class Pipes:
    """A FIFO with its log, as a supervisor has them; ``again`` is the next supervisor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.mkfifo(folder / "out")
        self.writer = os.open(folder / "out", os.O_RDWR)
        self.peek = logs.Peek()
        self.again()

    def again(self) -> None:
        self.log = logs.Log(str(self.folder / "log"), str(self.folder / "journal"))
        self.stream = logs.FifoStream(str(self.folder / "out"), "stdout", self.log, self.peek)
        self.stream.recover()

    def leave(self) -> None:
        self.stream.close()
        self.log.close()

    def pump(self, *, partial: bool = False) -> float | None:
        """All turns: on a busy machine the first may be over before everything is logged."""
        while (again := self.stream.pump(partial=partial)) == 0.0:
            pass
        return again

    def text(self) -> str:
        return "".join(json.loads(line)["log"] for line in (self.folder / "log").read_text().splitlines())

    def close(self) -> None:
        self.leave()
        self.peek.close()
        os.close(self.writer)


def test_the_beginning_of_a_line_stays_in_the_fifo(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    os.write(pipes.writer, b"one\ntw")
    assert pipes.pump() == logs.PARTIAL_SECONDS
    assert pipes.text() == "one\n"
    pipes.leave()
    pipes.again()
    os.write(pipes.writer, b"o\nthree")
    assert pipes.pump() == logs.PARTIAL_SECONDS
    assert pipes.text() == "one\ntwo\n"
    assert pipes.pump(partial=True) is None
    assert pipes.text() == "one\ntwo\nthree"
    pipes.close()


@pytest.mark.parametrize("written", ["nothing", "a part", "all"])
@pytest.mark.parametrize("taken", [False, True])
def test_a_supervisor_killed_between_two_steps(tmp_path: Path, written: str, taken: bool) -> None:
    """Every state that the steps journal, write, take, journal can leave behind."""
    if taken and written != "all":
        return  # the bytes are taken only when all is written
    pipes = Pipes(tmp_path)
    os.write(pipes.writer, b"zero\n")
    pipes.pump()
    size = (tmp_path / "log").stat().st_size
    os.write(pipes.writer, b"one\ntwo\n")
    pipes.log.write("stdout", b"one\ntwo\n", [b"one\n", b"two\n"])
    if written != "all":
        os.truncate(tmp_path / "log", size + (10 if written == "a part" else 0))
    if taken:
        os.read(pipes.stream.fd, 8)
    pipes.leave()
    pipes.again()
    os.write(pipes.writer, b"three\n")
    pipes.pump()
    assert pipes.text() == "zero\none\ntwo\nthree\n"
    pipes.close()


def test_a_log_that_can_not_be_written_does_not_stop_the_container(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    os.close(pipes.log.fd)
    pipes.log.fd = os.open("/dev/full", os.O_WRONLY)
    os.write(pipes.writer, b"lost\n")
    assert pipes.pump() is None
    assert pipes.log.lost == 5
    pipes.close()


@pytest.fixture
def bounded() -> Iterator[None]:
    """What hangs is an error after ten seconds."""

    def expired(*_: object) -> None:
        raise AssertionError("it does not end")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_draining_ends_though_somebody_goes_on_writing(tmp_path: Path, bounded: None) -> None:
    """A container's output that was passed on to another hung the supervisor when the first ended."""
    pipes = Pipes(tmp_path)
    os.write(pipes.writer, b"the last words\n")
    with subprocess.Popen(["yes"], stdout=pipes.writer) as other:
        pipes.stream.drain()
        other.kill()
    assert pipes.text().startswith("the last words\n")
    pipes.close()


@settings(max_examples=30)
@given(st.lists(st.sampled_from([b"\n", b"a", b"x" * 100, b"y" * (logs.PART - 1), b"z" * logs.PART]), max_size=12))
def test_lines_are_split_at_newlines_and_at_16_kib(pieces: list[bytes]) -> None:
    """Held against the plain definition, a line at a time."""
    data = b"".join(pieces)
    expected: list[bytes] = []
    start = 0
    while start < len(data):
        end = data.find(b"\n", start, start + logs.PART) + 1 or min(start + logs.PART, len(data))
        expected.append(data[start:end])
        start = end
    assert logs.split(data, partial=True) == (expected, len(data))


def test_work_that_can_wait_lets_others_pass() -> None:
    """One call a round, in the order in which they were asked for, after what descriptors have to say."""
    loop = Loop()
    reader, writer = os.pipe()
    said: list[str] = []

    def greedy(name: str) -> None:
        said.append(name)
        os.write(writer, b".")
        if len(said) < 12:
            loop.soon(lambda: greedy(name))
        else:
            loop.running = False

    def heard(_: int) -> None:
        said.append("client")
        os.read(reader, 100)

    loop.add(reader, heard)
    loop.soon(lambda: greedy("a"))
    loop.soon(lambda: greedy("b"))
    loop.run()
    assert said[:8] == ["a", "client", "b", "client", "a", "client", "b", "client"]
    loop.close()
    os.close(reader)
    os.close(writer)


# -- restarts, limits, the rest ------------------------------------------------------------------------------------------


def test_the_back_off_doubles_to_a_minute_and_forgets() -> None:
    delays: list[float] = []
    delay = 0.0
    for _ in range(12):
        delay = backoff.next_delay(delay, ran=1.0)
        delays.append(delay)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]
    assert backoff.next_delay(60.0, ran=10.0) == 0.1


@pytest.mark.parametrize(
    ("policy", "code", "restarts", "stopped", "expected"),
    [
        ({"name": "no", "max": 0}, 1, 0, False, False),
        ({"name": "on-failure", "max": 0}, 0, 0, False, False),
        ({"name": "on-failure", "max": 0}, 1, 99, False, True),
        ({"name": "on-failure", "max": 3}, 1, 2, False, True),
        ({"name": "on-failure", "max": 3}, 1, 3, False, False),
        ({"name": "always", "max": 0}, 0, 5, False, True),
        ({"name": "always", "max": 0}, 137, 5, True, False),
        ({"name": "unless-stopped", "max": 0}, 0, 0, False, True),
        ({"name": "unless-stopped", "max": 0}, 0, 0, True, False),
    ],
)
def test_restart_policies(policy: Restart, code: int, restarts: int, stopped: bool, expected: bool) -> None:
    assert backoff.wants_restart(policy, exit_code=code, restarts=restarts, stopped_by_user=stopped) is expected


def test_cgroup_values() -> None:
    assert [cgroups.cpu_weight(shares) for shares in (0, 2, 1024, 262144, 10**9)] == [1, 1, 39, 10000, 10000]
    assert [cgroups.cpu_quota(nano) for nano in (1, 500_000_000, 2_000_000_000)] == [1000, 50_000, 200_000]


def test_hierarchies_from_mountinfo() -> None:
    text = (
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n"
        "nonsense\n"
    )
    v1, v2 = cgroups.parse_mountinfo(text)
    assert v1["cpu"] == v1["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert v1["memory"] == "/sys/fs/cgroup/memory"
    assert v2 == "/sys/fs/cgroup/uni fied"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.5/forwarding", "net/ipv4/conf/eth0.5/forwarding"),
        ("net.ipv4.conf.eth0/5.forwarding", "net/ipv4/conf/eth0.5/forwarding"),
        ("kernel.shmmax", "kernel/shmmax"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
    ],
)
def test_sysctls_of_the_containers_own_namespaces(name: str, file: str) -> None:
    assert sysctls.check(name, own_network=True) == file


@pytest.mark.parametrize(
    "name", ["", "vm.swappiness", "kernel.core_pattern", "net/../kernel/core_pattern", "net..x", "/etc/passwd"]
)
def test_other_sysctls_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        sysctls.check(name, own_network=True)


def test_tmpfs_options() -> None:
    safe = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
    assert tmpfs.options("") == ([], safe)
    assert tmpfs.options("size=64m,mode=1777,exec") == (
        [("size", "64m"), ("mode", "1777")],
        k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV,
    )
    assert tmpfs.options("ro,dev,huge") == (
        [("huge", None)],
        k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NOEXEC | k.MOUNT_ATTR_RDONLY,
    )


@pytest.mark.parametrize(
    ("name", "soft", "hard", "text"),
    [("files", 1, 1, "invalid ulimit type: files"), ("nofile", 2, 1, "2 > 1"), ("core", -1, 0, "-1 > 0")],
)
def test_ulimits_that_are_none(name: str, soft: int, hard: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ulimits.check(name, soft, hard)


def test_ulimits_by_name() -> None:
    assert ulimits.check("nofile", -1, -1) == resource.RLIMIT_NOFILE
    assert ulimits.check("CORE", 0, -1) == resource.RLIMIT_CORE


def test_a_rule_is_for_a_device_that_is_there_and_for_nothing_else(tmp_path: Path) -> None:
    assert devices.look("/dev/null", "/dev/mine").rule("rw") == "c 1:3 rw"
    for source in (tmp_path, "/etc/passwd"):
        with pytest.raises(OSError, match="not a device node"):
            devices.look(str(source), "/dev/mine")
    with pytest.raises(FileNotFoundError):
        devices.look(str(tmp_path / "nosuch"), "/dev/mine")


CLONE = """
import os
from pynet.runtime import linux
called = []
os.register_at_fork(
    before=lambda: called.append(("before", os.getpid())),
    after_in_child=lambda: called.append(("child", os.getpid())),
    after_in_parent=lambda: called.append(("parent", os.getpid())),
)
parent = os.getpid()
pid, pidfd = linux.clone3(0)
expected = [("before", parent), ("parent", parent) if pid else ("child", os.getpid())]
if not pid:
    os._exit(7 if called == expected else print("in the child", called, flush=True) or 1)
assert called == expected, called
assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status == 7
"""


def test_a_clone_is_a_fork_to_the_interpreter() -> None:
    """Whoever asked to be told of forks hears of it at the times that os.fork keeps (os.register_at_fork)."""
    done = subprocess.run([sys.executable, "-I", "-c", CLONE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_client_that_does_not_read_is_dropped() -> None:
    ours, its = socket.socketpair()
    loop, dropped = Loop(), list[Connection]()

    def handle(connection: Connection, message: ipc.Message, fds: list[int]) -> None:
        pytest.fail("nobody asked for anything")

    connection = Connection(ours, loop, handle, dropped.append)
    loop.add(ours.fileno(), connection.handle)
    most = 0
    while connection.open:
        assert connection.channel.pending < 80 << 20
        most = connection.channel.pending
        connection.send({"event": "x" * (1 << 20)})
    assert 62 << 20 < most <= 64 << 20
    assert dropped == [connection]
    its.close()
    loop.close()


def test_capabilities() -> None:
    assert capabilities.mask(DEFAULT_CAPABILITIES) == 0xA80425FB
    assert capabilities.mask(["cap_chown", "CHECKPOINT_RESTORE"]) == 1 | 1 << 40
    assert capabilities.names(5) == ["CHOWN", "DAC_READ_SEARCH"]
    with pytest.raises(ValueError, match='Unknown capability: "FLY"'):
        capabilities.mask(["FLY"])


@pytest.mark.parametrize("value", ["", ".", "..", "../x", "a/b", "-x", "x" * 129, None, 5, "a\n"])
def test_ids_that_are_no_file_names(value: object) -> None:
    with pytest.raises(InvalidArgument):
        records.check_id(value)


def test_exit_codes() -> None:
    assert [linux.exit_code(status) for status in (0, 42 << 8, 9, 0x80 | 6)] == [0, 42, 137, 134]


def test_a_pid_alone_is_no_identity() -> None:
    started = linux.start_time(os.getpid())
    fd = linux.open_pidfd(os.getpid(), started)
    assert fd >= 0
    os.close(fd)
    assert linux.open_pidfd(os.getpid(), started + 1) == -1
