"""What a user gets wrong, through the pynet command: the right exit code, two lines, and nothing left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from support.engine import Bed, Daemon

RUN = ("run", "--rm")
CASES = [
    (("create", "--name", "a b", "busybox"), 125, "Invalid container name"),
    (("network", "create", "a/b"), 1, "invalid network name"),
    (("network", "create", "bridge"), 1, "predefined"),
    (("network", "create", "--subnet", "10.0.0.0/33", "x"), 125, "invalid subnet"),
    (("network", "rm", "bridge"), 1, "pre-defined"),
    (("exec", "box"), 125, "needs a container and a command"),
    (("exec", "box", "nosuch"), 127, "executable file not found"),
    (("exec", "box", "/etc/passwd"), 126, "permission denied"),
    (("exec", "-u", "nosuch", "box", "true"), 126, "unable to find user"),
    (("rm", "box"), 1, "container is running"),
    (("kill", "-s", "NOSUCH", "box"), 1, "invalid signal"),
    (("logs", "--tail", "x", "box"), 125, "invalid --tail"),
    (("ps", "--filter", "nosuch=1"), 1, "invalid filter"),
    ((*RUN, "busybox", "/etc/passwd"), 126, "permission denied"),
    ((*RUN, "-m", "1", "busybox"), 125, "Minimum memory"),
    ((*RUN, "--cpus", "100000", "busybox"), 125, "Range of CPUs"),
    ((*RUN, "--cap-add", "NOSUCH", "busybox"), 125, "invalid capability"),
    ((*RUN, "-u", "nosuch", "busybox", "true"), 125, "unable to find user"),
    ((*RUN, "-w", "relative", "busybox", "true"), 125, "working directory"),
    ((*RUN, "--ip", "10.1.0.1", "busybox", "true"), 125, "user-defined networks only"),
    ((*RUN, "--network", "container:nosuch", "busybox", "true"), 125, "No such container: nosuch"),
    ((*RUN, "--sysctl", "kernel.panic=1", "busybox", "true"), 125, "separate kernel namespace"),
    ((*RUN, "--device", "/dev/nosuch", "busybox", "true"), 125, "/dev/nosuch"),
]  # fmt: skip


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


def test_every_mistake_is_told_in_a_line_and_what_helps_in_another(daemon: Daemon) -> None:
    assert daemon.pynet("run", "-d", "--name", "box", "busybox", "sleep", "1000").returncode == 0
    for words, code, message in CASES:
        done = daemon.pynet(*words)
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (code, ""), (words, done)
        assert message in lines[0], (words, done)
        assert [line[:2] for line in lines[1:]] in ([], ["  "]), (words, done)  # no hint where the message says it all
    assert [c["Names"] for c in daemon.get("/containers/json", all=1).body] == [["/box"]]
    assert len(daemon.get("/networks").body) == 3
    assert daemon.get("/pynet/check").body == []


def test_a_container_shares_the_network_of_another(daemon: Daemon) -> None:
    assert daemon.pynet("run", "-d", "--name", "box", "busybox", "sleep", "1000").returncode == 0
    address = daemon.pynet("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "box").stdout.strip()
    done = daemon.pynet("run", "--rm", "--network", "container:box", "busybox", "ip", "-4", "addr")
    assert f"inet {address}/" in done.stdout, done


def test_a_runtime_that_is_not_here(daemon: Daemon) -> None:
    reply = daemon.post("/containers/create", {"Image": "busybox", "HostConfig": {"Runtime": "nosuch"}})
    assert (reply.status, reply.body["message"]) == (400, "unknown or invalid runtime name: nosuch")


def test_bytes_that_are_no_text(daemon: Daemon) -> None:
    """Arguments may be any bytes; half a surrogate pair is none."""
    reply = daemon.post("/containers/create", {"Image": "busybox", "Env": ["A=\ud800"]})
    assert (reply.status, reply.body["message"]) == (400, "invalid JSON: a string has half a surrogate pair")
    environment = {**os.environ, "PYNET_HOST": f"unix://{daemon.socket}"}
    command = [sys.executable, "-I", "-m", "pynet"]
    done = subprocess.run(
        [*command, "run", "--name", "odd", "busybox", "echo", b"\xff\xe9"],
        env=environment, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"\xff\xe9\n"), done
    done = subprocess.run(
        [*command, "inspect", "-f", "{{.Config.Cmd}}", "odd"],
        env=environment, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"[echo \xff\xe9]\n"), done


@pytest.mark.parametrize(
    "request_text",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    ],
    ids=["method", "long line", "long header", "negative length"],
)
def test_malformed_http_is_answered_as_an_error_object_and_kept_out_of_the_log(
    daemon: Daemon, request_text: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(daemon.socket)
        sock.sendall(request_text)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert b"Content-Type: application/json" in head
    assert body.startswith(b'{"message":"malformed request: ')
    assert "Traceback" not in daemon.log()
