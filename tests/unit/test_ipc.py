"""Frames and descriptors between pynet's processes."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from pynet.netlib import ipc


@pytest.fixture
def pair() -> Iterator[tuple[ipc.Channel, ipc.Channel]]:
    a, b = socket.socketpair()
    left, right = ipc.Channel(a), ipc.Channel(b)
    yield left, right
    left.close()
    right.close()


def test_a_message_with_more_descriptors_than_one_sendmsg_takes(pair: tuple[ipc.Channel, ipc.Channel]) -> None:
    left, right = pair
    read, write = os.pipe()
    count = 2 * ipc.SCM_MAX_FD + 7
    thread = threading.Thread(target=left.send, args=({"op": "listen", "n": count}, [write] * count))
    thread.start()
    frame = right.receive()
    thread.join()
    assert frame is not None
    message, fds = frame
    assert message == {"op": "listen", "n": count}
    assert len(fds) == count
    os.write(fds[-1], b"x")
    assert os.read(read, 1) == b"x"
    for fd in [*fds, read, write]:
        os.close(fd)


def test_frames_keep_their_own_descriptors_when_they_arrive_together(pair: tuple[ipc.Channel, ipc.Channel]) -> None:
    left, right = pair
    pipes = [os.pipe() for _ in range(3)]
    left.send({"n": 0})
    left.send({"n": 1}, [pipes[1][1]])
    left.send({"n": 2}, [pipes[2][1], pipes[0][1]])
    for number, expected in enumerate((0, 1, 2)):
        frame = right.receive()
        assert frame is not None
        assert frame[0] == {"n": number}
        assert len(frame[1]) == expected
        for fd in frame[1]:
            os.close(fd)
    for pair_ in pipes:
        os.close(pair_[0])
        os.close(pair_[1])


def test_a_slow_reader_makes_the_queue_grow_and_flush_empties_it(pair: tuple[ipc.Channel, ipc.Channel]) -> None:
    left, right = pair
    left.sock.setblocking(False)
    right.sock.setblocking(False)
    sent = 0
    while left.queue({"n": sent, "pad": "x" * 4096}):
        sent += 1
    assert left.pending > 0
    got: list[int] = []
    while len(got) <= sent:
        frames, is_open = right.drain()
        assert is_open
        got += [frame["n"] for frame, _ in frames]
        left.flush()
    assert got == list(range(sent + 1))


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("!II", ipc.MAX_PAYLOAD + 1, 0),
        struct.pack("!II", 2, ipc.MAX_DESCRIPTORS + 1) + b"{}",
        struct.pack("!II", 2, 1) + b"{}",
        struct.pack("!II", 2, 0) + b"[]",
        struct.pack("!II", 2, 0) + b"{x",
        struct.pack("!II", 3, 0) + b"\xff\xff\xff",
    ],
    ids=["huge", "many descriptors", "missing descriptor", "no object", "no JSON", "no UTF-8"],
)
def test_what_is_no_frame_is_a_protocol_error(pair: tuple[ipc.Channel, ipc.Channel], raw: bytes) -> None:
    left, right = pair
    left.sock.sendall(raw)
    with pytest.raises(ipc.ProtocolError):
        right.receive()


def test_the_end_of_the_stream_is_none_and_inside_a_frame_an_error(pair: tuple[ipc.Channel, ipc.Channel]) -> None:
    left, right = pair
    left.send({"last": True})
    left.sock.sendall(b"\0\0")
    left.sock.shutdown(socket.SHUT_WR)
    assert right.receive() == ({"last": True}, [])
    with pytest.raises(ipc.ProtocolError):
        right.receive()
