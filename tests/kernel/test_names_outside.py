"""What is not ours, from a program in a sandbox to the host's servers: on loopback, replaced, named by --dns, forbidden."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pynet.names import message, presentation
from pynet.names.message import NOERROR, NXDOMAIN, A, Question, Record
from pynet.names.process.launch import NameService
from pynet.netlib.controller import Controller
from pynet.netlib.handles import Sandbox
from pynet.netlib.model import Naming
from pynet.plugins.testhost import Host

from support.netlib import call_in


class Upstream:
    """A server on a UDP socket, in a thread: one address for every name."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self._sock, self._address = sock, socket.inet_aton(address)
        self.asked: list[bytes] = []
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._sock.fileno(), self._end], [], [])
            if self._end in ready:
                return
            data, sender = self._sock.recvfrom(4096)
            question = message.parse(data)
            assert isinstance(question, Question)
            self.asked.append(question.name)
            record = Record(A, 60, self._address)
            self._sock.sendto(message.reply(question, NOERROR, (record,) if question.type == A else ()), sender)

    def close(self) -> None:
        os.close(self._ended)
        self._thread.join()
        os.close(self._end)
        self._sock.close()


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "etc/resolv.conf"
    path.parent.mkdir()
    path.write_text("nameserver 127.0.0.53\n")
    return path


@pytest.fixture
def names(tmp_path: Path, resolv_conf: Path, host: Host) -> Iterator[NameService]:
    names = NameService(tmp_path / "run", "--resolv-conf", str(resolv_conf))
    yield names
    names.close()


@pytest.fixture
def controller(names: NameService, start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(names=names)


@pytest.fixture
def upstream(host: Host) -> Iterator[Callable[..., Upstream]]:
    started: list[Upstream] = []

    def start(address: str, says: str) -> Upstream:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, 53))
        started.append(Upstream(sock, says))
        return started[-1]

    yield start
    for each in started:
        each.close()


def ask(controller: Controller, sandbox: Sandbox, name: str, *, tcp: bool = False) -> bytes:
    """What is answered to a program in the sandbox."""

    def one() -> bytes:
        data = presentation.query(name)
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(60)
            client.connect(("127.0.0.11", 53))
            client.sendall(len(data).to_bytes(2, "big") + data if tcp else data)
            if not tcp:
                return client.recv(4096)
            with client.makefile("rb") as file:
                return file.read(int.from_bytes(file.read(2), "big"))

    reply: bytes = call_in(controller, sandbox.path, one)
    return reply


def test_the_hosts_servers_are_asked_from_the_host_and_read_anew(
    controller: Controller, names: NameService, resolv_conf: Path, upstream: Callable[..., Upstream]
) -> None:
    """127.0.0.53 is systemd-resolved's: the host's loopback, which no sandbox reaches."""
    first, second = upstream("127.0.0.53", "192.0.2.1"), upstream("127.0.0.54", "192.0.2.2")
    sandbox = controller.create_sandbox("a")
    controller.create_network("net", subnet="10.1.0.0/24").create_endpoint("web").join(sandbox)
    for tcp in (False, True):
        assert presentation.lines(ask(controller, sandbox, "Example.com", tcp=tcp)) == [
            "Example.com. 60 IN A 192.0.2.1"
        ]
    assert first.asked == [b"example.com"], "the second one was answered from the cache"
    assert presentation.lines(ask(controller, sandbox, "web")) == ["web. 600 IN A 10.1.0.2"]
    found = names.query("a", presentation.query("example.org"))
    assert (found.source, first.asked[1:]) == ("upstream 127.0.0.53", [b"example.org"])
    assert names.query("a", presentation.query("example.org")).source == "cache"
    new = resolv_conf.with_name("new")
    new.write_text("nameserver 127.0.0.54\n")
    new.rename(resolv_conf)
    number = 0
    while not second.asked:  # inotify tells when it tells
        ask(controller, sandbox, f"x{number}.example.com")
        number += 1
    assert presentation.lines(ask(controller, sandbox, "example.com"))[0].endswith("192.0.2.2"), (
        "another's answers are its own"
    )
    assert names.stats()["a"]["failed"] == 0


def test_servers_that_a_user_named_are_asked_from_inside(
    controller: Controller, names: NameService, upstream: Callable[..., Upstream]
) -> None:
    host = upstream("127.0.0.53", "192.0.2.1")
    sandbox = controller.create_sandbox("a", naming=Naming(servers=("127.0.0.99",)))
    controller.create_network("net", subnet="10.1.0.0/24").create_endpoint("web").join(sandbox)

    def bound() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.99", 53))
        return sock

    own = Upstream(call_in(controller, sandbox.path, bound), "192.0.2.9")
    try:
        assert presentation.lines(ask(controller, sandbox, "example.com")) == ["example.com. 60 IN A 192.0.2.9"]
        assert (own.asked, host.asked) == ([b"example.com"], [])
    finally:
        own.close()


def test_a_sandbox_on_internal_networks_alone_tells_nobody_what_it_asks(
    controller: Controller, names: NameService, upstream: Callable[..., Upstream]
) -> None:
    """CVE-2024-29018."""
    host = upstream("127.0.0.53", "192.0.2.1")
    sandbox = controller.create_sandbox("a")
    controller.create_network("net", subnet="10.1.0.0/24", internal=True).create_endpoint("web").join(sandbox)
    assert ask(controller, sandbox, "secret.example.com")[3] & 15 == NXDOMAIN
    assert presentation.lines(ask(controller, sandbox, "web")) == ["web. 600 IN A 10.1.0.2"]
    controller.create_network("out", subnet="10.2.0.0/24").create_endpoint("web").join(sandbox)
    assert ask(controller, sandbox, "example.com")[3] & 15 == NOERROR
    assert host.asked == [b"example.com"]
