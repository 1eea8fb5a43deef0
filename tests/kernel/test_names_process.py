"""The name server as a process, with the library: what sandboxes resolve, and what a kill -9 of it costs."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dns.message import make_response
from dns.rrset import from_text

from pynet.names import presentation
from pynet.names.process.client import NamesClient
from pynet.names.process.launch import NameService, spawn
from pynet.netlib.controller import Controller
from pynet.netlib.errors import InvalidArgument, NotFound, Unavailable
from pynet.netlib.handles import Sandbox
from pynet.netlib.model import Naming
from pynet.netlib.naming import Names, View
from pynet.plugins.testhost import Host

from support.netlib import call_in


@pytest.fixture
def names(tmp_path: Path, host: Host) -> Iterator[NameService]:
    names = NameService(tmp_path / "run")
    yield names
    names.close()


@pytest.fixture
def controller(names: NameService, start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(names=names)


RESOLVED = """
import socket, sys
for name in sys.argv[1:]:
    try:
        found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
        print(name, *sorted(entry[4][0] for entry in found))
    except socket.gaierror as error:
        print(name, error.errno)
"""
"""glibc's getaddrinfo, with /etc/resolv.conf as argv[1:] is asked in a mount namespace."""


def resolve(sandbox: Sandbox, tmp_path: Path, *names: str, conf: str = "nameserver 127.0.0.11\n") -> list[str]:
    """What a program of glibc in the sandbox finds: a line for each name."""
    file = tmp_path / "resolv.conf"
    file.write_text(conf)
    script = (
        f'mount --bind {file} /etc/resolv.conf && exec nsenter --net={sandbox.path} {sys.executable} -I -c "$0" "$@"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, RESOLVED, *names], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()


def kill(names: NamesClient) -> None:
    pidfd = os.pidfd_open(names.ping())
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 60)[0]
    finally:
        os.close(pidfd)


def test_programs_in_sandboxes_find_each_other(controller: Controller, tmp_path: Path) -> None:
    network = controller.create_network("net", subnet="10.1.0.0/24")
    other = controller.create_network("other", subnet="10.2.0.0/24")
    client = controller.create_sandbox("client", naming=Naming(own=("box",), hosts=(("db", "192.0.2.7"),)))
    network.create_endpoint("client").join(client)
    web = network.create_endpoint("web", aliases=["www"], other_names=["0123abcd"])
    web.join(controller.create_sandbox("web"))
    other.create_endpoint("apart").join(controller.create_sandbox("apart"))
    assert resolve(client, tmp_path, "web", "WWW", "web.net", "0123abcd", "box", "db", "client") == [
        "web 10.1.0.3",
        "WWW 10.1.0.3",
        "web.net 10.1.0.3",
        "0123abcd 10.1.0.3",
        "box 10.1.0.2",
        "db 192.0.2.7",
        "client 10.1.0.2",
    ]
    web.rename("site", aliases=[])
    assert resolve(client, tmp_path, "site")[0] == "site 10.1.0.3"
    assert resolve(client, tmp_path, "web", "apart")[0] != "web 10.1.0.3"
    other.create_endpoint("client").join(client)
    assert resolve(client, tmp_path, "apart") == ["apart 10.2.0.2"]
    assert controller.check() == []


def test_the_server_starts_when_it_is_needed_and_not_before(
    names: NameService, start_controller: Callable[..., Controller]
) -> None:
    controller = start_controller(names=names)
    assert controller.check() == []
    with pytest.raises(Unavailable):
        names.ping()
    controller.create_sandbox("host", host=True).delete()
    with pytest.raises(Unavailable):
        names.ping()
    sandbox = controller.create_sandbox("a")
    pid = names.ping()
    assert names.served == {"a"}
    assert names.told() == ([View("a", outside=False)], [])
    sandbox.delete()
    assert (names.served, names.told(), names.ping()) == (frozenset(), ([], []), pid)


def test_a_second_server_gives_way(names: NameService, controller: Controller, tmp_path: Path) -> None:
    controller.create_sandbox("a")
    pid = names.ping()
    assert spawn(tmp_path / "run") is None
    assert names.ping() == pid


