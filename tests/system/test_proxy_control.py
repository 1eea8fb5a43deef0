"""The forwarder's control socket, its client, and how forwarders are started and started again."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pynet.netlib import ipc
from pynet.netlib.errors import InvalidArgument, NotFound, Unavailable
from pynet.proxy import start
from pynet.proxy.process.client import ForwarderClient, Listen
from pynet.proxy.process.guard import start_time
from pynet.proxy.process.launch import command, spawn

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run directory of a forwarder that must live to the end."""
    run = tmp_path_factory.mktemp("run")
    process = spawn(str(run))
    assert process is not None
    yield run
    client = ForwarderClient(str(run / "forwarder.sock"))
    assert client.ping() == process.pid
    client.shutdown()
    assert process.wait(10) == 0


@pytest.fixture
def client(run: Path) -> Iterator[ForwarderClient]:
    client = ForwarderClient(str(run / "forwarder.sock"))
    yield client
    client.close()


def bound(kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind((HOST, 0))
    return sock


def descriptors(client: ForwarderClient) -> int:
    return len(os.listdir(f"/proc/{client.ping()}/fd"))


# -- the protocol --------------------------------------------------------------------------------------------------


def test_a_thousand_ports_in_one_message(client: ForwarderClient) -> None:
    before = descriptors(client)
    with contextlib.ExitStack() as stack, socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        socks = [stack.enter_context(bound()) for _ in range(1000)]
        client.listen(Listen(f"k{n}", "tcp", HOST, target.getsockname()[1], sock) for n, sock in enumerate(socks))
        for sock in (socks[0], socks[999]):
            with socket.create_connection(sock.getsockname(), timeout=20) as one, target.accept()[0] as peer:
                one.sendall(b"x")
                assert peer.recv(1) == b"x"
        fetched = {listen.id: listen for listen in client.fetch()}
        for listen in fetched.values():
            assert isinstance(listen.sock, socket.socket)
            stack.enter_context(listen.sock)
        for number, sock in enumerate(socks):
            listen = fetched[f"k{number}"]
            assert isinstance(listen.sock, socket.socket)
            assert listen.sock.getsockname() == sock.getsockname()
            assert (listen.proto, listen.target_ip, listen.target_port) == ("tcp", *target.getsockname())
        assert len(client.stats()["ports"]) == 1000
        client.withdraw([f"k{number}" for number in range(1000)])
    assert client.fetch() == []
    # the connections of the two visits may be on their way out
    assert descriptors(client) <= before + 4


def test_all_ports_of_a_message_or_none(client: ForwarderClient) -> None:
    before = descriptors(client)
    with bound() as good, bound(socket.SOCK_DGRAM) as bad:
        ports = [Listen("good", "tcp", HOST, 9, good), Listen("bad", "tcp", HOST, 9, bad)]
        with pytest.raises(InvalidArgument, match="bad is not a tcp socket"):
            client.listen(ports)
        address = good.getsockname()
    assert client.stats()["ports"] == {}
    assert descriptors(client) == before
    with socket.create_server(address):
        pass  # nobody holds the port


def test_a_descriptor_must_be_the_socket_that_is_promised(client: ForwarderClient) -> None:
    before = descriptors(client)
    read, write = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, read)
        stack.callback(os.close, write)
        unbound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        unix, other = socket.socketpair()
        stack.enter_context(unix)
        stack.enter_context(other)
        connected = stack.enter_context(bound(socket.SOCK_DGRAM))
        connected.connect((HOST, 9))
        server = stack.enter_context(socket.create_server((HOST, 0)))
        stream = stack.enter_context(socket.create_connection(server.getsockname()))
        for proto, sock, reason in (
            ("tcp", read, "not a socket"),
            ("tcp", unbound, "not bound"),
            ("tcp", unix, "not a tcp socket"),
            ("udp", connected, "can not serve"),
            ("tcp", stream, "can not serve"),
        ):
            with pytest.raises(InvalidArgument, match=reason):
                client.listen([Listen("x", proto, HOST, 9, sock)])
    assert descriptors(client) == before


