"""The namespace thread: pins that hold, jobs that come home, nothing left when a step fails."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.netlib.kernel import sysctl
from pynet.netlib.kernel.netns import NetnsThread, NetnsThreadLost, delete_netns, open_netns
from pynet.netlib.kernel.syscall import MS_BIND, mount
from pynet.plugins.testhost import Host

OWN = "/proc/thread-self/ns/net"


@pytest.fixture
def thread(host: Host) -> Iterator[NetnsThread]:
    with NetnsThread() as thread:
        yield thread


def _inode(path: str = OWN) -> int:
    return os.stat(path).st_ino


def _whereabouts(thread: NetnsThread) -> int:
    return _inode(f"/proc/self/task/{thread._thread.native_id}/ns/net")


def test_a_pin_is_the_namespace_that_was_made(thread: NetnsThread, tmp_path: Path) -> None:
    pin = str(tmp_path / "a")
    fd = thread.create(pin)
    try:
        assert os.stat(pin).st_ino == os.fstat(fd).st_ino == thread.call(fd, _inode) != _inode()
        again = thread.open(pin)
        os.close(again)
    finally:
        os.close(fd)
        thread.delete(pin)
    assert not os.path.lexists(pin)


def test_jobs_come_home_even_when_they_fail(thread: NetnsThread, tmp_path: Path) -> None:
    pin = str(tmp_path / "a")
    fd = thread.create(pin)
    home = _inode()
    assert _whereabouts(thread) == home
    with pytest.raises(ZeroDivisionError):
        thread.call(fd, lambda: 1 // 0)
    with pytest.raises(SystemExit):
        thread.call(fd, sys.exit, 3)
    assert _whereabouts(thread) == home
    os.close(fd)
    thread.delete(pin)


def test_a_bad_descriptor_is_refused_and_harms_nothing(thread: NetnsThread, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w", encoding="utf-8") as file:
        with pytest.raises(OSError, match="setns") as caught:
            thread.call(file.fileno(), _inode)
        assert caught.value.errno == errno.EINVAL
    own = thread.open(OWN)
    assert thread.call(own, _inode) == _inode()
    os.close(own)


def test_a_thread_that_can_not_return_ends_and_says_so(host: Host, tmp_path: Path) -> None:
    thread = NetnsThread()
    fd = thread.create(str(tmp_path / "a"))
    started, go_on = threading.Event(), threading.Event()

    def lose_home() -> None:
        started.set()
        go_on.wait(10)
        os.close(thread._home)

    errors: list[BaseException] = []

    def call(function: object) -> None:
        try:
            thread.call(fd, function)  # type: ignore[arg-type]
        except BaseException as error:
            errors.append(error)

    first = threading.Thread(target=call, args=(lose_home,), daemon=True)
    first.start()
    assert started.wait(10)
    waiting = threading.Thread(target=call, args=(_inode,), daemon=True)
    waiting.start()
    while thread._jobs.empty():  # until it waits in the queue
        os.sched_yield()
    go_on.set()
    first.join(10)
    waiting.join(10)
    assert [type(error) for error in errors] == [NetnsThreadLost, NetnsThreadLost]
    with pytest.raises(NetnsThreadLost, match="could not return"):
        thread.call(fd, _inode)
    thread.close()
    os.close(fd)
    delete_netns(str(tmp_path / "a"))


def test_a_closed_thread_refuses_work(host: Host, tmp_path: Path) -> None:
    thread = NetnsThread()
    thread.close()
    thread.close()
    with pytest.raises(NetnsThreadLost, match="closed"):
        thread.create(str(tmp_path / "a"))
    assert not os.path.lexists(tmp_path / "a")


def test_a_job_that_asks_for_a_job_does_not_wait_for_itself(thread: NetnsThread) -> None:
    own = thread.open(OWN)
    with pytest.raises(RuntimeError, match="wait for itself"):
        thread.call(own, thread.call, own, _inode)
    os.close(own)


def test_sockets_belong_to_their_namespace(thread: NetnsThread, tmp_path: Path) -> None:
    pin = str(tmp_path / "a")
    fd = thread.create(pin)
    inside = thread.socket(fd, socket.AF_INET, socket.SOCK_DGRAM)
    with inside, pytest.raises(OSError, match="unreachable"):  # lo is down in there
        inside.sendto(b"x", ("127.0.0.1", 9))
    os.close(fd)
    thread.delete(pin)


def test_sysctls_are_set_inside_before_anything_else(thread: NetnsThread, tmp_path: Path) -> None:
    pin = str(tmp_path / "a")
    name = "net.ipv6.conf.all.disable_ipv6"
    fd = thread.create(pin, sysctls={name: 1, ("net", "ipv4", "ip_forward"): 1})
    assert thread.call(fd, sysctl.read, name) == "1"
    assert thread.call(fd, sysctl.read, "net.ipv4.ip_forward") == "1"
    assert sysctl.read(name) == "0"
    os.close(fd)
    thread.delete(pin)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("net.ipv4.no_such", 1, FileNotFoundError), ("net.ipv4.ip_forward", "many", OSError)],
)
def test_a_create_that_fails_leaves_nothing(
    thread: NetnsThread, tmp_path: Path, name: str, value: str | int, error: type[OSError]
) -> None:
    with pytest.raises(error, match=name.rpartition(".")[2]):
        thread.create(str(tmp_path / "a"), sysctls={name: value})
    assert list(tmp_path.iterdir()) == []
    assert _whereabouts(thread) == _inode()


def test_what_stands_at_the_path_is_never_overwritten(thread: NetnsThread, tmp_path: Path) -> None:
    pin = str(tmp_path / "a")
    os.close(thread.create(pin))
    inode = os.stat(pin).st_ino
    with pytest.raises(FileExistsError):
        thread.create(pin)
    assert os.stat(pin).st_ino == inode
    thread.delete(pin)
    with pytest.raises(FileNotFoundError):
        thread.create(str(tmp_path / "missing" / "a"))


def test_only_network_namespaces_are_opened(thread: NetnsThread, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    for path in (str(tmp_path / "fifo"), str(tmp_path / "file"), str(tmp_path), "/proc/self/ns/mnt"):
        with pytest.raises(OSError, match="Not a network namespace"):
            thread.open(path)
    with pytest.raises(FileNotFoundError):
        thread.open(str(tmp_path / "nothing"))


def test_delete_is_idempotent_and_careful(thread: NetnsThread, tmp_path: Path) -> None:
    pin, stale, precious = tmp_path / "pin", tmp_path / "stale", tmp_path / "precious"
    thread.delete(str(pin))
    os.close(thread.create(str(pin)))
    thread.delete(str(pin))
    thread.delete(str(pin))
    stale.touch(0o444)  # what a crash between making the file and the mount leaves
    thread.delete(str(stale))
    assert not stale.exists()
    precious.write_text("data")
    for path in (precious, tmp_path):
        with pytest.raises(OSError, match="Not a network namespace"):
            thread.delete(str(path))
    assert precious.read_text() == "data"


def test_pins_on_top_of_one_another_all_go(thread: NetnsThread, tmp_path: Path) -> None:
    pin = str(tmp_path / "a")
    os.close(thread.create(pin))
    for _ in range(2):
        mount(OWN, pin, None, MS_BIND)
    thread.delete(pin)
    assert not os.path.lexists(pin)
    assert pin not in Path("/proc/self/mountinfo").read_text()


def test_a_create_that_can_not_pin_keeps_no_descriptor(thread: NetnsThread, tmp_path: Path) -> None:
    """The namespace would live as long as this process."""
    pin = tmp_path / "a"
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        thread.create(str(pin), prepare=pin.unlink)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not pin.exists() and _whereabouts(thread) == _inode()


def test_a_copy_of_the_mount_table_does_not_keep_the_pin(thread: NetnsThread, tmp_path: Path) -> None:
    """A container started meanwhile has the pin in its mount namespace; it must go there too."""
    pin = str(tmp_path / "a")
    os.close(thread.create(pin))
    program = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready; read line; cat /proc/self/mountinfo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdin is not None and program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        thread.delete(pin)
        output, _ = program.communicate("\n", 10)
    assert "/proc" in output and pin not in output


def test_open_netns_takes_a_process(host: Host) -> None:
    fd = open_netns(f"/proc/{os.getpid()}/ns/net")
    assert os.fstat(fd).st_ino == _inode()
    os.close(fd)