def test_a_query_that_is_sent_while_the_server_is_dead_is_answered_by_the_next_one(
    names: NameService, controller: Controller
) -> None:
    network = controller.create_network("net", subnet="10.1.0.0/24")
    sandbox = controller.create_sandbox("a")
    network.create_endpoint("web").join(sandbox)
    kill(names)

    def asked() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for sock in (udp, tcp):
            sock.settimeout(60)
            sock.connect(("127.0.0.11", 53))
        query = presentation.query("web", "A")
        udp.send(query)
        tcp.send(struct.pack(">H", len(query)) + query)
        return udp, tcp

    udp, tcp = call_in(controller, sandbox.path, asked)
    with udp, tcp:
        assert [one.kind for one in controller.check()] == ["names", "names", "resolver"]
        controller.serve_names()
        assert presentation.lines(udp.recv(512)) == ["web. 600 IN A 10.1.0.2"]
        assert presentation.lines(tcp.recv(2, socket.MSG_WAITALL) and tcp.recv(512)) == ["web. 600 IN A 10.1.0.2"]
    assert controller.check() == []


def test_a_verb_after_a_kill_starts_the_next_server_and_a_repair_tells_it_the_rest(
    names: NameService, controller: Controller, tmp_path: Path
) -> None:
    network = controller.create_network("net", subnet="10.1.0.0/24")
    first = controller.create_sandbox("a")
    network.create_endpoint("web").join(first)
    kill(names)
    second = controller.create_sandbox("b")
    network.create_endpoint("db").join(second)
    assert names.served == {"b"}
    controller.repair()
    assert controller.check() == []
    assert resolve(first, tmp_path, "db") == ["db 10.1.0.3"]
    assert resolve(second, tmp_path, "web") == ["web 10.1.0.2"]


def test_a_program_that_watches_has_the_server_started_again_at_once(
    names: NameService, controller: Controller, tmp_path: Path
) -> None:
    served = threading.Event()

    def serve() -> None:
        controller.serve_names()
        served.set()

    names.watch(serve)
    network = controller.create_network("net", subnet="10.1.0.0/24")
    sandbox = controller.create_sandbox("a")
    network.create_endpoint("web").join(sandbox)
    for _ in range(2):
        kill(names)
        assert served.wait(60)
        served.clear()
        assert controller.check() == []
        assert resolve(sandbox, tmp_path, "web") == ["web 10.1.0.2"]


def test_a_controller_that_is_new_finds_all_as_it_was(
    names: NameService, controller: Controller, start_controller: Callable[..., Controller], tmp_path: Path
) -> None:
    network = controller.create_network("net", subnet="10.1.0.0/24")
    network.create_endpoint("web").join(controller.create_sandbox("a"))
    controller = start_controller(names=names)
    assert controller.check() == []
    kill(names)
    controller.serve_names()
    assert controller.check() == []
    assert resolve(controller.sandbox("a"), tmp_path, "web") == ["web 10.1.0.2"]


def test_what_would_be_answered_can_be_asked(names: NameService, controller: Controller) -> None:
    network = controller.create_network("net", subnet="10.1.0.0/24")
    network.create_endpoint("web").join(controller.create_sandbox("a"))
    found = names.query("a", presentation.query("web", "A"))
    assert found.reply is not None
    assert (presentation.lines(found.reply), found.source) == (["web. 600 IN A 10.1.0.2"], "network net")
    with pytest.raises(NotFound, match="names are not served in sandbox b"):
        names.query("b", presentation.query("web", "A"))
    assert names.stats()["a"]["local"] == 1