def test_refusals_are_errors_of_their_class(client: ForwarderClient) -> None:
    with pytest.raises(NotFound, match="port nonesuch is not served"):
        client.retarget([("nonesuch", HOST, 9)])
    with bound() as sock, pytest.raises(InvalidArgument, match="65536"):
        client.listen([Listen("x", "tcp", HOST, 65536, sock)])
    with pytest.raises(InvalidArgument, match="absolute path"):
        client.watch(os.getpid(), ["sh"])
    with pytest.raises(NotFound):
        client.watch(1 << 30, ["/bin/true"])
    with pytest.raises(InvalidArgument, match="clock ticks"):
        client.watch(os.getpid(), ["/bin/true"], "soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(NotFound, match="another"):
        client.watch(os.getpid(), ["/bin/true"], start_time(os.getpid()) + 1)


def test_descriptors_that_nobody_asked_for_are_closed(run: Path, client: ForwarderClient) -> None:
    before = descriptors(client)
    read, write = os.pipe()
    channel = ipc.connect(str(run / "forwarder.sock"), 20)
    for message in ({"op": "ping"}, {"op": "stats"}, {"op": "nonesuch"}, {"op": "listen", "ports": []}, {}):
        channel.send(message, [write])
        reply = channel.receive()
        assert reply is not None
        assert reply[0]["ok"] is (message.get("op") in ("ping", "stats"))
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    channel.close()
    assert descriptors(client) <= before + 1


def _frame(payload: bytes, length: int | None = None, count: int = 0) -> bytes:
    return struct.pack("!II", len(payload) if length is None else length, count) + payload


_PORT = st.fixed_dictionaries(
    {
        "id": st.text(min_size=1, max_size=3),
        "proto": st.sampled_from(["tcp", "udp", "sctp"]),
        "target": st.just([HOST, 9]),
    },
    optional={
        "drain": st.floats() | st.just(0),
        "proxy_protocol": st.integers(-1, 3) | st.booleans() | st.none(),
        "transparent": st.booleans() | st.integers(0, 1),
    },
)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "target"]), inner, max_size=2) | _PORT
    ),
    max_leaves=6,
)
# not shutdown, which it obeys, and no pid and argv that could be real
_MESSAGE = st.fixed_dictionaries(
    {
        "op": st.sampled_from(
            ["listen", "retarget", "withdraw", "fetch", "stats", "connections", "metrics", "unwatch", "ping", ""]
        )
        | _VALUE
    },
    optional={
        "ports": st.lists(_PORT, max_size=2) | _VALUE,
        "ids": _VALUE,
        "id": _VALUE,
        "limit": _VALUE,
        "drain": _VALUE,
        "start": _VALUE,
        "tag": _VALUE,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=_MESSAGE, kinds=st.lists(st.sampled_from(["null", "tcp", "udp", "unix"]), max_size=2))
def test_any_object_gets_an_answer(run: Path, message: dict[str, Any], kinds: list[str]) -> None:
    channel = ipc.connect(str(run / "forwarder.sock"), 20)
    with contextlib.ExitStack() as stack:
        stack.callback(channel.close)
        fds: list[int] = []
        for kind in kinds:
            if kind == "null":
                fds.append(os.open("/dev/null", os.O_RDONLY))
            elif kind == "unix":
                with socket.socket(socket.AF_UNIX) as sock:
                    fds.append(sock.detach())
            else:
                with bound(socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
                    fds.append(sock.detach())
            stack.callback(os.close, fds[-1])
        channel.send(message, fds)
        reply = channel.receive()
        assert reply is not None
        assert isinstance(reply[0]["ok"], bool)
        assert reply[0].get("class") != "InternalError", reply[0]
        assert ("tag" in reply[0]) is ("tag" in message)
        for fd in reply[1]:
            os.close(fd)


def test_what_the_fuzz_left_can_be_withdrawn_and_leaves_no_descriptor(client: ForwarderClient) -> None:
    for listen in (held := client.fetch()):
        assert isinstance(listen.sock, socket.socket)
        listen.sock.close()
    client.withdraw([listen.id for listen in held])
    client.metrics(None)
    before = descriptors(client)
    with bound() as sock:
        for _ in range(20):
            client.listen([Listen("again", "tcp", HOST, 9, sock)])
            client.withdraw(["again"])
    assert descriptors(client) == before


def test_a_huge_message_is_refused_whole(client: ForwarderClient) -> None:
    before = descriptors(client)
    with bound() as sock, pytest.raises(InvalidArgument, match="came with 1 descriptors"):
        entries = [{"id": f"h{n}", "proto": "tcp", "target": [HOST, 9]} for n in range(100_000)]
        client.request([({"op": "listen", "ports": entries}, [sock.fileno()])])
    with pytest.raises(InvalidArgument, match="1 to 256 characters"):
        client.withdraw(["x" * (8 << 20)])
    assert client.fetch() == []
    assert descriptors(client) == before


def test_the_answers_of_one_connection_come_in_order(run: Path) -> None:
    """Also tags come back, whatever they are."""
    channel = ipc.connect(str(run / "forwarder.sock"), 20)
    tags: list[Any] = [1, "two", None, [3], {"four": 4}]
    for tag in tags:
        channel.send({"op": "ping", "tag": tag})
    for tag in tags:
        reply = channel.receive()
        assert reply is not None
        assert reply[0]["tag"] == tag
    channel.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=64)
    | st.builds(_frame, st.binary(max_size=40))
    | st.builds(_frame, st.just(b"{}"), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
)
def test_garbage_costs_only_its_own_connection(run: Path, data: bytes) -> None:
    other = ipc.connect(str(run / "forwarder.sock"), 20)
    other.sock.sendall(b"\0\0\0\x0d\0\0\0\0")  # in the middle of a frame
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(run / "forwarder.sock"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    other.sock.sendall(b'{"op":"ping"}')
    assert other.receive() is not None
    other.close()


def test_a_peer_that_does_not_read_stops_nobody_and_is_dropped(run: Path, client: ForwarderClient) -> None:
    """It asks for answers of a MiB each, and reads none of them."""
    with bound() as listener:
        client.listen([Listen("x" * 250, "tcp", HOST, 9, listener)])
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(run / "forwarder.sock"))
            payload = _frame(b'{"op":"ping","tag":"%s"}' % (b"x" * (1 << 20)))
            sent = 0
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                while sent < 100:
                    sock.sendall(payload)
                    sent += 1
                    assert client.ping()
            assert 32 <= sent < 50  # MiB that wait, and what the sockets hold
        assert list(client.stats()["ports"]) == ["x" * 250]
        client.withdraw(["x" * 250])


# -- the client ----------------------------------------------------------------------------------------------------


def test_many_threads_share_a_client(client: ForwarderClient) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(20):
                with bound() as sock:
                    client.listen([Listen(name, "tcp", HOST, 9, sock)])
                assert name in client.stats()["ports"]
                client.withdraw([name])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_without_a_forwarder_it_says_so(tmp_path: Path) -> None:
    client = ForwarderClient(str(tmp_path / "forwarder.sock"))
    with pytest.raises(Unavailable, match="does not answer"):
        client.ping()
    client.shutdown()


def test_it_finds_the_next_forwarder(tmp_path: Path) -> None:
    client = ForwarderClient(str(tmp_path / "forwarder.sock"))
    for _ in range(2):
        process = spawn(str(tmp_path))
        assert process is not None
        assert client.ping() == process.pid
        process.kill()
        process.wait()
    with pytest.raises(Unavailable):
        client.ping()


# -- one forwarder a directory -------------------------------------------------------------------------------------


def test_the_control_socket_is_its_owners(run: Path) -> None:
    mode = (run / "forwarder.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_two_never_serve_one_directory(run: Path, client: ForwarderClient) -> None:
    before = client.ping()
    assert spawn(str(run)) is None
    assert client.ping() == before
    second = subprocess.run(command(str(run)), capture_output=True, check=False, text=True, timeout=20)
    assert second.returncode == 1
    assert "is in use by another process (a forwarder)" in second.stderr


def test_a_directory_that_can_not_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "forwarder.lock").mkdir()
    with pytest.raises(Unavailable, match="Is a directory"):
        spawn(str(tmp_path))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_ends_it(tmp_path: Path, how: signal.Signals) -> None:
    process = spawn(str(tmp_path))
    assert process is not None
    process.send_signal(how)
    assert process.wait(10) == 0
    assert (tmp_path / "forwarder.log").read_text() == ""


# -- starting others again -----------------------------------------------------------------------------------------


def _said(fifo: int) -> bytes:
    assert select.select([fifo], [], [], 20)[0], "nothing was started"
    return os.read(fifo, 100)


def test_what_is_watched_is_started_again_unless_it_said_goodbye(client: ForwarderClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    first, second = (
        subprocess.Popen(["/bin/sh", "-c", "read x"], stdin=subprocess.PIPE, start_new_session=True) for _ in range(2)
    )
    polite, killed = (["/bin/sh", "-c", f"echo {word} > {tmp_path}/fifo"] for word in ("polite", "killed"))
    client.watch(first.pid, polite)
    client.watch(second.pid, killed)
    client.unwatch(polite)
    for process in (first, second):
        process.kill()
        process.communicate()
    assert _said(fifo) == b"killed\n"
    client.unwatch()
    os.close(fifo)


def test_it_holds_no_directory_and_no_descriptor_of_its_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    process = spawn(str(tmp_path))
    assert process is not None
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    assert os.readlink(f"/proc/{process.pid}/cwd") == "/"
    assert os.readlink(f"/proc/{process.pid}/fd/0") == "/dev/null"
    process.terminate()
    assert process.wait(10) == 0


def test_who_starts_others_keeps_the_limit_that_it_has_raised(tmp_path: Path) -> None:
    """What it starts has the limit of open files that it was itself started with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(soft, hard - 1, 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        process = spawn(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert process is not None
    client = ForwarderClient(str(tmp_path / "forwarder.sock"))
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    watched = subprocess.Popen(["/bin/sh", "-c", "read x"], stdin=subprocess.PIPE)
    client.watch(watched.pid, ["/bin/sh", "-c", f"ulimit -n > {tmp_path}/fifo"])
    watched.kill()
    watched.communicate()
    assert int(_said(fifo)) == lower
    client.unwatch()
    os.close(fifo)
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    client.shutdown()
    client.close()
    assert process.wait(10) == 0


def test_what_is_started_has_a_session_of_its_own(client: ForwarderClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    process = subprocess.Popen(["/bin/sh", "-c", "read x"], stdin=subprocess.PIPE)
    client.watch(
        process.pid, ["/bin/sh", "-c", f"cut -d' ' -f1,6 /proc/$$/stat > {tmp_path}/fifo; ulimit -n > {tmp_path}/fifo"]
    )
    process.kill()
    process.communicate()
    said = b""
    while said.count(b"\n") < 2:
        said += _said(fifo)
    pid, session, nofile = said.split()
    client.unwatch()
    assert pid == session
    assert int(nofile) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # and not what the forwarder raised its own to
    os.close(fifo)


def test_a_forwarder_whose_starter_is_gone_serves_all_the_same() -> None:
    """It was to say that it is ready, to a pipe that nobody reads any more: that ended it."""
    reader, writer = os.pipe()
    os.close(reader)
    ours, its = socket.socketpair()
    argv = start.command("pynet.proxy.process.forwarder", "--control-fd", str(its.fileno()), "--ready-fd", str(writer))
    with start.start(argv, [its.fileno(), writer]) as process:
        its.close()
        os.close(writer)
        ours.settimeout(20)
        channel = ipc.Channel(ours)
        channel.send({"op": "ping"})
        answer = channel.receive()
        channel.close()
    assert answer is not None
    assert answer[0]["pid"] == process.pid
    assert process.returncode == 0
