"""Traffic by the commands: docs/traffic.md's, in order, and what limits, counters and captures do to a real container."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from pynet.engine.captures import MOST

from support import pcap
from support.engine import Bed, Daemon
from support.waiting import PATIENCE

PAGE = Path(__file__).parents[2] / "docs/traffic.md"


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


def test_the_commands_of_the_page_are_understood_by_a_real_engine(daemon: Daemon) -> None:
    lines = re.findall(r"^\$ pynet (.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        done = daemon.pynet(*shlex.split(line, comments=True))
        assert (done.returncode, done.stderr) == (0, ""), f"pynet {line}"
    assert daemon.pynet("check").returncode == 0


def test_limits_are_given_changed_shown_and_kept(daemon: Daemon) -> None:
    def limits() -> dict[str, dict[str, int]]:
        shown = daemon.pynet("network", "stats", "--no-stream", "--json").stdout.splitlines()
        return {row["Network"]: row["Limits"] for row in map(json.loads, shown)}

    assert daemon.pynet("network", "create", "-o", "rate_in=8mbit", "back").returncode == 0
    opt = "name=back,driver-opt=com.docker.network.endpoint.rate_out=1mbit"
    assert daemon.pynet("run", "-d", "--name", "web", "--network", opt, "busybox", "sleep", "1000").returncode == 0
    assert limits() == {"back": {"rate_in": 1_000_000, "rate_out": 125_000, "burst": 0}}
    assert daemon.pynet("network", "limit", "--rate-out", "2mbit", "--burst", "64k", "back", "web").returncode == 0
    kept = {"back": {"rate_in": 1_000_000, "rate_out": 250_000, "burst": 65536}}
    assert limits() == kept
    assert daemon.pynet("restart", "-t", "0", "web").returncode == 0
    assert limits() == kept
    assert daemon.pynet("network", "limit", "--rate-out", "", "--burst", "", "back", "web").returncode == 0
    assert limits() == {"back": {"rate_in": 1_000_000, "rate_out": 0, "burst": 0}}
    daemon.terminate()
    assert daemon.start() == "1"
    assert limits() == {"back": {"rate_in": 1_000_000, "rate_out": 0, "burst": 0}}
    assert daemon.pynet("stop", "-t", "0", "web").returncode == 0
    assert daemon.pynet("network", "limit", "--rate-out", "1mbit", "back", "web").returncode == 0
    assert daemon.pynet("start", "web").returncode == 0
    assert limits()["back"]["rate_out"] == 125_000


def test_what_is_wrong_with_a_limit_is_said_and_nothing_changes(daemon: Daemon) -> None:
    def refused(*words: str) -> str:
        done = daemon.pynet(*words)
        assert done.returncode
        return str(done.stderr)

    assert "invalid value 'quick' for option rate_in" in refused("network", "create", "-o", "rate_in=quick", "bad")
    assert "bad" not in daemon.pynet("network", "ls", "--format", "{{.Name}}").stdout.split()
    assert daemon.pynet("network", "create", "back").returncode == 0
    run = ("run", "-d", "--name", "web", "busybox", "sleep", "1000")
    assert "invalid value 'x' for option rate_in" in refused(
        *run[:4], "--network", "name=back,driver-opt=rate_in=x", *run[4:]
    )
    assert daemon.pynet("ps", "-aq").stdout == ""
    assert daemon.pynet(*run).returncode == 0
    assert "burst" in refused("network", "limit", "--burst", "9", "bridge", "web")
    assert "nothing to change" in refused("network", "limit", "bridge", "web")
    assert "is not connected to network back" in refused("network", "limit", "--rate-in", "1mbit", "back", "web")
    assert "network nosuch not found" in refused("network", "stats", "--no-stream", "nosuch")
    (row,) = daemon.pynet(
        "network", "stats", "--no-stream", "--format", "{{.Network}} {{.Container}} {{.Limit}}"
    ).stdout.splitlines()
    assert row == "bridge web -"


# -- captures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(daemon: Daemon) -> Daemon:
    """An engine with a container "web" at 10.20.0.2."""
    assert daemon.pynet("network", "create", "--subnet", "10.20.0.0/24", "back").returncode == 0
    run = ("run", "-d", "--name", "web", "--network", "back", "busybox", "sleep", "1000")
    assert daemon.pynet(*run).returncode == 0
    return daemon


@contextmanager
def capturing(daemon: Daemon, *words: str) -> Generator[subprocess.Popen[bytes]]:
    """``pynet capture``, when it has begun; killed at the end if it is still there."""
    process = daemon.start_pynet("capture", *words)
    assert process.stderr is not None
    try:
        assert b"capturing" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def send(*texts: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for text in texts:
            sock.sendto(text, ("10.20.0.2", 9))


def payloads(data: bytes) -> list[bytes]:
    return [p.payload for p in pcap.read(data).packets if p.is_udp]


def test_a_capture_of_a_container_without_tools_in_its_image(web: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    with capturing(web, "-c", "3", "-w", str(file), "web", "udp", "port", "9") as process:
        send(b"one", b"two", b"three", b"four")
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert said == b"3 packets captured, 0 dropped by the kernel\n"
    assert payloads(file.read_bytes()) == [b"one", b"two", b"three"]
    assert file.stat().st_mode & 0o777 == 0o600, "what containers say is nobody else's business"
    if shutil.which("tcpdump"):
        shown = subprocess.run(["tcpdump", "-nr", file], capture_output=True, text=True, check=True).stdout
        assert shown.count("10.20.0.2.9: UDP, length") == 3


def test_control_c_ends_a_capture_cleanly(web: Daemon) -> None:
    before = polls(web.pid())
    with capturing(web, "web") as process:
        assert process.stdout is not None
        assert polls(web.pid()) > before
        send(b"one")
        data = b""
        while b"one" not in data:
            data += os.read(process.stdout.fileno(), 1 << 16)
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert b"captured, 0 dropped" in said
    assert payloads(data + rest) == [b"one"]
    # and the engine has let go of its sockets
    deadline = time.monotonic() + PATIENCE
    while polls(web.pid()) > before:
        assert time.monotonic() < deadline, "the engine captures on"


def test_a_capture_ends_when_its_reader_leaves_though_nothing_passes(web: Daemon) -> None:
    with capturing(web, "-i", "lo", "web") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        assert process.wait(PATIENCE) == 141


def polls(pid: int) -> int:
    """How many epoll descriptors a process has: each capture has one."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found += os.readlink(f"/proc/{pid}/fd/{name}") == "anon_inode:[eventpoll]"
        except FileNotFoundError:
            continue
    return found


