"""A name server in every sandbox: a toy one answers what a sandbox asks 127.0.0.11, over UDP and TCP, in both firewalls."""

from __future__ import annotations

import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.errors import Forbidden, InvalidArgument, NotSupported, PynetError
from pynet.netlib.firewall import redirect
from pynet.netlib.firewall.iptables.programs import legacy_program
from pynet.netlib.handles import Sandbox
from pynet.netlib.kernel.libnftables import Nft
from pynet.netlib.kinds.names import SandboxNames
from pynet.netlib.kinds.resolver import Resolver
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.model import Naming
from pynet.netlib.naming import Names, Sockets, View

from support.netlib import Watched, call_in


class Toy:
    """Answers every question with the name of the sandbox that asked it, and remembers what it is told."""

    def __init__(self) -> None:
        self._sockets: dict[str, Sockets] = {}
        self._ends: dict[str, tuple[socket.socket, threading.Thread]] = {}
        self.views: dict[str, View] = {}
        self.names: dict[str, Names] = {}
        self.refuses = False

    def serve(self, sandboxes: Iterable[Sockets]) -> None:
        if self.refuses:
            raise NotSupported("no names today")
        for one in sandboxes:
            self.withdraw([one.sandbox])
            mine = self._sockets[one.sandbox] = Sockets(one.sandbox, one.udp.dup(), one.tcp.dup())
            end, told = socket.socketpair()
            thread = threading.Thread(target=_answer, args=(mine, told))
            thread.start()
            self._ends[one.sandbox] = end, thread

    def withdraw(self, sandboxes: Iterable[str]) -> None:
        for id in sandboxes:
            held = self._sockets.pop(id, None)
            if held is not None:
                end, thread = self._ends.pop(id)
                end.close()
                thread.join()
                held.close()

    def fetch(self) -> list[Sockets]:
        return [Sockets(one.sandbox, one.udp.dup(), one.tcp.dup()) for one in self._sockets.values()]

    @property
    def served(self) -> frozenset[str]:
        return frozenset(self._sockets)

    def tell(
        self,
        views: Iterable[View] = (),
        names: Iterable[Names] = (),
        gone_views: Iterable[str] = (),
        gone_endpoints: Iterable[str] = (),
    ) -> None:
        gone_views = list(gone_views)
        for id in gone_views:
            self.views.pop(id, None)
        for id in gone_endpoints:
            self.names.pop(id, None)
        self.views |= {view.sandbox: view for view in views}
        self.withdraw([id for id in gone_views if id not in self.views])
        self.names |= {one.endpoint: one for one in names}

    def told(self) -> tuple[list[View], list[Names]]:
        return list(self.views.values()), list(self.names.values())

    def close(self) -> None:
        self.withdraw(list(self._sockets))


def _answer(mine: Sockets, told: socket.socket) -> None:
    with told:
        while True:
            ready, _, _ = select.select([mine.udp, mine.tcp, told], [], [])
            if told in ready:
                return
            if mine.udp in ready:
                question, client = mine.udp.recvfrom(512)
                mine.udp.sendto(question + b" from " + mine.sandbox.encode(), client)
            if mine.tcp in ready:
                with mine.tcp.accept()[0] as stream:
                    stream.sendall(stream.recv(512) + b" from " + mine.sandbox.encode())


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


def test_a_question_that_comes_while_nobody_serves_is_answered_by_the_next_one(
    start: Callable[[], Controller], toy: Toy
) -> None:
    controller = start()
    sandbox = controller.create_sandbox("a")
    toy.withdraw(["a"])  # as a server that was killed

    def asked() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(10)
        client.connect(("127.0.0.11", 53))
        client.send(b"early")
        return client

    with call_in(controller, sandbox.path, asked) as client:
        assert [one.kind for one in controller.check()] == ["resolver"]
        controller.serve_names()
        assert client.recv(512) == b"early from a"
    assert controller.check() == []
    toy.withdraw(["a"])
    controller.repair()
    assert ask(controller, sandbox) == (b"who from a", b"who from a")


