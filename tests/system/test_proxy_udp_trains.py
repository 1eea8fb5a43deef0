"""UDP by the train: what a sender hands over by UDP_SEGMENT reaches the target and comes back as it was (udp(7))."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from pynet.proxy.dataplane import mmsg
from pynet.proxy.process.client import ForwarderClient, Listen
from pynet.proxy.process.launch import spawn

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForwarderClient]:
    run = tmp_path_factory.mktemp("run")
    process = spawn(str(run))
    assert process is not None
    client = ForwarderClient(str(run / "forwarder.sock"))
    client.ping()  # connected now, not by the first test that asks
    yield client
    client.shutdown()
    assert process.wait(10) == 0
    assert (run / "forwarder.log").read_text() == ""


def _socket(address: str = HOST) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.settimeout(20)
    return sock


def _publish(proxy: ForwarderClient, name: str, target: socket.socket, address: str = HOST) -> int:
    with _socket(address) as sock:
        sock.bind((address, 0))
        proxy.listen([Listen(name, "udp", HOST, target.getsockname()[1], sock)])
        return int(sock.getsockname()[1])


def _send_train(sock: socket.socket, data: bytes, size: int) -> None:
    sock.sendmsg([data], [(socket.IPPROTO_UDP, mmsg.UDP_SEGMENT, struct.pack("H", size))])


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


DATA = bytes(range(256)) * 120
"""30,720 bytes: 24 parts of 1,280, or 25 of 1,200 and a shorter one."""


def test_a_train_stays_a_train_both_ways(proxy: ForwarderClient) -> None:
    with _socket() as target, _socket() as client:
        target.bind((HOST, 0))
        mmsg.merge_trains(target)
        mmsg.merge_trains(client)
        client.connect((HOST, _publish(proxy, "whole", target)))
        whole = [(socket.IPPROTO_UDP, mmsg.UDP_GRO, struct.pack("i", 1200))]
        _send_train(client, DATA, 1200)
        data, control, _, address = target.recvmsg(65536, 100)
        assert data == DATA and control == whole
        target.connect(address)
        _send_train(target, DATA, 1200)
        data, control, _, _ = client.recvmsg(65536, 100)
        assert data == DATA and control == whole
    stats = proxy.stats()["ports"]["whole"]
    assert (stats["bytes_in"], stats["bytes_out"], stats["dropped"]) == (len(DATA), len(DATA), 0)


@pytest.mark.parametrize(
    ("bound", "used"), [(HOST, HOST), ("0.0.0.0", "127.0.0.66"), ("::", "::1"), ("::", "::ffff:127.0.0.67")]
)
def test_who_knows_no_trains_gets_every_datagram(proxy: ForwarderClient, bound: str, used: str) -> None:
    """Between single datagrams of the same client: one flow, one order, answered from the address that was used."""
    with _socket() as target, _socket(used) as client:
        target.bind((HOST, 0))
        client.connect((used, _publish(proxy, "single", target, bound)))
        for _ in range(8):  # so that trains have been in the places that datagrams use afterwards
            _send_train(client, DATA, 1200)
        assert b"".join(target.recv(65536) for _ in range(8 * len(_parts(DATA, 1200)))) == DATA * 8
        client.send(b"first")
        _send_train(client, DATA, 1200)
        client.send(b"")
        _send_train(client, DATA, 1280)
        client.send(b"last")
        wanted = [b"first", *_parts(DATA, 1200), b"", *_parts(DATA, 1280), b"last"]
        got: list[tuple[bytes, object]] = [target.recvfrom(65536) for _ in wanted]
        assert [data for data, _ in got] == wanted
        assert len({address for _, address in got}) == 1
        address = got[0][1]
        assert isinstance(address, tuple)
        target.sendto(b"before", address)
        target.sendmsg([DATA], [(socket.IPPROTO_UDP, mmsg.UDP_SEGMENT, struct.pack("H", 1000))], 0, address)
        answers = [b"before", *_parts(DATA, 1000)]
        assert [client.recv(65536) for _ in answers] == answers
    assert proxy.stats()["ports"]["single"]["connections"] == 1


def test_two_clients_with_trains_are_two_flows(proxy: ForwarderClient) -> None:
    with _socket() as target, _socket() as one, _socket() as two:
        target.bind((HOST, 0))
        port = _publish(proxy, "two", target)
        seen: dict[object, bytes] = {}

        def collect() -> None:
            for _ in range(2 * len(_parts(DATA, 1280))):
                data, address = target.recvfrom(65536)
                seen[address] = seen.get(address, b"") + data

        thread = threading.Thread(target=collect)
        thread.start()
        for client in (one, two):
            client.connect((HOST, port))
            _send_train(client, DATA, 1280)
        thread.join()
        assert list(seen.values()) == [DATA, DATA]


def test_a_train_that_no_system_call_takes_goes_part_by_part() -> None:
    """600 parts are more than UDP_MAX_SEGMENTS; the parts of 1 byte at the end are a part, too."""
    slots = mmsg.Slots()
    receiver = mmsg.Receiver(slots)
    with _socket() as here, _socket() as there, _socket() as load:
        there.bind((HOST, 0))
        load.connect(there.getsockname())
        load.send(DATA * 2)
        assert receiver.receive(there.fileno()) == 1
        here.connect(there.getsockname())
        train = mmsg.Train(slots)
        assert train.send(here.fileno(), 0, len(DATA) * 2, 102) == 603
        assert b"".join(there.recv(65536) for _ in range(603)) == DATA * 2


def test_a_train_to_nobody_is_lost_and_the_next_one_is_not(proxy: ForwarderClient) -> None:
    with _socket() as target:
        target.bind((HOST, 0))
        address = target.getsockname()
        port = _publish(proxy, "back", target)
    with _socket() as client:
        client.connect((HOST, port))
        _send_train(client, DATA, 1280)
        while proxy.stats()["ports"]["back"]["active"] == 0:
            pass
        with _socket() as target:
            target.bind(address)
            _send_train(client, DATA, 1280)
            assert b"".join(target.recv(65536) for _ in _parts(DATA, 1280)) == DATA