def test_a_capture_ends_with_its_container(web: Daemon) -> None:
    with capturing(web, "web") as process:
        assert web.pynet("rm", "-f", "web").returncode == 0
        out, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert b"captured" in said
    assert pcap.read(out).interfaces[0][0] == "eth0"


def test_what_is_wrong_with_a_capture_is_said(web: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "none"
    for words, text in (
        (("nosuch",), "No such container: nosuch"),
        (("-i", "eth7", "web"), "no interface eth7"),
        (("-s", "300000", "web"), "invalid snaplen 300000"),
        (("-c", "-1", "web"), "negative"),
        (("web", "no", "such", "words"), "filter"),
    ):
        done = web.pynet("capture", "-w", str(file), *words)
        assert done.returncode, words
        assert text in done.stderr
    assert web.pynet("run", "-d", "--name", "near", "--network", "host", "busybox", "sleep", "1000").returncode == 0
    assert "host's network" in web.pynet("capture", "-w", str(file), "near").stderr
    assert web.pynet("stop", "-t", "0", "web").returncode == 0
    assert "is not running" in web.pynet("capture", "-w", str(file), "web").stderr
    assert not file.exists()


def test_a_file_that_can_not_be_written_is_named(web: Daemon) -> None:
    done = web.pynet("capture", "-w", "/dev/full", "web")
    assert done.returncode == 1
    assert "pynet: /dev/full: No space left on device\n" in done.stderr


def test_only_so_many_captures_run_at_a_time(web: Daemon) -> None:
    with ExitStack() as stack:
        for _ in range(MOST):
            connection = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            connection.connect(web.socket)
            connection.settimeout(PATIENCE)
            connection.sendall(b"GET /pynet/containers/web/capture HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in connection.recv(15)
        refused = web.get("/pynet/containers/web/capture")
        assert refused.status == 409
        assert f"{MOST} captures are running" in refused.body["message"]
    deadline = time.monotonic() + PATIENCE
    while b"capturing" not in (began := one_packet(web)):
        assert time.monotonic() < deadline, began


def one_packet(daemon: Daemon) -> bytes:
    """What a capture of one packet says; it comes when there is room for the capture."""
    process = daemon.start_pynet("capture", "-c", "1", "web")
    assert process.stderr is not None
    said = process.stderr.readline()
    send(b"room again")
    process.communicate(timeout=PATIENCE)
    return said


def test_statistics_go_on_and_end_with_control_c(web: Daemon) -> None:
    process = web.start_pynet("network", "stats", "--format", "{{.Container}} {{.Rate}}", "back")
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"web -\n"
        send(b"x" * 1000)
        lines = [process.stdout.readline() for _ in range(2)]
        assert all(line.startswith(b"web ") and line.endswith(b"/s\n") for line in lines), lines
        assert any(b"web 0B/s" not in line for line in lines), lines
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
        process.communicate()