def test_the_query_log_is_written_to_who_reads_it(names: NameService, controller: Controller) -> None:
    controller.create_network("net", subnet="10.1.0.0/24")
    for id in ("a", "b"):
        controller.network("net").create_endpoint(id).join(controller.create_sandbox(id))

    def ask(sandbox: str) -> None:
        def one() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(60)
                client.connect(("127.0.0.11", 53))
                client.send(presentation.query("a", "A"))
                client.recv(512)

        call_in(controller, controller.sandbox(sandbox).path, one)

    read, write = os.pipe()
    with open(read, encoding="ascii") as lines:
        names.log(write, "b")
        os.close(write)
        for sandbox in ("a", "b", "b"):
            ask(sandbox)
        for _ in range(2):
            line = lines.readline()
            assert (
                '"sandbox": "b", "name": "a.", "type": "A"' in line
                and '"source": "network net", "code": "NOERROR"' in line
            )
    ask("b")  # nobody reads any more, and nobody minds
    assert names.stats()["b"]["udp"] == 3


def test_nonsense_is_refused_and_changes_nothing(names: NameService, controller: Controller) -> None:
    controller.create_sandbox("a")
    before = names.told()
    with pytest.raises(InvalidArgument, match="'here' is not an IP address"):
        names.tell([View("b")], [Names("e", "n", "net", ("x",), ("here",))])
    for message in (
        {"op": "serve", "ids": ["a"]},
        {"op": "tell", "views": [[]]},
        {"op": "tell", "views": [{"sandbox": "x", "hosts": ["db"]}]},
        {"op": "tell", "names": "web"},
        {"op": "fetch", "limit": 0},
        {"op": "query", "sandbox": "a", "message": "zz"},
        {"op": "nothing"},
        {"op": "log"},
    ):
        with pytest.raises(InvalidArgument):
            names.ask(message)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock, pytest.raises(InvalidArgument):
        names.request([({"op": "serve", "ids": ["a"]}, [sock.fileno(), sock.fileno()])])
    assert names.told() == before
    assert names.served == {"a"}
    assert controller.check() == []


def test_the_server_keeps_no_rights_but_those_of_one_thread(names: NameService, controller: Controller) -> None:
    controller.create_sandbox("a")
    pid = names.ping()
    rights: dict[int, tuple[int, str]] = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        fields = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines()
            if "\t" in line
        )
        rights[int(thread)] = int(fields["CapPrm"], 16), fields["NoNewPrivs"]
    assert rights.pop(pid) == (0, "1")
    assert [caps for caps, _ in rights.values()] == [1 << 12 | 1 << 21]


# -- outside --------------------------------------------------------------------------------------------------------------


class Upstream:
    """A name server that answers every A question with one address, and remembers what it was asked and by whom."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self._sock, self._address = sock, address
        self.asked: list[tuple[str, str]] = []
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._sock.getsockname())
        self._thread.join()
        self._sock.close()

    def _answer(self) -> None:
        while True:
            data, client = self._sock.recvfrom(512)
            if not data:
                return
            query = presentation.read(data)
            self.asked.append((str(query.question[0].name).lower(), client[0]))
            reply = make_response(query)
            if query.question[0].rdtype == 1:
                reply.answer.append(from_text(query.question[0].name, 60, "IN", "A", self._address))
            self._sock.sendto(reply.to_wire(), client)


@pytest.fixture
def outside(host: Host) -> Iterator[Upstream]:
    """On the host's loopback, where containers' packets can not come."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 53))
    upstream = Upstream(sock, "192.0.2.80")
    yield upstream
    upstream.close()


@pytest.fixture
def wide(
    tmp_path: Path, outside: Upstream, start_controller: Callable[..., Controller]
) -> Iterator[tuple[Controller, NameService]]:
    """A controller whose sandboxes may ask the one outside."""
    (tmp_path / "host.conf").write_text("nameserver 127.0.0.1\n")
    names = NameService(tmp_path / "run", "--resolv-conf", str(tmp_path / "host.conf"))
    yield start_controller(names=names), names
    names.close()


