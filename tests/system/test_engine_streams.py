"""Clients that leave, that close one half, or that read slowly, and containers that write without end: nobody else notices."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.engine import Bed, Daemon
from support.waiting import PATIENCE

BOUND = 2.0
"""Seconds in which a call that has nothing to wait for must answer, on a machine that others keep busy."""


@pytest.fixture
def daemon(shared_bed: Bed) -> Iterator[Daemon]:
    shared = shared_bed.daemon
    yield shared
    shared.clear()
    said = (shared.run / "pynetd.log").read_text()
    assert "Traceback" not in said, said[-4000:]


def made(daemon: Daemon, name: str, *command: str, **body: Any) -> str:
    reply = daemon.post("/containers/create", {"Image": "busybox", "Cmd": list(command), **body}, name=name)
    assert reply.status == 201, reply
    return str(reply.body["Id"])


def started(daemon: Daemon, name: str, *command: str, **body: Any) -> str:
    id = made(daemon, name, *command, **body)
    assert daemon.post(f"/containers/{id}/start").status == 204
    return id


def send(daemon: Daemon, method: str, path: str, body: Any = None, *, upgrade: bool = False) -> socket.socket:
    """A connection on which a request was sent, and nothing read yet."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(daemon.socket)
    text = "" if body is None else json.dumps(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    if upgrade:
        head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
    sock.sendall(f"{head}\r\n{text}".encode())
    return sock


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def descriptors(daemon: Daemon) -> int:
    """Sockets, pipes, terminals and logs; not the database, of which each thread of a growing pool has its own."""
    count = 0
    for name in os.listdir(f"/proc/{daemon.pid()}/fd"):
        try:
            target = os.readlink(f"/proc/{daemon.pid()}/fd/{name}")
        except FileNotFoundError:
            continue
        count += target.startswith(("socket:", "pipe:", "/dev/p")) or target.endswith("log.json")
    return count


def answers_within(daemon: Daemon, seconds: float, path: str, **query: Any) -> None:
    before = time.monotonic()
    assert daemon.get(path, **query).status == 200
    assert time.monotonic() - before < seconds, f"{path} took {time.monotonic() - before:.1f} s"


# -- endless output ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["attach", "logs", "exec"])
@pytest.mark.parametrize("reader", ["gone", "reads", "waits"])
def test_a_chatty_container_holds_up_nobody(daemon: Daemon, how: str, reader: str) -> None:
    before = descriptors(daemon)
    started(daemon, "chatty", *(("sleep", "1000") if how == "exec" else ("yes",)))
    if how == "attach":
        sock = send(daemon, "POST", "/containers/chatty/attach?stream=1&stdout=1&logs=1", upgrade=True)
    elif how == "logs":
        sock = send(daemon, "GET", "/containers/chatty/logs?follow=1&stdout=1")
    else:
        exec_id = daemon.post("/containers/chatty/exec", {"Cmd": ["yes"], "AttachStdout": True}).body["Id"]
        sock = send(daemon, "POST", f"/exec/{exec_id}/start", {}, upgrade=True)
    assert sock.recv(64)
    over = threading.Event()

    def read() -> None:
        while not over.is_set() and sock.recv(65536):
            pass

    thread = threading.Thread(target=read)
    if reader == "gone":
        sock.close()
    elif reader == "reads":
        thread.start()
    try:
        for _ in range(3):
            answers_within(daemon, BOUND, "/_ping")
            answers_within(daemon, BOUND, "/containers/json", all=1)
        killed = time.monotonic()
        assert daemon.post("/containers/chatty/kill").status == 204
        assert time.monotonic() - killed < BOUND
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        sock.close()
    assert daemon.delete("/containers/chatty", force=1).status == 204
    daemon.eventually(lambda: descriptors(daemon) <= before, "descriptors stay")


# -- locks -------------------------------------------------------------------------------------------------------


def test_a_start_that_takes_long_holds_up_nobody(daemon: Daemon) -> None:
    """With the supervisor stopped a start waits for its reply, under its container's lock."""
    started(daemon, "other", "sh", "-c", "echo here; exec sleep 1000")
    id = made(daemon, "slow", "sleep", "1000")
    supervisor = daemon.pid("supervisor")
    os.kill(supervisor, signal.SIGSTOP)
    try:
        start = send(daemon, "POST", "/containers/slow/start")
        streams = [
            send(daemon, "GET", "/containers/slow/logs?follow=1&stdout=1"),
            send(daemon, "POST", "/containers/slow/attach?stream=1&stdout=1", upgrade=True),
            send(daemon, "POST", "/containers/slow/wait?condition=next-exit"),
        ]
        for stream in streams[1:]:
            assert stream.recv(12).startswith(b"HTTP/1.1 ")
        assert not select.select([start], [], [], 0)[0], "the start did not have to wait: nothing is shown"
        for path in ("/_ping", "/containers/json?all=1", "/containers/other/json", "/containers/slow/json"):
            answers_within(daemon, BOUND, path)
        answers_within(daemon, BOUND, "/containers/other/logs", stdout=1)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert b" 204 " in start.recv(64)
    assert daemon.post(f"/containers/{id}/kill").status == 204
    answer = b""
    while b"StatusCode" not in answer:
        answer += streams[2].recv(4096)
    assert b'{"StatusCode": 137}' in answer
    for sock in [start, *streams]:
        sock.close()


# -- descriptors of clients that leave ---------------------------------------------------------------------------


@pytest.mark.parametrize("tty", [False, True])
def test_clients_that_leave_at_any_point_leave_no_descriptor(daemon: Daemon, tty: bool) -> None:
    started(daemon, "box", "sleep", "1000", OpenStdin=True, Tty=tty)
    before = descriptors(daemon)
    body = {"Cmd": ["true"], "AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": tty}
    for client in range(100):
        patience = client % 10 * 0.0004  # somewhere between the request and the answer
        sock = send(daemon, "POST", "/containers/box/attach?stream=1&stdin=1&stdout=1", upgrade=True)
        select.select([sock], [], [], patience)
        sock.close()
        exec_id = daemon.post("/containers/box/exec", body).body["Id"]
        path = f"/exec/{exec_id}/start" + ("?errors=status" if client % 2 else "")
        sock = send(daemon, "POST", path, {}, upgrade=True)
        select.select([sock], [], [], patience)
        sock.close()
    daemon.eventually(lambda: descriptors(daemon) <= before, f"{before} descriptors became more")


def test_a_silent_stream_ends_with_its_client(daemon: Daemon) -> None:
    """Nothing is written, so nothing tells but the connection; a half-close came before."""
    started(daemon, "box", "sleep", "1000")
    before = descriptors(daemon)
    for method, path in (
        ("GET", "/containers/box/logs?follow=1&stdout=1"),
        ("GET", "/events"),
        ("POST", "/containers/box/wait"),
        ("POST", "/containers/box/attach?stream=1&stdout=1"),
    ):
        for half in (False, True):
            sock = send(daemon, method, path)
            assert sock.recv(12).startswith(b"HTTP/1.1 200")
            if half:
                sock.shutdown(socket.SHUT_WR)
            sock.close()
    daemon.eventually(lambda: descriptors(daemon) <= before, "connections stay")


# -- one half closed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/_ping", "/containers/json", "/containers/box/logs?follow=1&stdout=1"])
def test_a_client_that_has_asked_may_close_its_half(daemon: Daemon, path: str) -> None:
    started(daemon, "box", "sh", "-c", "echo first; sleep 0.2; echo last")
    sock = send(daemon, "GET", path)
    sock.shutdown(socket.SHUT_WR)
    answer = read_all(sock)
    sock.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
    if "logs" in path:
        assert answer.endswith(b"\r\n0\r\n\r\n")
        assert b"last" in answer


def test_half_a_body_is_no_request(daemon: Daemon) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(daemon.socket)
    sock.sendall(b"POST /networks/create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    sock.shutdown(socket.SHUT_WR)
    assert b" 201 " not in read_all(sock)
    sock.close()


def test_a_client_with_nothing_to_type_ends_the_input_at_once(daemon: Daemon) -> None:
    """It closed its half with the request, before the connection was taken over."""
    id = started(daemon, "reader", "sh", "-c", "cat; echo read it", OpenStdin=True, StdinOnce=True)
    sock = send(daemon, "POST", f"/containers/{id}/attach?stream=1&stdin=1&stdout=1", upgrade=True)
    sock.shutdown(socket.SHUT_WR)
    assert b"read it" in read_all(sock)
    sock.close()
