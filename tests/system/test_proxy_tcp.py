"""TCP through a real forwarder: what one end does, the other sees; and what happens when things run out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pynet.proxy.client import ForwarderClient, Listen, spawn

HOST = "127.0.0.1"
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """A forwarder, and ports through it to servers that the test plays itself."""

    def __init__(self, run: Path, *extra: str) -> None:
        self.run = run
        process = spawn(str(run), *extra)
        assert process is not None
        self.process = process
        self.client = ForwarderClient(str(run / "forwarder.sock"))
        self.count = 0

    def publish(self, target: tuple[str, int], *, host: str = HOST, drain: float | None = None) -> tuple[str, int]:
        """(id, port) of a new published port; only the forwarder holds its socket."""
        self.count += 1
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family, backlog=4096) as sock:
            self.client.listen([Listen(f"p{self.count}", "tcp", *target, sock, drain)])
            return f"p{self.count}", sock.getsockname()[1]

    def stats(self, name: str) -> dict[str, int]:
        return dict(self.client.stats()["ports"][name])

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until *condition*, which asks the forwarder; bounded."""
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, f"{what}: {self.client.stats()}"
            select.select([], [], [], 0.005)

    def close(self) -> None:
        self.client.shutdown()
        self.process.wait(10)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path_factory.mktemp("run"))
    yield proxy
    proxy.close()
    assert (proxy.run / "forwarder.log").read_text() == ""


@pytest.fixture
def own_proxy(tmp_path: Path) -> Iterator[Proxy]:
    """For tests that hurt it."""
    proxy = Proxy(tmp_path / "run")
    yield proxy
    proxy.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0), backlog=1024) as sock:
        sock.settimeout(20)
        yield sock


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """The address of a server that echoes, on all connections, until each one's FIN."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server((HOST, 0), backlog=4096))
        sock.setblocking(False)
        stop, stopper = socket.socketpair()
        stack.enter_context(stop)

        def serve() -> None:
            poll = select.epoll()
            poll.register(sock, select.EPOLLIN)
            poll.register(stop, select.EPOLLIN)
            live: dict[int, socket.socket] = {}
            while True:
                for fd, _ in poll.poll():
                    if fd == stop.fileno():
                        for peer in live.values():
                            peer.close()
                        poll.close()
                        return
                    if fd == sock.fileno():
                        peer, _ = sock.accept()
                        live[peer.fileno()] = peer
                        poll.register(peer, select.EPOLLIN)
                        continue
                    try:
                        data = live[fd].recv(65536)
                        live[fd].sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        live.pop(fd).close()

        thread = threading.Thread(target=serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stopper.close)
        yield sock.getsockname()


def connect(port: int, host: str = HOST) -> socket.socket:
    return socket.create_connection((host, port), timeout=20)


def pair(proxy: Proxy, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client and the server's end of one proxied connection."""
    _, port = proxy.publish(server.getsockname()[:2])
    client = connect(port)
    peer, _ = server.accept()
    peer.settimeout(20)
    return client, peer


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            break
        data += more
    return data


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(1 << 20):
        data += more
    return data


# -- what one end does, the other sees -----------------------------------------------------------------------------


def test_a_message_goes_there_and_back(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    with client, peer:
        client.sendall(b"question")
        assert receive(peer, 8) == b"question"
        peer.sendall(b"answer")
        assert receive(client, 6) == b"answer"


def test_a_client_that_has_said_all_still_hears_the_answer(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    with client, peer:
        client.sendall(b"everything")
        client.shutdown(socket.SHUT_WR)
        assert read_all(peer) == b"everything"
        peer.sendall(b"late answer")
        assert receive(client, 11) == b"late answer"
        peer.close()
        assert client.recv(1) == b""


def test_a_server_that_has_said_all_still_hears_the_client(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    with client, peer:
        peer.sendall(b"banner")
        peer.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"banner"
        client.sendall(b"upload")
        client.close()
        assert read_all(peer) == b"upload"


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_a_reset_at_the_other_end(proxy: Proxy, server: socket.socket, who: str) -> None:
    client, peer = pair(proxy, server)
    name = f"p{proxy.count}"
    with client, peer:
        client.sendall(b"x")
        assert peer.recv(1) == b"x"
        breaker, other = (client, peer) if who == "client" else (peer, client)
        breaker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        breaker.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)
    proxy.wait(lambda: proxy.stats(name)["active"] == 0, "the connection ends")
    assert proxy.stats(name)["errors"] == 1


def test_a_reset_after_half_close_reaches_the_other_end(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    with client, peer:
        client.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        peer.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_target_that_refuses_resets_the_client(proxy: Proxy) -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        name, port = proxy.publish(free.getsockname())
        with pytest.raises(ConnectionResetError), connect(port) as client:
            client.recv(1)
    stats = proxy.stats(name)
    assert (stats["connections"], stats["active"], stats["refused"]) == (1, 0, 1)


def test_an_ipv6_client_reaches_an_ipv4_target(proxy: Proxy, echo: tuple[str, int]) -> None:
    _, port = proxy.publish(echo, host="::1")
    with connect(port, "::1") as client:
        client.sendall(b"six to four")
        assert receive(client, 11) == b"six to four"


def test_bytes_behind_urgent_data_are_not_forgotten(proxy: Proxy, server: socket.socket) -> None:
    """A read stops at the urgent mark; there is no edge for what stands behind it."""
    client, peer = pair(proxy, server)
    with client, peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        client.send(b"before")
        client.send(b"!", socket.MSG_OOB)
        client.send(b"after")
        got = b""
        while not got.endswith(b"after"):
            got += peer.recv(100)
        assert got.replace(b"!", b"") == b"beforeafter"


def stopped(proxy: Proxy) -> contextlib.ExitStack:
    """The forwarder sleeps inside, and then meets all that has happened in one event a socket."""
    stack = contextlib.ExitStack()
    proxy.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, proxy.process.pid, os.WSTOPPED)
    stack.callback(proxy.process.send_signal, signal.SIGCONT)
    return stack


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072, 200_000])
@pytest.mark.parametrize("who", ["client", "server"])
def test_bytes_and_the_end_behind_them_arrive_in_order(
    proxy: Proxy, server: socket.socket, who: str, size: int
) -> None:
    client, peer = pair(proxy, server)
    sender, receiver = (client, peer) if who == "client" else (peer, client)
    data = random.Random(size).randbytes(size)
    with client, peer:
        receiver.sendall(b"x")
        assert receive(sender, 1) == b"x"
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with stopped(proxy):
            sender.sendall(data)
            sender.shutdown(socket.SHUT_WR)
        assert read_all(receiver) == data
        receiver.sendall(b"still heard")
        receiver.close()
        assert read_all(sender) == b"still heard"


