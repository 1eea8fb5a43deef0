"""Archives of images over the API whose client leaves in the middle: nothing is kept, in files, descriptors or threads."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from support.engine import Bed, Daemon

SIZE = 12 << 20
"""More than the sockets between the two hold."""


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


@pytest.fixture(scope="module")
def archive() -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        info = tarfile.TarInfo("big")
        info.size = SIZE
        archive.addfile(info, io.BytesIO(os.urandom(SIZE)))
    return output.getvalue()


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(daemon.socket)
    return sock


class Held:
    """What of pynetd a request might keep: descriptors, and files that are not finished."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._before = len(self._descriptors())

    def _descriptors(self) -> list[str]:
        links: list[str] = []
        for path in Path(f"/proc/{self._daemon.pid()}/fd").iterdir():
            try:
                links.append(os.readlink(path))
            except FileNotFoundError:
                pass  # closed while we look
        return links

    def _let_go(self) -> bool:
        links = self._descriptors()
        unfinished = os.listdir(self._daemon.root / "images/tmp")
        return not unfinished and len(links) <= self._before and not any("/images/" in link for link in links)

    def again(self) -> None:
        try:
            self._daemon.eventually(self._let_go)
        except AssertionError:
            pytest.fail(
                f"kept of a request whose client left: {self._descriptors()}, {self._before} descriptors before"
            )


@pytest.fixture
def held(daemon: Daemon) -> Held:
    daemon.get("/images/json")  # whatever is opened once
    return Held(daemon)


UPLOADS = {
    "import": "/images/create?fromSrc=-&repo=big",
    "load": "/images/load",
}


@pytest.mark.parametrize("path", UPLOADS.values(), ids=UPLOADS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_that_leaves_while_it_sends(
    daemon: Daemon, held: Held, archive: bytes, path: str, framing: str
) -> None:
    frame = f"Content-Length: {len(archive)}" if framing == "length" else "Transfer-Encoding: chunked"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{frame}\r\n\r\n".encode()
    body = archive[: len(archive) // 2]
    with connect(daemon) as sock:
        sock.sendall(head + (b"%x\r\n" % len(body) + body + b"\r\n" if framing == "chunked" else body))
        daemon.eventually(lambda: bool(os.listdir(daemon.root / "images/tmp")), "nobody reads what is sent")
    held.again()
    assert [image["RepoTags"] for image in daemon.get("/images/json").body] == [["busybox:latest"]]


def test_a_client_that_leaves_while_it_is_sent(daemon: Daemon, archive: bytes) -> None:
    assert daemon.request("POST", UPLOADS["import"], archive).status == 200
    held = Held(daemon)
    for path in ("/images/big/get", "/images/get?names=big&names=busybox"):
        with connect(daemon) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")
        held.again()


@pytest.mark.parametrize("what", ["sends", "reads"])
def test_a_client_that_stalls_keeps_nobody_from_stopping(daemon: Daemon, archive: bytes, what: str) -> None:
    assert daemon.request("POST", UPLOADS["import"], archive).status == 200
    with connect(daemon) as sock:
        if what == "sends":
            sock.sendall(
                b"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + archive[:100_000]
            )
            daemon.eventually(lambda: bool(os.listdir(daemon.root / "images/tmp")))
        else:
            sock.sendall(b"GET /images/big/get HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")
        daemon.terminate()
    assert daemon.start() == "1"
    assert os.listdir(daemon.root / "images/tmp") == []
