"""The HTTP client against a real socket with a peer that writes what the test says."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from pynet.cli.client import DaemonError, checked, quote, target
from pynet.cli.http1 import BadResponse, Connection, ConnectionLost


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.settimeout(10)
        theirs.settimeout(10)
        yield Connection(mine), theirs


def test_a_request_as_it_travels(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    connection.send("POST", "/v1/x?a=b", b'{"a":1}', headers={"Content-Type": "application/json"})
    assert peer.recv(4096) == (
        b"POST /v1/x?a=b HTTP/1.1\r\nHost: pynet\r\nUser-Agent: pynet\r\n"
        b'Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
    )
    connection.send("GET", "/y")
    assert b"Content-Length" not in peer.recv(4096)
    connection.send("POST", "/y")
    assert b"Content-Length: 0\r\n" in peer.recv(4096)


def test_a_body_in_pieces_is_sent_in_chunks(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    connection.send("POST", "/x", iter([b"hello", b"", b"world!"]))
    head, _, body = peer.recv(4096).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"5\r\nhello\r\n6\r\nworld!\r\n0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1,2,3]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n4;x=y\r\n2,3]\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:7\r\n\r\n[1,2,3]",
    ],
)
def test_framed_bodies_leave_the_connection_usable(
    pair: tuple[Connection, socket.socket], raw: bytes, step: int
) -> None:
    connection, peer = pair

    def write() -> None:
        for start in range(0, len(raw), step):
            peer.sendall(raw[start : start + step])

    for _ in range(2):
        # a socket pair holds few messages, however small: somebody has to read meanwhile
        writer = threading.Thread(target=write)
        writer.start()
        assert connection.receive().json() == [1, 2, 3]
        writer.join()
        assert connection.reusable


def test_a_body_until_the_end_of_the_connection(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nabc")
    peer.shutdown(socket.SHUT_WR)
    assert connection.receive().read() == b"abc"
    assert not connection.reusable


def test_a_body_until_the_end_of_a_connection_that_broke(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    connection.send("GET", "/x")
    peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nabc")
    peer.close()  # with the request unread: a reset, which is no orderly end
    with pytest.raises(ConnectionLost):
        connection.receive().read()


def test_answers_without_a_body(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n")
    assert connection.receive().json() is None
    assert connection.receive().read() == b""
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    assert connection.receive(head_only=True).read() == b""


def test_an_upgrade_hands_over_what_came_with_it(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    peer.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n\x01\x00")
    assert connection.receive().status == 101
    assert connection.leftover() == b"\x01\x00"


def test_objects_are_seen_as_soon_as_they_are_complete(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    objects = connection.receive().objects()
    text = '{"a":"é"}{"b":\n2}\r\n'.encode()
    peer.sendall(b"9\r\n" + text[:9] + b"\r\n")
    peer.sendall(b"%x\r\n" % len(text[9:12]) + text[9:12] + b"\r\n")
    assert next(objects) == {"a": "é"}
    peer.sendall(b"%x\r\n" % len(text[12:]) + text[12:] + b"\r\n0\r\n\r\n")
    assert list(objects) == [{"b": 2}]


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"x" * 70000,
    ],
)
def test_what_is_not_the_protocol_is_refused(pair: tuple[Connection, socket.socket], raw: bytes) -> None:
    connection, peer = pair
    peer.sendall(raw)
    with pytest.raises(BadResponse) as caught:
        connection.receive().json()
    assert caught.value.hint


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na",
    ],
)
def test_an_answer_that_breaks_off(pair: tuple[Connection, socket.socket], raw: bytes) -> None:
    connection, peer = pair
    peer.sendall(raw)
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLost):
        connection.receive().read()
    assert not connection.reusable


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Text\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def test_errors_of_the_engine(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    peer.sendall(answer(404, json.dumps({"message": "No such container: x"}).encode()))
    with pytest.raises(DaemonError, match=r"^Error response from daemon: No such container: x$") as caught:
        checked(connection.receive())
    assert caught.value.http_status == 404
    assert caught.value.hint == ""
    peer.sendall(answer(409, json.dumps({"message": "no", "hint": "do this"}).encode()))
    with pytest.raises(DaemonError) as caught:
        checked(connection.receive())
    assert caught.value.hint == "do this"
    peer.sendall(answer(500, b"plain text"))
    with pytest.raises(DaemonError, match="plain text"):
        checked(connection.receive())


def test_targets() -> None:
    assert target("/x") == "/v1.51/x"
    query = {"a": True, "b": False, "c": None, "d": "", "e": 0, "filters": {"k": ["v w"]}, "empty": {}}
    assert target("/x", query) == "/v1.51/x?a=1&e=0&filters=%7B%22k%22%3A%5B%22v%20w%22%5D%7D"
    assert quote("a/b:ü", b"/:") == "a/b:%C3%BC"


def test_whether_a_request_can_have_been_carried_out(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    connection.send("POST", "/x")
    assert connection.is_open()
    peer.recv(10)
    peer.close()  # with the rest unread
    with pytest.raises(ConnectionLost) as caught:
        connection.receive()
    assert (caught.value.unsent, caught.value.unanswered) == (True, True)
    assert not connection.is_open()
    with pytest.raises(ConnectionLost) as caught:
        connection.send("POST", "/x")
    assert caught.value.unsent


def test_a_request_that_was_read_may_have_been_carried_out(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    connection.send("POST", "/x")
    peer.recv(4096)
    peer.close()
    with pytest.raises(ConnectionLost) as caught:
        connection.receive()
    assert (caught.value.unsent, caught.value.unanswered) == (False, True)


def test_who_refuses_a_body_is_heard_before_its_close(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair

    def pieces() -> Iterator[bytes]:
        yield b"x" * 10
        peer.recv(4096)
        peer.sendall(answer(400, b'{"message": "no archive"}'))
        peer.close()
        for _ in range(3):
            asked.append(None)
            yield b"x" * 10

    asked: list[None] = []
    connection.send("POST", "/x", pieces())
    with pytest.raises(DaemonError, match="no archive"):
        checked(connection.receive())
    assert len(asked) == 1, "what nobody takes is not read"