def test_bytes_and_an_end_that_come_together_leave_together(proxy: Proxy, server: socket.socket) -> None:
    """One segment instead of two, and one wake-up of whoever reads: most short answers end so."""
    client, peer = pair(proxy, server)
    with client, peer:
        with stopped(proxy):
            peer.sendall(b"answer")
            peer.close()
        assert read_all(client) == b"answer"
        assert _segments_in(client) == 2, "of the handshake, and of everything else"


def _segments_in(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    return int.from_bytes(info[140:144], sys.byteorder)  # struct tcp_info, tcpi_segs_in (linux/tcp.h)


def test_urgent_data_before_an_end_hides_nothing(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    with client, peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        with stopped(proxy):
            client.send(b"before")
            client.send(b"!", socket.MSG_OOB)
            client.send(b"after")
            client.shutdown(socket.SHUT_WR)
        assert read_all(peer).replace(b"!", b"") == b"beforeafter"


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_behind_bytes_and_an_end_is_not_taken_for_a_close(
    proxy: Proxy, server: socket.socket, who: str
) -> None:
    client, peer = pair(proxy, server)
    name = f"p{proxy.count}"
    breaker, other = (client, peer) if who == "client" else (peer, client)
    with client, peer:
        other.sendall(b"x")
        assert receive(breaker, 1) == b"x"
        with stopped(proxy):
            breaker.sendall(b"x")
            breaker.shutdown(socket.SHUT_WR)
            breaker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            breaker.close()
        proxy.wait(lambda: proxy.stats(name)["active"] == 0, "the connection ends")
        assert proxy.stats(name)["errors"] == 1
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            other.send(b"y")


def test_all_that_was_sent_before_the_end_arrives_at_a_slow_reader(proxy: Proxy, server: socket.socket) -> None:
    client, peer = pair(proxy, server)
    data = os.urandom(1 << 20) * 8
    with client, peer:

        def send() -> None:
            peer.sendall(data)
            peer.close()

        thread = threading.Thread(target=send)
        thread.start()
        got = bytearray()
        while more := client.recv(30_000):
            got += more
        thread.join()
    assert got == data


def test_connections_by_the_hundred(proxy: Proxy, echo: tuple[str, int]) -> None:
    name, port = proxy.publish(echo)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(300)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        for number, client in enumerate(clients):
            assert receive(client, len(str(number))) == b"%d" % number
        assert proxy.stats(name)["active"] == 300
    proxy.wait(lambda: proxy.stats(name)["active"] == 0, "all connections end")
    assert proxy.stats(name)["errors"] == 0


def test_resets_and_new_connections_at_the_same_time_do_not_mix(proxy: Proxy, echo: tuple[str, int]) -> None:
    """Descriptor numbers are reused at once; no new connection may get the end of an old one."""
    _, port = proxy.publish(echo)
    for _ in range(60):
        old = [connect(port) for _ in range(4)]
        for client in old:
            client.sendall(b"x")
            client.recv(1)
        for client in old:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        with connect(port) as client:
            client.sendall(b"new")
            assert receive(client, 3) == b"new"


def _sockets(pid: int) -> int:
    """How many sockets *pid* holds."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    return count


def test_rude_ends_at_every_step_leak_nothing(proxy: Proxy, server: socket.socket) -> None:
    """Both ends reset, close, half-close, flood or read nothing, at random; then all is as before."""
    name, port = proxy.publish(server.getsockname()[:2])
    before = _sockets(proxy.process.pid)
    chance = random.Random(7)

    def be_rude(sock: socket.socket) -> socket.socket | None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            for _ in range(chance.randrange(6)):
                match chance.randrange(6):
                    case 0:
                        sock.send(bytes(chance.randrange(1, 300_000)))
                    case 1:
                        sock.recv(chance.randrange(1, 100_000))
                    case 2:
                        sock.shutdown(socket.SHUT_WR)
                    case 3:
                        sock.shutdown(socket.SHUT_RD)
                    case 4:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    case _:
                        sock.close()
                        return None
        return sock

    live: list[socket.socket] = []
    server.setblocking(False)
    for _ in range(400):
        with contextlib.suppress(OSError):
            live.append(connect(port))
        with contextlib.suppress(OSError):
            live.append(server.accept()[0])
        live = [sock for sock in map(be_rude, chance.sample(live, len(live))) if sock is not None]
        while len(live) > 40:
            live.pop().close()
    for sock in live:
        sock.close()
    server.close()
    proxy.wait(lambda: proxy.stats(name)["active"] == 0, "every connection ends")
    assert proxy.stats(name)["connections"] >= 300
    proxy.wait(lambda: _sockets(proxy.process.pid) <= before, "every socket is closed")


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
