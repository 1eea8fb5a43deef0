"""Frames and descriptors between pynet's processes."""

from __future__ import annotations

import os
import resource
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


# -- bounds --------------------------------------------------------------------------------------------------------

Pair = tuple[ipc.Channel, ipc.Channel]


def _frame(payload: bytes, count: int = 0) -> bytes:
    return struct.pack("!II", len(payload), count) + payload


@pytest.mark.parametrize(
    "payload", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
)
def test_deep_nesting_is_a_protocol_error_and_costs_no_descriptor(pair: Pair, payload: bytes) -> None:
    left, right = pair
    read, write = os.pipe()
    thread = threading.Thread(target=socket.send_fds, args=(left.sock, [_frame(payload, 1)], [write]))
    thread.start()
    with pytest.raises(ipc.ProtocolError, match="not a JSON object"):
        right.receive()
    thread.join()
    os.close(write)
    assert os.read(read, 1) == b""  # the one that came with it is closed
    os.close(read)


def test_what_can_not_be_said_is_a_protocol_error_and_the_next_message_goes(pair: Pair) -> None:
    left, right = pair
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    left.sock.setblocking(False)
    for wrong in ({"deep": deep}, {"long": "x" * ipc.MAX_PAYLOAD}):
        with pytest.raises(ipc.ProtocolError):
            left.queue(wrong)
    read, write = os.pipe()
    with pytest.raises(ipc.ProtocolError, match="too large"):
        left.queue({}, [write] * (ipc.MAX_DESCRIPTORS + 1))
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    assert left.queue({"next": 1})
    assert right.receive() == ({"next": 1}, [])
    while deep:  # freed by hand: the interpreter's own way is as deep
        deep = deep.pop()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def test_without_descriptors_a_message_is_not_sent_and_the_next_one_is(pair: Pair) -> None:
    left, right = pair
    left.sock.setblocking(False)
    read, write = os.pipe()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (write + 3, hard))
    try:
        with pytest.raises(ipc.TooFewDescriptors):
            left.queue({"n": 1}, [write] * 10)
        assert left.queue({"n": 2}, [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert right.receive() == ({"n": 2}, [])
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_more_descriptors_than_promised_are_an_error(pair: Pair) -> None:
    left, right = pair
    read, write = os.pipe()
    socket.send_fds(left.sock, [_frame(b"{}")], [write])
    with pytest.raises(ipc.ProtocolError, match="promises 0 descriptors and brings 1"):
        right.receive()
    right.close()
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_descriptors_without_an_end_are_an_error(pair: Pair) -> None:
    """A frame of which a byte comes at a time, each with as many as one takes."""
    left, right = pair
    right.sock.setblocking(False)
    start = struct.pack("!II", 1 << 20, ipc.MAX_DESCRIPTORS)
    socket.send_fds(left.sock, [start], [0] * ipc.SCM_MAX_FD)
    with pytest.raises(ipc.ProtocolError, match=r"more descriptors than a frame may carry|limit of open files"):
        for _ in range(ipc.MAX_DESCRIPTORS // ipc.SCM_MAX_FD + 1):
            socket.send_fds(left.sock, [b" "], [0] * ipc.SCM_MAX_FD)
            right.drain()
    held = len(right._fds)
    assert held <= ipc.MAX_DESCRIPTORS + ipc.SCM_MAX_FD
    before = len(os.listdir("/proc/self/fd"))
    right.close()
    assert len(os.listdir("/proc/self/fd")) == before - held - 1


def test_whole_frames_before_a_bad_one_are_the_last_that_a_stream_says(pair: Pair) -> None:
    left, right = pair
    right.sock.setblocking(False)
    read, write = os.pipe()
    left.send({"n": 1}, [write])
    left.sock.sendall(_frame(b"no JSON") + _frame(b'{"n":2}'))
    frames, is_open = right.drain()
    assert ([message for message, _ in frames], is_open) == ([{"n": 1}], False)
    for fd in frames[0][1]:
        os.close(fd)
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_half_a_frame_is_known_for_what_it_is(pair: Pair) -> None:
    left, right = pair
    right.sock.setblocking(False)
    whole = _frame(b'{"n":1}')
    assert not right.partial
    for byte in whole[:-1]:
        left.sock.sendall(bytes([byte]))
        assert right.drain() == ([], True)
        assert right.partial
    left.sock.sendall(whole[-1:])
    assert right.drain() == ([({"n": 1}, [])], True)
    assert not right.partial


def test_a_frame_in_many_short_writes_arrives_with_its_descriptors(pair: Pair) -> None:
    """A buffer of a few KiB takes a message of a MiB, and two groups of descriptors, bit by bit."""
    left, right = pair
    left.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    left.sock.setblocking(False)
    read, write = os.pipe()
    message = {"pad": "x" * (1 << 20)}
    is_sent = left.queue(message, [write] * (ipc.SCM_MAX_FD + 1))
    os.close(write)
    assert not is_sent and left.pending > 1 << 19
    right.sock.setblocking(False)
    got: list[tuple[ipc.Message, list[int]]] = []
    turns = 0
    while not got:
        frames, is_open = right.drain()
        assert is_open
        got += frames
        left.flush()
        turns += 1
    assert turns > 10 and left.pending == 0
    assert got[0][0] == message and len(got[0][1]) == ipc.SCM_MAX_FD + 1
    for fd in got[0][1]:
        os.close(fd)
    assert os.read(read, 1) == b""
    os.close(read)


def test_a_channel_closes_what_was_queued_and_what_was_not_taken(pair: Pair) -> None:
    left, right = pair
    left.sock.setblocking(False)
    read, write = os.pipe()
    while left.queue({"pad": "x" * 65536}, [write]):
        pass
    os.close(write)
    right.sock.recv(1)  # a frame is begun on the other side
    left.close()
    right.close()
    assert os.read(read, 1) == b""
    os.close(read)


def test_descriptors_arrive_close_on_exec(pair: Pair) -> None:
    """What a process holds for others is not for the programs that it starts."""
    left, right = pair
    left.send({}, [0])
    frame = right.receive()
    assert frame is not None
    assert not os.get_inheritable(frame[1][0])
    os.close(frame[1][0])


def test_a_blocking_send_in_short_writes_sends_its_descriptors_once(pair: Pair) -> None:
    left, right = pair
    left.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    left.sock.settimeout(20)  # a send of a socket with a timeout is as short as the buffer
    read, write = os.pipe()
    message = {"pad": "x" * (1 << 20)}
    thread = threading.Thread(target=left.send, args=(message, [write]))
    thread.start()
    frame = right.receive()
    thread.join()
    assert frame is not None and frame[0] == message
    assert len(frame[1]) == 1 and right._fds == []
    os.close(frame[1][0])
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
