"""A name server in every sandbox: a toy one answers what a sandbox asks 127.0.0.11, over UDP and TCP, in both firewalls."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.errors import NotSupported
from pynet.netlib.firewall import redirect
from pynet.netlib.handles import Sandbox
from pynet.netlib.kinds.resolver import Resolver

from support.netlib import call_in


class Toy:
    """Answers every question with the name of the sandbox that asked it."""

    def __init__(self) -> None:
        self._sockets: dict[str, tuple[socket.socket, socket.socket]] = {}
        self._threads: list[threading.Thread] = []
        self.refuses = False

    def serve(self, sandbox: str, udp: socket.socket, tcp: socket.socket) -> None:
        if self.refuses:
            raise NotSupported("no names today")
        self.withdraw(sandbox)
        self._sockets[sandbox] = udp, tcp
        for answer in (lambda: self._udp(sandbox, udp), lambda: self._tcp(sandbox, tcp)):
            thread = threading.Thread(target=answer)
            thread.start()
            self._threads.append(thread)

    def withdraw(self, sandbox: str) -> None:
        for sock in self._sockets.pop(sandbox, ()):
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it
            except OSError:
                pass  # a UDP socket that is not connected says so, and wakes all the same
            sock.close()

    @property
    def served(self) -> frozenset[str]:
        return frozenset(self._sockets)

    def close(self) -> None:
        for sandbox in list(self._sockets):
            self.withdraw(sandbox)
        for thread in self._threads:
            thread.join()

    def _udp(self, sandbox: str, sock: socket.socket) -> None:
        try:
            while True:
                question, client = sock.recvfrom(512)
                if not client:
                    return
                sock.sendto(question + b" from " + sandbox.encode(), client)
        except OSError:
            return

    def _tcp(self, sandbox: str, sock: socket.socket) -> None:
        try:
            while True:
                client = sock.accept()[0]
                with client:
                    client.sendall(client.recv(512) + b" from " + sandbox.encode())
        except OSError:
            return


@pytest.fixture
def toy() -> Iterator[Toy]:
    toy = Toy()
    yield toy
    toy.close()


@pytest.fixture(params=["nftables", "iptables"])
def start(
    request: pytest.FixtureRequest, start_controller: Callable[..., Controller], toy: Toy
) -> Callable[[], Controller]:
    return lambda: start_controller(request.param, names=toy)


def ask(controller: Controller, sandbox: Sandbox) -> tuple[bytes, bytes]:
    """What a UDP and a TCP client in the sandbox are answered, at the port that resolvers use."""

    def both() -> tuple[bytes, bytes]:
        answers: list[bytes] = []
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as client:
                client.settimeout(10)
                client.connect(("127.0.0.11", 53))
                client.send(b"who")
                answers.append(client.recv(512))
        return answers[0], answers[1]

    found: tuple[bytes, bytes] = call_in(controller, sandbox.path, both)
    return found


def test_each_sandbox_is_answered_for_itself(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    sandboxes = [controller.create_sandbox(name) for name in ("a", "b")]
    for sandbox in sandboxes:
        assert any(isinstance(resource, Resolver) for resource in sandbox.plan())
        answer = b"who from " + sandbox.id.encode()
        assert ask(controller, sandbox) == (answer, answer)
    assert controller.check() == []
    sandboxes[0].delete()
    assert toy.served == {"b"}
    assert ask(controller, sandboxes[1])[0] == b"who from b"


def test_a_server_of_the_sandboxs_own_keeps_its_port(start: Callable[[], Controller]) -> None:
    controller = start()
    sandbox = controller.create_sandbox("a")

    def own() -> bytes:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("127.0.0.1", 53))
            client.settimeout(10)
            client.connect(("127.0.0.1", 53))
            client.send(b"mine")
            return server.recv(512)

    assert call_in(controller, sandbox.path, own) == b"mine"
    assert ask(controller, sandbox) == (b"who from a", b"who from a")


def test_a_redirect_that_somebody_removed_is_found_and_made_again(start: Callable[[], Controller]) -> None:
    controller = start()
    sandbox = controller.create_sandbox("a")
    call_in(controller, sandbox.path, redirect.remove)
    assert [str(one) for one in controller.check()] == [f"missing resolver 127.0.0.11 in {sandbox.path}"]
    controller.repair()
    assert controller.check() == []
    assert ask(controller, sandbox) == (b"who from a", b"who from a")


def test_a_server_that_is_new_gets_new_sockets(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    sandbox = controller.create_sandbox("a")
    toy.withdraw("a")  # as a server that ended
    assert [one.kind for one in controller.check()] == ["resolver"]
    controller = start()  # as a controller that was started anew
    assert [one.kind for one in controller.check()] == ["resolver"]
    controller.repair()
    assert ask(controller, controller.sandbox(sandbox.id)) == (b"who from a", b"who from a")


def test_a_sandbox_that_nobody_serves_is_not_made(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    toy.refuses = True
    with pytest.raises(NotSupported, match="no names today"):
        controller.create_sandbox("a")
    assert (controller.sandboxes(), toy.served, controller.check()) == ([], frozenset(), [])


def test_a_controller_that_was_given_nobody_makes_nothing(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    sandbox = controller.create_sandbox("a")
    assert [type(resource).__name__ for resource in sandbox.plan()] == ["Netns"]

    def refused() -> Any:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            return client.connect_ex(("127.0.0.11", 53))

    assert call_in(controller, sandbox.path, refused) == 111  # ECONNREFUSED