def test_a_controller_that_is_new_has_copies_of_what_is_served(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    sandbox = controller.create_sandbox("a")
    controller = start()
    assert controller.check() == []
    toy.withdraw(["a"])
    controller.serve_names()
    assert ask(controller, controller.sandbox(sandbox.id)) == (b"who from a", b"who from a")


def test_server_and_controller_that_are_both_new_make_new_sockets(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    sandbox = controller.create_sandbox("a")
    toy.withdraw(["a"])
    controller = start()
    assert [one.kind for one in controller.check()] == ["resolver"]
    controller.repair()
    assert controller.check() == []
    assert ask(controller, controller.sandbox(sandbox.id)) == (b"who from a", b"who from a")


def test_what_is_served_for_no_sandbox_is_a_stray(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    sandbox = controller.create_sandbox("a")
    (kept,) = toy.fetch()
    sandbox.delete()
    with kept.udp, kept.tcp:
        toy.serve([kept])
    toy.tell([View("gone")], [Names("old", "network", "net", ("a",), ())])
    assert sorted(map(str, controller.check())) == [
        "stray names of endpoint old",
        "stray names view of sandbox gone",
        "stray resolver of sandbox a",
    ]
    controller.repair()
    assert (controller.check(), toy.served, toy.views, toy.names) == ([], frozenset(), {}, {})


# -- what is told ---------------------------------------------------------------------------------------------------------


def test_joining_and_leaving_tell_what_can_be_resolved(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    inner = controller.create_network("inner", subnet="10.2.0.0/24", internal=True)
    outer = controller.create_network("outer", subnet="10.1.0.0/24")
    naming = Naming(own=("box",), hosts=(("db", "192.0.2.1"), ("db", "192.0.2.2")), servers=("192.0.2.53",), ndots=2)
    sandbox = controller.create_sandbox("a", naming=naming)
    assert toy.views["a"] == View(
        "a", (), (("db", ("192.0.2.1", "192.0.2.2")),), ("192.0.2.53",), ndots=2, outside=False
    )
    first = inner.create_endpoint("web", aliases=["www"], other_names=["0123"])
    first.join(sandbox)
    assert toy.names[first.id] == Names(first.id, inner.id, "inner", ("web", "www", "0123"), ("10.2.0.2",))
    assert (toy.views["a"].networks, toy.views["a"].outside) == ((inner.id,), False)
    assert toy.views["a"].hosts[1:] == (("box", ("10.2.0.2",)),)
    second = outer.create_endpoint("web")
    second.join(sandbox)
    assert (toy.views["a"].networks, toy.views["a"].outside) == (
        (outer.id, inner.id),
        True,
    )  # the default route's first
    assert toy.views["a"].hosts[1:] == (("box", ("10.1.0.2", "10.2.0.2")),)
    assert controller.check() == []
    second.leave()
    assert (toy.views["a"].networks, set(toy.names)) == ((inner.id,), {first.id})
    sandbox.delete()
    assert (toy.views, toy.names) == ({}, {})


def test_names_change_while_an_endpoint_is_joined(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    network = controller.create_network("net", subnet="10.1.0.0/24")
    sandbox = controller.create_sandbox("a")
    endpoint = network.create_endpoint("web", aliases=["www"])
    endpoint.rename("old")  # before it is joined
    endpoint.join(sandbox)
    assert toy.names[endpoint.id].names == ("old", "www")
    endpoint.rename("new", aliases=["w3"], other_names=["fe"])
    assert toy.names[endpoint.id].names == ("new", "w3", "fe")
    endpoint.rename(aliases=[])
    assert toy.names[endpoint.id].names == ("new", "fe")
    assert [str(step) for step in controller.planned(endpoint.rename, "newest")] == [
        "alter names of sandbox a: newest, fe on net: 10.1.0.2"
    ]
    network.create_endpoint("taken")
    with pytest.raises(Forbidden, match="endpoint with name taken already exists in network net"):
        endpoint.rename("taken")
    assert toy.names[endpoint.id].names == ("new", "fe")
    sandbox.set_naming(Naming(search=("corp",)))
    assert toy.views["a"].search == ("corp",)
    with pytest.raises(InvalidArgument, match="'nowhere' is not an IP address"):
        sandbox.set_naming(Naming(servers=("nowhere",)))
    sandbox.set_naming(None)
    assert (toy.served, toy.views, toy.names) == (frozenset(), {}, {})
    assert controller.check() == []
    sandbox.set_naming(Naming())
    assert ask(controller, sandbox)[0] == b"who from a"
    controller = start()
    assert controller.sandbox("a").naming == Naming()
    assert controller.endpoint(endpoint.id).record.names == ("new", "fe")


def test_what_was_told_is_compared_and_told_again(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    network = controller.create_network("net", subnet="10.1.0.0/24")
    sandbox = controller.create_sandbox("a")
    endpoint = network.create_endpoint("web")
    endpoint.join(sandbox)
    told = toy.views["a"], toy.names[endpoint.id]
    toy.tell(gone_views=["a"], gone_endpoints=[endpoint.id])
    assert sorted(map(str, controller.check())) == [
        "missing names view of sandbox a",
        "missing names web on net: 10.1.0.2",
        f"missing resolver 127.0.0.11 in {sandbox.path}",  # what is served goes with the view
    ]
    controller.repair()
    assert (controller.check(), (toy.views["a"], toy.names[endpoint.id])) == ([], told)


def test_a_join_that_fails_tells_nothing(start: Callable[[], Controller], toy: Toy) -> None:
    controller = start()
    network = controller.create_network("net", subnet="10.1.0.0/24")
    sandbox = controller.create_sandbox("a")
    endpoint = network.create_endpoint("web")
    before = toy.told()
    core = controller.core

    def fail(verb: str, resource: Resource) -> None:
        if isinstance(resource, SandboxNames):
            raise OSError(5, "no")

    inner, core.applier = core.applier, Watched(core.applier, fail)
    with pytest.raises(PynetError):
        endpoint.join(sandbox)
    core.applier = inner
    assert toy.told() == before
    assert controller.check() == []
    endpoint.join(sandbox)
    assert toy.names[endpoint.id].addresses == ("10.1.0.2",)


def test_where_no_redirect_can_be_made_the_port_itself_is_served(
    start_controller: Callable[..., Controller], toy: Toy
) -> None:
    controller = start_controller("nftables", names=toy)
    sandbox = controller.create_sandbox("a", naming=None)
    theirs = call_in(controller, sandbox.path, Nft)
    try:
        # a table that another program owns, and nobody else may change or take away (nft(8): flags owner)
        call_in(controller, sandbox.path, theirs.run, f"table ip {redirect.TABLE} {{ flags owner; }}\n")
        sandbox.set_naming(Naming())
        assert ask(controller, sandbox) == (b"who from a", b"who from a")
        (held,) = toy.fetch()
        with held.udp, held.tcp:
            assert [sock.getsockname() for sock in (held.udp, held.tcp)] == [("127.0.0.11", 53)] * 2
        assert controller.check() == []
        controller = start_controller("nftables", names=toy)
        assert controller.check() == []
    finally:
        theirs.close()


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


@pytest.mark.parametrize(
    "commands",
    [
        "add rule ip pynet-names output dnat to ip daddr map { 127.0.0.11 : 127.0.0.12 }",
        "flush chain ip pynet-names output; add rule ip pynet-names output udp dport 53 dnat to 127.0.0.11",
        "flush chain ip pynet-names output; add rule ip pynet-names output ip protocol udp dnat to :1000",
        "insert rule ip pynet-names output accept",
        "add table ip pynet-names { flags dormant; }",
        "delete table ip pynet-names; add table ip pynet-names",
    ],
)
def test_whatever_a_container_makes_of_its_redirect_is_told_and_mended(
    start_controller: Callable[..., Controller], toy: Toy, commands: str
) -> None:
    """One with CAP_NET_ADMIN writes what it likes there; a check of the whole host must not end by it."""
    controller = start_controller("nftables", names=toy)
    sandbox = controller.create_sandbox("a")
    call_in(controller, sandbox.path, redirect._nft, commands)
    assert [str(one) for one in controller.check()] == [f"missing resolver 127.0.0.11 in {sandbox.path}"]
    controller.repair()
    assert controller.check() == []
    assert ask(controller, sandbox) == (b"who from a", b"who from a")


def test_a_comment_of_any_bytes_does_not_end_a_check(start_controller: Callable[..., Controller], toy: Toy) -> None:
    controller = start_controller("iptables", names=toy)
    sandbox = controller.create_sandbox("a")
    program = legacy_program(4, "restore")
    assert program is not None
    rule = b'*nat\n-I OUTPUT -m comment --comment "\xff\x0c" -j ACCEPT\nCOMMIT\n'
    call_in(controller, sandbox.path, partial(subprocess.run, [program, "--noflush"], input=rule, check=True))
    assert controller.check() == []