def test_a_sandbox_of_internal_networks_asks_nobody_outside(
    wide: tuple[Controller, NameService], outside: Upstream, tmp_path: Path
) -> None:
    controller, names = wide
    inner = controller.create_network("inner", subnet="10.2.0.0/24", internal=True)
    outer = controller.create_network("outer", subnet="10.1.0.0/24")
    sandbox = controller.create_sandbox("a")
    inner.create_endpoint("a").join(sandbox)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        assert resolve(sandbox, tmp_path, "secret.example", "inner", "a") == [
            "secret.example -2",
            "inner -2",
            "a 10.2.0.2",
        ]
        for kind in ("A", "AAAA", "TXT", "MX", "ANY"):
            assert not names.lookup("a", f"{kind}.secret.example", kind).source.startswith("upstream")
        wire.setblocking(False)
        seen: list[bytes] = []
        while True:
            try:
                seen.append(wire.recv(65535))
            except BlockingIOError:
                break
    assert outside.asked == []
    assert not [
        packet for packet in seen if b"secret" in packet.lower()
    ]  # all interfaces of the host, its loopback too
    outer.create_endpoint("a").join(sandbox)
    assert resolve(sandbox, tmp_path, "public.example") == ["public.example 192.0.2.80"]
    assert ("public.example.", "127.0.0.1") in outside.asked
    controller.endpoint(controller.registry.endpoint_named(outer.id, "a").id).leave()  # type: ignore[union-attr]
    asked = len(outside.asked)
    assert resolve(sandbox, tmp_path, "public.example") == ["public.example -2"]  # what is in the cache neither
    assert len(outside.asked) == asked


def test_servers_of_its_own_are_asked_from_inside(
    wide: tuple[Controller, NameService], outside: Upstream, tmp_path: Path
) -> None:
    controller, names = wide
    network = controller.create_network("net", subnet="10.1.0.0/24", internal=True)
    server = controller.create_sandbox("server")
    network.create_endpoint("server").join(server)
    sandbox = controller.create_sandbox("a", naming=Naming(servers=("10.1.0.2",)))
    network.create_endpoint("a").join(sandbox)

    def bound() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("10.1.0.2", 53))
        return sock

    own = Upstream(call_in(controller, server.path, bound), "192.0.2.99")
    try:
        assert resolve(sandbox, tmp_path, "corp.example") == ["corp.example 192.0.2.99"]
        assert names.lookup("a", "other.example").source.startswith("upstream 10.1.0.2")
        assert set(own.asked) >= {("corp.example.", "10.1.0.3"), ("other.example.", "10.1.0.3")}
        assert outside.asked == []
        kill(names)
        controller.serve_names()
        assert names.lookup("a", "third.example").lines == ("third.example. 60 IN A 192.0.2.99",)
    finally:
        call_in(controller, server.path, own.close)


IN_A_USER_NAMESPACE = """
import socket, sys, threading
from pynet import Controller, NameService, Naming
from pynet.names import presentation
import dns.message, dns.rrset
root = sys.argv[1]
with NameService(root + "/run") as names, Controller(root + "/root", root + "/run", names=names) as controller:
    network = controller.create_network("net", subnet="10.1.0.0/24")
    server, box = (controller.create_sandbox(name, naming=Naming(servers=("10.1.0.2",))) for name in ("server", "box"))
    endpoints = [network.create_endpoint(name) for name in ("server", "box")]
    for endpoint, sandbox in zip(endpoints, (server, box)):
        endpoint.join(sandbox)
    fd = controller.tools.netns.open(server.path)
    sock = controller.tools.netns.socket(fd, socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("10.1.0.2", 53))
    def answer():
        data, client = sock.recvfrom(512)
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.5"))
        sock.sendto(reply.to_wire(), client)
    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    print(*names.lookup("box", "server").lines, *names.lookup("box", "corp.example").lines, sep="; ")
    for sandbox in (server, box):
        sandbox.delete()
    for endpoint in endpoints:
        endpoint.delete()
    network.delete()
"""


def test_an_ordinary_users_namespace_will_do(tmp_path: Path, host: Host) -> None:
    command = ["unshare", "-Urnm", sys.executable, "-I", "-c", IN_A_USER_NAMESPACE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "server. 600 IN A 10.1.0.2; corp.example. 60 IN A 192.0.2.5\n", done.stderr
