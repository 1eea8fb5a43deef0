"""The asking side of a control connection: answers find their questions, and an end is told to all who wait."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from pynet.netlib.errors import Unavailable
from pynet.netlib.ipc import Channel
from pynet.proxy.process.peer import Peer


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    ours, its = socket.socketpair()
    its.settimeout(20)
    channel = Channel(its)
    with ours:
        yield ours, channel
        channel.close()


async def test_answers_find_their_questions_in_any_order(ends: tuple[socket.socket, Channel]) -> None:
    peer = Peer(asyncio.get_running_loop(), ends[0])
    first, second = peer.request({"op": "a"}), peer.request({"op": "b"})
    asked = [ends[1].receive(), ends[1].receive()]
    for frame in reversed(asked):
        assert frame is not None
        ends[1].send({"ok": True, "to": frame[0]["op"], "tag": frame[0]["tag"]})
    assert (await second)[0] == {"ok": True, "to": "b"}
    assert (await first)[0] == {"ok": True, "to": "a"}
    peer.close()


async def test_answers_that_nobody_waits_for_lose_their_descriptors(ends: tuple[socket.socket, Channel]) -> None:
    peer = Peer(asyncio.get_running_loop(), ends[0])
    peer.request({"op": "a"}).cancel()
    asked = peer.request({"op": "b"})
    read, write = os.pipe()
    for message in ({"tag": 1}, {"tag": 99}, {}, {"tag": None}):
        ends[1].send(message, [write])
    os.close(write)
    ends[1].send({"tag": 2}, [])
    await asked
    assert os.read(read, 1) == b""
    os.close(read)
    peer.close()


@pytest.mark.parametrize("goodbye", [b"", b"\xff" * 8])
async def test_an_end_fails_what_waits_and_what_comes(ends: tuple[socket.socket, Channel], goodbye: bytes) -> None:
    ended = asyncio.Event()
    peer = Peer(asyncio.get_running_loop(), ends[0], ended.set)
    waiting = peer.request({"op": "a"})
    ends[1].sock.sendall(goodbye)
    if not goodbye:
        ends[1].close()
    with pytest.raises(Unavailable):
        await waiting
    await asyncio.wait_for(ended.wait(), 20)
    with pytest.raises(Unavailable):
        await peer.request({"op": "b"})


async def test_more_than_a_socket_takes_is_sent_as_it_is_read(ends: tuple[socket.socket, Channel]) -> None:
    peer = Peer(asyncio.get_running_loop(), ends[0])
    waiting = peer.request({"op": "a", "data": "x" * (4 << 20)})

    def answer() -> int:
        frame = ends[1].receive()
        assert frame is not None
        ends[1].send({"tag": frame[0]["tag"]})
        return len(frame[0]["data"])

    assert await asyncio.to_thread(answer) == 4 << 20
    await waiting
    loop = asyncio.get_running_loop()
    assert not loop.remove_writer(ends[0].fileno()), "a socket that takes more would wake the loop at every turn"
    peer.close()
