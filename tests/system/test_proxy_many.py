"""More ports than a frame carries descriptors: everything that tells of ports does so in pages."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib import ipc
from pynet.netlib.controller import Controller
from pynet.netlib.errors import InvalidArgument
from pynet.proxy.process.client import ForwarderClient, Listen
from pynet.proxy.process.launch import replace, spawn

from support.waiting import until

HOST = "127.0.0.1"
MANY = ipc.MAX_DESCRIPTORS + 700


@pytest.fixture(scope="module")
def many_files() -> Iterator[None]:
    """Enough of them for one copy of every port's socket, here and, by the same limit, in the forwarder."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY + 500:
        pytest.skip(f"{MANY} sockets need a hard limit of open files above {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def run(tmp_path: Path, many_files: None) -> Iterator[Path]:
    process = spawn(str(tmp_path / "run"))
    assert process is not None
    yield tmp_path / "run"
    ForwarderClient(str(tmp_path / "run/forwarder.sock")).shutdown()
    assert process.wait(20) == 0


@pytest.fixture
def client(run: Path) -> Iterator[ForwarderClient]:
    client = ForwarderClient(str(run / "forwarder.sock"), 60)
    client.ping()  # connected, before a fixture counts descriptors
    yield client
    client.close()


def _close(ports: list[Listen]) -> list[str]:
    for port in ports:
        port.close()
    return [port.id for port in ports]


def test_more_ports_than_a_frame_carries_are_served_fetched_and_told(run: Path, client: ForwarderClient) -> None:
    ids = sorted(f"p{number}" for number in range(MANY))
    with socket.create_server((HOST, 0)) as sock, socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        # many ids of one socket: the forwarder has a descriptor for each, and we have one
        client.listen(Listen(name, "tcp", HOST, target.getsockname()[1], sock, 7.0) for name in ids)
        held = client.fetch()
        assert all(isinstance(port.sock, socket.socket) for port in held)
        assert (held[-1].target_port, held[-1].drain) == (target.getsockname()[1], 7.0)
        assert _close(held) == ids
        assert sorted(client.stats()["ports"]) == ids
        with socket.create_connection(sock.getsockname(), timeout=20) as one, target.accept()[0] as peer:
            one.sendall(b"x")
            assert peer.recv(1) == b"x"
        client.withdraw(ids[1:])
        assert list(client.stats()["ports"]) == _close(client.fetch()) == ids[:1]


def is_free(address: tuple[str, int]) -> bool:
    try:
        with socket.create_server(address):
            return True
    except OSError:
        return False


def test_a_bad_port_in_the_last_page_and_nothing_is_served(run: Path, client: ForwarderClient) -> None:
    before = len(os.listdir(f"/proc/{client.ping()}/fd"))
    with socket.create_server((HOST, 0)) as sock, socket.socket(type=socket.SOCK_DGRAM) as other:
        good = [Listen(f"p{number}", "tcp", HOST, 9, sock) for number in range(1200)]
        for bad in (Listen("bad", "tcp", HOST, 9, other), Listen("bad", "tcp", HOST, 0, sock), good[0]):
            with pytest.raises(InvalidArgument):
                client.listen([*good, bad])
            assert client.fetch() == []
    # what was begun and will not be finished ends with its connection
    with socket.create_server((HOST, 0)) as sock:
        channel = ipc.connect(str(run / "forwarder.sock"), 20)
        entry = {"id": "x", "proto": "tcp", "target": [HOST, 9]}
        for batch in range(9):
            channel.send({"op": "listen", "batch": batch, "more": True, "ports": [entry]}, [sock.fileno()])
            assert channel.receive() == ({"ok": True}, [])
        assert len(os.listdir(f"/proc/{client.ping()}/fd")) < before + 9  # and begun ones are bounded
        channel.close()
        address = sock.getsockname()
    assert client.fetch() == []
    until(lambda: is_free(address), "it is held on")


def test_who_asks_for_everything_at_once_is_told_that_it_is_too_much(run: Path, client: ForwarderClient) -> None:
    with socket.create_server((HOST, 0)) as sock:
        client.listen(Listen(f"p{number}", "tcp", HOST, 9, sock) for number in range(MANY))
        channel = ipc.connect(str(run / "forwarder.sock"), 20)
        channel.send({"op": "fetch", "tag": 1})
        answer = channel.receive()
        assert answer is not None
        assert (answer[0]["ok"], answer[0]["class"], answer[0]["tag"], answer[1]) == (False, "InvalidArgument", 1, [])
        channel.send({"op": "ping"})  # the connection lives on
        assert channel.receive() is not None
        channel.close()


def test_a_controller_starts_over_more_ports_than_a_frame_carries(
    client: ForwarderClient, start_controller: Callable[..., Controller]
) -> None:
    """What is no port of its own is named, and withdrawn by a repair; before, it could never start again."""
    with socket.create_server((HOST, 0)) as sock:
        client.listen(Listen(f"p{number}", "tcp", HOST, 9, sock) for number in range(MANY))
        controller = start_controller(proxy=client)
        assert len(controller.check()) == MANY
        controller.repair()
        assert controller.check() == []
        assert client.fetch() == []


def test_a_forwarder_of_more_ports_than_a_frame_carries_is_replaced(tmp_path: Path, many_files: None) -> None:
    first = spawn(str(tmp_path))
    assert first is not None
    client = ForwarderClient(str(tmp_path / "forwarder.sock"), 60)
    with socket.create_server((HOST, 0)) as sock:
        client.listen(Listen(f"p{number}", "tcp", HOST, 9, sock) for number in range(MANY))
    second = replace(str(tmp_path), timeout=60)
    assert second is not None
    assert first.wait(20) == 0
    assert client.ping() == second.pid
    assert len(client.stats()["ports"]) == MANY
    client.shutdown()
    assert second.wait(20) == 0


@pytest.mark.parametrize("question", [{"op": "fetch"}, {"op": "stats"}])
@pytest.mark.parametrize("page", [{"limit": 0}, {"limit": "1"}, {"limit": 10_001}, {"after": 7}, {"after": "x" * 257}])
def test_a_page_is_asked_for_in_bounds(tmp_path: Path, question: dict[str, Any], page: dict[str, Any]) -> None:
    process = spawn(str(tmp_path))
    assert process is not None
    channel = ipc.connect(str(tmp_path / "forwarder.sock"), 20)
    channel.send(question | page)
    answer = channel.receive()
    assert answer is not None and answer[0]["class"] == "InvalidArgument"
    channel.send({"op": "shutdown"})
    channel.close()
    assert process.wait(20) == 0
