"""UDP through a real forwarder."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from pynet.proxy.process.client import ForwarderClient, Listen
from pynet.proxy.process.launch import spawn

HOST = "127.0.0.1"


@contextlib.contextmanager
def _proxy(run: Path, *extra: str) -> Generator[ForwarderClient]:
    process = spawn(str(run), *extra)
    assert process is not None
    client = ForwarderClient(str(run / "forwarder.sock"))
    client.ping()  # connected now, not by the first test that asks
    try:
        yield client
    finally:
        client.shutdown()
        status = process.wait(10)
    assert status == 0
    assert (run / "forwarder.log").read_text() == ""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForwarderClient]:
    with _proxy(tmp_path_factory.mktemp("run")) as client:
        yield client


@contextlib.contextmanager
def _echo(answer: Callable[[bytes], bytes] = lambda data: data) -> Generator[tuple[str, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((HOST, 0))

        def serve() -> None:
            while True:
                data, sender = sock.recvfrom(65536)
                if data == b"stop":
                    return
                sock.sendto(answer(data), sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
                stopper.sendto(b"stop", sock.getsockname())
            thread.join()


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    with _echo() as address:
        yield address


def publish(proxy: ForwarderClient, name: str, target: tuple[str, int], host: str = HOST) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, 0))
        proxy.listen([Listen(name, "udp", *target, sock)])
        return int(sock.getsockname()[1])


def connect(port: int, host: str = HOST) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.connect((host, port))
    return sock


def test_each_client_gets_its_own_answers(proxy: ForwarderClient, echo: tuple[str, int]) -> None:
    port = publish(proxy, "many", echo)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(200)]
        for round_ in range(3):
            for number, client in enumerate(clients):
                client.send(b"%d/%d" % (round_, number))
            for number, client in enumerate(clients):
                assert client.recv(100) == b"%d/%d" % (round_, number)
    stats = proxy.stats()["ports"]["many"]
    assert (stats["connections"], stats["dropped"]) == (200, 0)


def test_bursts_keep_boundaries_and_order(proxy: ForwarderClient, echo: tuple[str, int]) -> None:
    port = publish(proxy, "burst", echo)
    messages = [bytes([number % 256]) * (number * 37 % 1200) for number in range(60)]
    with connect(port) as client:
        for message in messages:
            client.send(message)
        assert [client.recv(65536) for _ in messages] == messages


def test_where_descriptors_have_run_out_the_client_that_was_idle_longest_gives_its_own(
    tmp_path: Path, echo: tuple[str, int]
) -> None:
    with _proxy(tmp_path) as proxy, contextlib.ExitStack() as stack:
        port = publish(proxy, "scarce", echo)
        first, second, third = (stack.enter_context(connect(port)) for _ in range(3))
        for client in (first, second):
            client.send(b"there?")
            assert client.recv(100) == b"there?"
        forwarder = proxy.ping()
        used = {int(name) for name in os.listdir(f"/proc/{forwarder}/fd")}
        soft, hard = resource.prlimit(forwarder, resource.RLIMIT_NOFILE)
        resource.prlimit(forwarder, resource.RLIMIT_NOFILE, (min(set(range(soft)) - used), hard))
        for client in (third, third):
            client.send(b"and me?")
            assert client.recv(100) == b"and me?"
        resource.prlimit(forwarder, resource.RLIMIT_NOFILE, (soft, hard))
        stats = proxy.stats()["ports"]["scarce"]
        assert (stats["connections"], stats["active"], stats["errors"], stats["dropped"]) == (3, 2, 0, 0)


@pytest.mark.parametrize("size", [0, 1, 65507])
def test_datagrams_of_every_size(proxy: ForwarderClient, echo: tuple[str, int], size: int) -> None:
    port = publish(proxy, "size", echo)
    with connect(port) as client:
        client.send(b"s" * size)
        assert client.recv(65536) == b"s" * size


@pytest.mark.parametrize(
    ("bound", "used"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.77"),
        ("::1", "::1"),
        ("::", "::1"),
        ("::", "::ffff:127.0.0.78"),
    ],
)
def test_answers_come_from_the_address_that_was_used(
    proxy: ForwarderClient, echo: tuple[str, int], bound: str, used: str
) -> None:
    """A connected client hears nothing from another address."""
    port = publish(proxy, "source", echo, bound)
    with connect(port, used) as client:
        for message in (b"one", b"two"):
            client.send(message)
            assert client.recv(100) == message


def test_one_client_that_uses_two_addresses_is_answered_by_each(proxy: ForwarderClient, echo: tuple[str, int]) -> None:
    port = publish(proxy, "two", echo, "0.0.0.0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((HOST, 0))
        client.settimeout(20)
        for address in (("127.0.0.4", port), ("127.0.0.5", port), ("127.0.0.4", port)):
            client.sendto(b"x", address)
            assert client.recvfrom(10) == (b"x", address)
    assert proxy.stats()["ports"]["two"]["active"] == 2


def test_a_target_that_comes_back_is_reached_by_the_next_datagram(proxy: ForwarderClient) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        target.bind((HOST, 0))
        address = target.getsockname()
    port = publish(proxy, "back", address)
    with connect(port) as client:
        client.send(b"to nobody")
        end = time.monotonic() + 20
        while proxy.stats()["ports"]["back"]["active"] == 0:
            assert time.monotonic() < end
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
            target.bind(address)
            target.settimeout(20)
            client.send(b"to somebody")
            assert target.recv(100) == b"to somebody"


def test_a_new_target_gets_the_next_datagram(proxy: ForwarderClient, echo: tuple[str, int]) -> None:
    port = publish(proxy, "moved", echo)
    with connect(port) as client, _echo(bytes.upper) as other:
        client.send(b"a")
        assert client.recv(10) == b"a"
        proxy.retarget([("moved", *other)])
        client.send(b"a")
        assert client.recv(10) == b"A"


def test_a_withdrawn_port_is_closed(proxy: ForwarderClient, echo: tuple[str, int]) -> None:
    port = publish(proxy, "gone", echo)
    with connect(port) as client:
        client.send(b"a")
        assert client.recv(10) == b"a"
        proxy.withdraw(["gone"])
        client.send(b"a")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def _descriptors(proxy: ForwarderClient) -> int:
    return len(os.listdir(f"/proc/{proxy.ping()}/fd"))


def test_a_flood_of_clients_is_bounded_and_a_busy_one_stays(tmp_path: Path, echo: tuple[str, int]) -> None:
    with _proxy(tmp_path, "--udp-clients", "50") as proxy:
        port = publish(proxy, "flood", echo)
        before = _descriptors(proxy)
        with contextlib.ExitStack() as stack:
            busy = stack.enter_context(connect(port))
            for number in range(300):
                client = stack.enter_context(connect(port))  # left open: no two have one source port
                client.send(b"%d" % number)
                assert client.recv(10) == b"%d" % number
                busy.send(b"x")
                assert busy.recv(10) == b"x"
            stats = proxy.stats()["ports"]["flood"]
        assert stats["active"] == 50
        assert stats["connections"] == 301  # so the busy one was never forgotten
        assert _descriptors(proxy) <= before + 50


def test_idle_clients_are_forgotten(tmp_path: Path, echo: tuple[str, int]) -> None:
    with _proxy(tmp_path, "--udp-idle", "0.1") as proxy:
        port = publish(proxy, "idle", echo)
        before = _descriptors(proxy)
        with connect(port) as client:
            client.send(b"x")
            assert client.recv(10) == b"x"
            end = time.monotonic() + 20
            while proxy.stats()["ports"]["idle"]["active"]:
                assert time.monotonic() < end
                select.select([], [], [], 0.01)
            assert _descriptors(proxy) == before
            client.send(b"again")
            assert client.recv(10) == b"again"


def test_a_client_that_only_listens_is_not_forgotten_while_it_is_answered(tmp_path: Path) -> None:
    """A subscription: one datagram asks, and answers come for many times the idle time."""
    with _proxy(tmp_path, "--udp-idle", "0.2") as proxy, socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        server.settimeout(20)
        port = publish(proxy, "stream", server.getsockname())
        with connect(port) as client:
            client.send(b"subscribe")
            _, flow = server.recvfrom(100)
            end = time.monotonic() + 1.0
            count = 0
            while time.monotonic() < end:
                server.sendto(b"%d" % count, flow)
                assert client.recv(100) == b"%d" % count
                count += 1
                select.select([], [], [], 0.02)
            stats = proxy.stats()["ports"]["stream"]
        assert (stats["connections"], stats["active"]) == (1, 1)
