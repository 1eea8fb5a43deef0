"""pynet-proxy at a shell and in docker-proxy's place."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Generator

import pytest

from pynet.netlib.errors import InvalidArgument
from pynet.proxy.standalone import Mapping, main, parse_docker, parse_plain

HOST = "127.0.0.1"
COMMAND = [sys.executable, "-I", "-m", "pynet.proxy.standalone"]


def _free() -> int:
    with socket.create_server((HOST, 0)) as sock:
        return int(sock.getsockname()[1])


def _wire(write: int, listener: int | None, words: list[str]) -> list[str]:
    """A program that puts descriptors where dockerd does, 3 and 4, and becomes the command."""
    moves = f"os.dup2({write}, 103); " + ("" if listener is None else f"os.dup2({listener}, 4); ") + "os.dup2(103, 3); "
    code = f"import os, sys; {moves}os.close(103); os.closerange(5, 100); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-I", "-S", "-c", code, *COMMAND, *words]


@contextlib.contextmanager
def _docker_form(words: list[str], listener: socket.socket | None = None) -> Generator[tuple[bytes, int]]:
    """What it says on descriptor 3, and its exit status so far."""
    read, write = os.pipe()
    fds = (write,) if listener is None else (write, listener.fileno())
    fd = None if listener is None else listener.fileno()
    process = subprocess.Popen(_wire(write, fd, words), pass_fds=fds, stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read, "rb") as ready:
        said = ready.read()
    try:
        yield said, process.pid
    finally:
        process.terminate()
        process.wait(10)


def _talk(port: int, target: socket.socket) -> None:
    with socket.create_connection((HOST, port), timeout=20) as client, target.accept()[0] as peer:
        client.sendall(b"x")
        assert peer.recv(1) == b"x"


def test_it_takes_the_place_of_docker_proxy() -> None:
    port = _free()
    with socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        words = ["-proto", "tcp", "-host-ip", HOST, "-host-port", str(port), "-container-ip", HOST]
        words += ["-container-port", str(target.getsockname()[1])]
        with _docker_form(words) as (said, _):
            assert said == b"0\n"
            _talk(port, target)
            with _docker_form(words) as (said, _):
                assert said.startswith(b"1\nfailed to bind host port")
            _talk(port, target)


def test_it_takes_the_socket_that_dockerd_has_bound() -> None:
    with socket.create_server((HOST, 0)) as target, socket.socket() as listener:
        target.settimeout(20)
        listener.bind((HOST, 0))
        port = listener.getsockname()[1]
        words = ["-proto=tcp", f"-host-ip={HOST}", f"-host-port={port}", f"-container-ip={HOST}"]
        words += [f"-container-port={target.getsockname()[1]}", "-use-listen-fd"]
        with _docker_form(words, listener) as (said, _):
            assert said == b"0\n"
            _talk(port, target)


def test_the_plain_form_is_three_words_a_port() -> None:
    assert parse_plain(["tcp", ":8080", "10.1.0.2:80", "udp", "[::1]:53", "[fd00::2]:53"]) == [
        Mapping("tcp", "::", 8080, "10.1.0.2", 80),
        Mapping("udp", "::1", 53, "fd00::2", 53),
    ]
    assert parse_docker(["-proto", "udp", "-host-port=1", "--container-port", "2", "-container-ip", "10.0.0.2"]) == (
        Mapping("udp", "::", 1, "10.0.0.2", 2),
        False,
    )


@pytest.mark.parametrize(
    "words",
    [["tcp", "127.0.0.1:80"], ["tcp", "80", "10.0.0.2:80"], ["tcp", "::1:80", "10.0.0.2:80"], ["tcp", "x:0", "y:1"]],
)
def test_a_bad_plain_form_says_how_it_goes(words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_plain(words)
    assert caught.value.hint


@pytest.mark.parametrize("words", [["tcp", "127.0.0.1:1", "example:80"], ["tcp", "192.0.2.1:80", "10.0.0.2:80"]])
def test_what_can_not_be_served_is_one_line(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert capfd.readouterr().err.startswith("pynet-proxy: ")
