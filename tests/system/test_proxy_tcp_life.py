"""TCP through a real forwarder: when things run out, when it is bulk, when ports come and go, when processes die."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.proxy.process.client import Listen

from support.proxy import HOST, Proxy, connect, echoing, pair, read_all, receive
from support.waiting import PATIENCE

RESET = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    run = tmp_path_factory.mktemp("run")
    with Proxy.running(run) as proxy:
        yield proxy
    assert (run / "forwarder.log").read_text() == ""


@pytest.fixture
def own_proxy(tmp_path: Path) -> Iterator[Proxy]:
    """For tests that hurt it."""
    with Proxy.running(tmp_path / "run") as proxy:
        yield proxy


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0), backlog=1024) as sock:
        sock.settimeout(20)
        yield sock


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    with echoing() as address:
        yield address


# -- bounds --------------------------------------------------------------------------------------------------------


def _rss(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _send_until_full(sock: socket.socket) -> int:
    """Bytes that *sock* takes until it has taken none for 0.2 s."""
    sock.setblocking(False)
    chunk, sent = bytes(1 << 18), 0
    while select.select([], [sock], [], 0.2)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(chunk)
        assert sent < 256 << 20, "nothing stops the sender"
    sock.setblocking(True)
    return sent


def test_a_reader_that_does_not_read_stops_the_sender(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    before = _rss(proxy.process.pid)
    with client, peer:
        sent = _send_until_full(client)
        assert _rss(proxy.process.pid) - before < 4 << 20
        client.shutdown(socket.SHUT_WR)
        assert len(read_all(peer)) == sent


def test_out_of_descriptors_clients_wait_and_none_is_lost(own_proxy: Proxy, echo: tuple[str, int]) -> None:
    name, port = own_proxy.publish(echo)
    own_proxy.client.stats()
    pid = own_proxy.process.pid
    limit = len(os.listdir(f"/proc/{pid}/fd")) + 21
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(30)]
        for client in clients:
            client.sendall(b"x")
        waiting = set(clients)
        own_proxy.wait(lambda: own_proxy.stats(name)["active"] >= 9, "what can be served is served")
        cpu = _cpu(pid)
        assert not select.select([], [], [], 0.4)[0]
        assert _cpu(pid) - cpu < 0.2, "it spins"
        assert own_proxy.stats(name)["active"] < 15
        while waiting:
            served = select.select(list(waiting), [], [], 20)[0]
            assert served, f"{len(waiting)} clients were never served"
            for client in served:
                assert client.recv(1) == b"x"
                waiting.discard(client)
                client.close()
    stats = own_proxy.stats(name)
    assert (stats["connections"], stats["errors"], stats["refused"]) == (30, 0, 0)


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat") as stat:
        return int(stat.read().split()[0]) / 1e9


# -- bulk ----------------------------------------------------------------------------------------------------------


def _exchange(client: socket.socket, data: bytes, rounds: int) -> None:
    """Send *rounds* times *data* while the echo comes back, and compare by digest."""
    expected = hashlib.sha256()
    for _ in range(rounds):
        expected.update(data)

    def send() -> None:
        for _ in range(rounds):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    got = hashlib.sha256()
    while more := client.recv(1 << 18):
        got.update(more)
    thread.join()
    assert got.digest() == expected.digest()


def test_bulk_arrives_whole_in_both_directions(proxy: Proxy, echo: tuple[str, int]) -> None:
    name, port = proxy.publish(echo)
    with connect(port) as client:
        _exchange(client, os.urandom(1 << 20), 64)
    assert proxy.client.stats()["workers"]
    proxy.wait(lambda: proxy.stats(name)["active"] == 0, "the connection ends")
    stats = proxy.stats(name)
    assert (stats["bytes_in"], stats["bytes_out"], stats["errors"]) == (64 << 20, 64 << 20, 0)


def _in_worker(proxy: Proxy, port: int) -> socket.socket:
    """A client whose connection is in a bulk worker now."""
    client = connect(port)
    chunk = bytes(1 << 18)
    end = time.monotonic() + 20
    while not any(_holds(worker, _inode_of_peer(client)) for worker in proxy.client.stats()["workers"]):
        assert time.monotonic() < end, "the connection never moved to a worker"
        client.sendall(chunk)
        assert len(receive(client, len(chunk))) == len(chunk)
    return client


def _inode_of_peer(client: socket.socket) -> str:
    """The inode of the socket at the other end of *client*, as proc_pid_net(5) tells."""
    wanted = [
        "".join(f"{byte:02X}" for byte in reversed(socket.inet_aton(ip))) + f":{port:04X}"
        for ip, port in (client.getpeername(), client.getsockname())
    ]
    with open("/proc/net/tcp") as table:
        return next(fields[9] for fields in map(str.split, table) if fields[1:3] == wanted)


def _holds(pid: int, inode: str) -> bool:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == f"socket:[{inode}]":
                return True
    return False


def test_a_worker_that_dies_takes_only_its_own_connections(own_proxy: Proxy, echo: tuple[str, int]) -> None:
    name, port = own_proxy.publish(echo)
    with connect(port) as small, _in_worker(own_proxy, port) as elephant:
        (worker,) = own_proxy.client.stats()["workers"]
        os.kill(worker, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            assert elephant.recv(1) == b""
        small.sendall(b"still here")
        assert receive(small, 10) == b"still here"
        own_proxy.wait(lambda: own_proxy.stats(name)["active"] == 1, "the lost connection is counted")
        assert own_proxy.stats(name)["errors"] == 1
        with _in_worker(own_proxy, port) as another:
            another.sendall(b"x")
            assert another.recv(1) == b"x"
        assert own_proxy.client.stats()["workers"] != [worker]


def test_withdrawal_reaches_connections_in_workers(own_proxy: Proxy, echo: tuple[str, int]) -> None:
    name, port = own_proxy.publish(echo)
    with _in_worker(own_proxy, port) as client:
        moved = own_proxy.stats(name)
        assert moved["active"] == 1
        assert moved["bytes_in"] > 4 << 20
        own_proxy.client.withdraw([name], 0)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_download_outlives_the_forwarder(own_proxy: Proxy, echo: tuple[str, int]) -> None:
    _, port = own_proxy.publish(echo)
    with _in_worker(own_proxy, port) as client:
        (worker,) = own_proxy.client.stats()["workers"]
        gone = os.pidfd_open(worker)
        own_proxy.process.kill()
        own_proxy.process.wait()
        client.sendall(b"on and on")
        assert receive(client, 9) == b"on and on"
    assert select.select([gone], [], [], 20)[0], "the worker does not end with its last connection"
    os.close(gone)


def test_a_worker_without_a_connection_ends_with_the_forwarder(own_proxy: Proxy, echo: tuple[str, int]) -> None:
    name, port = own_proxy.publish(echo)
    with _in_worker(own_proxy, port):
        (worker,) = own_proxy.client.stats()["workers"]
    own_proxy.wait(lambda: own_proxy.stats(name)["active"] == 0, "the connection ends")
    gone = os.pidfd_open(worker)
    own_proxy.process.kill()
    own_proxy.process.wait()
    assert select.select([gone], [], [], PATIENCE)[0], "the worker stays"
    os.close(gone)


def test_connections_in_workers_are_those_of_their_port(own_proxy: Proxy, echo: tuple[str, int]) -> None:
    (name, port), (_, other) = own_proxy.publish(echo), own_proxy.publish(echo)
    with _in_worker(own_proxy, port) as mine, _in_worker(own_proxy, other) as theirs:
        listed = own_proxy.client.connections(name, 1000)["connections"]
        assert [(one["client"], "worker" in one) for one in listed] == [(mine.getsockname(), True)]
        own_proxy.client.withdraw([name], 0)
        with pytest.raises(ConnectionResetError):
            mine.recv(1)
        theirs.sendall(b"still here")
        assert receive(theirs, 10) == b"still here"


# -- withdrawal, change, death -------------------------------------------------------------------------------------


def test_withdrawal_without_drain_cuts(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    name, port = f"p{proxy.count}", client.getpeername()[1]
    with client, peer:
        proxy.client.withdraw([name], 0)
        for end in (client, peer):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(port)
    proxy.client.withdraw([name])
    assert name not in proxy.client.stats()["ports"]


def test_withdrawal_lets_live_connections_end(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    port = client.getpeername()[1]
    with client, peer:
        proxy.client.withdraw([f"p{proxy.count}"], 60)
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        client.sendall(b"goodbye")
        client.close()
        assert read_all(peer) == b"goodbye"


def test_a_drain_ends(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    with client, peer:
        proxy.client.withdraw([f"p{proxy.count}"], 0.1)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_what_listen_said_about_the_drain_counts(proxy: Proxy, server: socket.socket) -> None:
    name, port = proxy.publish(server.getsockname(), drain=0)
    with connect(port) as client, server.accept()[0]:
        proxy.client.withdraw([name])
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_new_target_is_for_new_connections(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    with client, peer, socket.create_server((HOST, 0)) as other:
        other.settimeout(20)
        proxy.client.retarget([(f"p{proxy.count}", *other.getsockname())])
        with connect(client.getpeername()[1]) as second, other.accept()[0] as second_peer:
            second.sendall(b"new")
            assert receive(second_peer, 3) == b"new"
            client.sendall(b"old")
            assert receive(peer, 3) == b"old"


def test_listening_again_replaces(proxy: Proxy, server: socket.socket, echo: tuple[str, int]) -> None:
    client, peer = pair(proxy, server)
    name = f"p{proxy.count}"
    with client, peer, socket.create_server((HOST, 0)) as again:
        proxy.client.listen([Listen(name, "tcp", *echo, again)])
        with connect(again.getsockname()[1]) as second:
            second.sendall(b"x")
            assert second.recv(1) == b"x"
        client.sendall(b"old")
        assert receive(peer, 3) == b"old"


def test_saying_everything_again_disturbs_nobody(proxy: Proxy, server: socket.socket) -> None:
    """As a control daemon does that has come back: what is served on the same socket keeps its connections."""
    client, peer = pair(proxy, server)
    with client, peer, socket.create_server((HOST, 0)) as other, contextlib.ExitStack() as stack:
        other.settimeout(20)
        held = {listen.id: listen for listen in proxy.client.fetch()}
        for listen in held.values():
            assert isinstance(listen.sock, socket.socket)
            stack.enter_context(listen.sock)
        listen = held[f"p{proxy.count}"]
        proxy.client.listen([dataclasses.replace(listen, target_port=other.getsockname()[1], drain=0.0)])
        client.sendall(b"old")
        assert receive(peer, 3) == b"old"
        with connect(client.getpeername()[1]) as second, other.accept()[0] as second_peer:
            second.sendall(b"new")
            assert receive(second_peer, 3) == b"new"
        assert proxy.stats(listen.id)["connections"] == 2
        proxy.client.withdraw([listen.id])  # the drain is the new one, too
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_kill_9_loses_no_client_that_comes_meanwhile(tmp_path: Path, echo: tuple[str, int]) -> None:
    """The listeners live in whoever fetched them; the kernel queues connections until the next forwarder."""
    first = Proxy(tmp_path)
    _, port = first.publish(echo)
    held = first.client.fetch()
    first.process.kill()
    first.close()
    with connect(port) as client:
        client.sendall(b"anybody?")
        second = Proxy(tmp_path)
        second.client.listen(held)
        assert receive(client, 8) == b"anybody?"
    for listen in held:
        assert isinstance(listen.sock, socket.socket)
        listen.sock.close()
    second.close()
