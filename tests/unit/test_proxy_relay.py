"""The relay by itself: whole connections between sockets that the test holds, one turn of the lane at a time."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from pynet.proxy.dataplane.lane import Lane
from pynet.proxy.dataplane.pipes import PipePool
from pynet.proxy.dataplane.relay import Connection, Relay, Socket

ELEPHANT = 1 << 20


class _Owner:
    def connected(self, connection: Connection) -> None:
        raise AssertionError("it was established")

    def ended(self, connection: Connection, how: str) -> None:
        raise AssertionError(f"it ended: {how}")


class _Taker:
    """Takes nothing, and keeps what was in our hands whenever it was offered a connection."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def take(self, connection: Connection) -> bool:
        ways = (connection.up, connection.down)
        self.held.append(sum(way.in_pipe + len(way.rest or b"") for way in ways))
        return False


@pytest.fixture
def lane() -> Iterator[Lane]:
    with Lane() as lane:
        yield lane


def _pair(*, is_small: bool) -> tuple[socket.socket, Socket]:
    """What a peer holds, and our end, which takes a few KiB at a time if it is to be small."""
    theirs, ours = socket.socketpair()
    if is_small:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.setblocking(False)
    ours.setblocking(False)
    return theirs, Socket(ours.family, ours.type, ours.proto, ours.detach())


@pytest.mark.parametrize("elephant_is", ["client", "target"])
def test_a_connection_is_offered_to_a_worker_with_no_byte_in_our_hands(lane: Lane, elephant_is: str) -> None:
    """One direction is bulk while a few bytes of the other wait for a peer that does not read yet."""
    taker = _Taker()
    relay = Relay(lane, PipePool(), taker, ELEPHANT)
    with contextlib.ExitStack() as stack:
        client, client_end = _pair(is_small=elephant_is == "client")
        target, target_end = _pair(is_small=elephant_is == "target")
        for sock in (client, target):
            stack.enter_context(sock)
        connection = Connection(relay, client_end, target_end, _Owner(), established=True)
        connection.start()
        sender, reader = (client, target) if elephant_is == "client" else (target, client)
        waiting = connection.down if elephant_is == "client" else connection.up
        little = bytes(range(256)) * 200
        assert reader.send(little) == len(little)
        while waiting.rest is None:
            lane.select(0)

        sent = got = 0
        while got < 4 * ELEPHANT:
            with contextlib.suppress(BlockingIOError):
                sent += sender.send(bytes(1 << 18))
            lane.select(0)
            with contextlib.suppress(BlockingIOError):
                while data := reader.recv(1 << 18):
                    got += len(data)
        assert waiting.rest is not None
        assert taker.held == []  # it is over the size, and was not offered

        answer = b""
        while len(answer) < len(little):
            lane.select(0)
            with contextlib.suppress(BlockingIOError):
                answer += sender.recv(1 << 18)
        assert answer == little
        while not taker.held:
            with contextlib.suppress(BlockingIOError):
                sent += sender.send(bytes(1 << 18))
            lane.select(0)
            with contextlib.suppress(BlockingIOError):
                while data := reader.recv(1 << 18):
                    got += len(data)
        assert set(taker.held) == {0}
        connection.owner = _Ends()
        relay.abort(connection)


class _Ends(_Owner):
    def ended(self, connection: Connection, how: str) -> None:
        pass
