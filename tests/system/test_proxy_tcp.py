"""TCP through a real forwarder: what one end does, the other sees."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest

from support.proxy import HOST, Proxy, connect, echoing, pair, read_all, receive, sockets

RESET = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    run = tmp_path_factory.mktemp("run")
    with Proxy.running(run) as proxy:
        yield proxy
    assert (run / "forwarder.log").read_text() == ""


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0), backlog=1024) as sock:
        sock.settimeout(20)
        yield sock


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    with echoing() as address:
        yield address


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


def test_rude_ends_at_every_step_leak_nothing(proxy: Proxy, server: socket.socket) -> None:
    """Both ends reset, close, half-close, flood or read nothing, at random; then all is as before."""
    name, port = proxy.publish(server.getsockname()[:2])
    before = sockets(proxy.process.pid)
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
    proxy.wait(lambda: sockets(proxy.process.pid) <= before, "every socket is closed")
