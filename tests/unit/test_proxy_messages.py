"""What is said on a control connection: pages, tags, refusals; and the two askers that are made of it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pynet.netlib import ipc
from pynet.netlib.control import questions
from pynet.netlib.control.link import Broken, Link
from pynet.netlib.control.server import DONE, Answer, Caller, Server
from pynet.netlib.errors import (
    Conflict,
    InternalError,
    InvalidArgument,
    NotFound,
    NotSupported,
    PynetError,
    Unavailable,
)
from pynet.proxy import ports
from pynet.proxy.process import messages


class _Port(NamedTuple):
    id: str
    proto: str = "tcp"
    target_ip: str = "10.0.0.2"
    target_port: int = 80
    drain: float | None = None

    def fileno(self) -> int:
        return int(self.id)


@pytest.mark.parametrize(("count", "pages"), [(0, [0]), (1, [1]), (3, [3]), (4, [3, 1]), (9, [3, 3, 3])])
def test_a_listen_is_one_frame_or_pages_of_one_batch(count: int, pages: list[int]) -> None:
    frames = messages.listen([_Port(str(number)) for number in range(count)], 3)
    assert [len(message["ports"]) for message, _ in frames] == pages
    assert [fd for _, fds in frames for fd in fds] == list(range(count))
    if len(frames) == 1:
        assert "batch" not in frames[0][0] and "more" not in frames[0][0]
    else:
        assert len({message["batch"] for message, _ in frames}) == 1
        assert [message.get("more", False) for message, _ in frames] == [True] * (len(frames) - 1) + [False]
        assert messages.listen([_Port("0")] * 4, 3)[0][0]["batch"] != frames[0][0]["batch"]


def test_pages_follow_each_other_by_the_last_id() -> None:
    held = {f"p{number}": number for number in range(10)}
    seen: list[str] = []
    after: str | None = None
    while True:
        question = messages.page_of("fetch", after, 3)
        ids, more = ports.page_of_ids(held, *ports.parse_page(question))
        seen += ids
        after = messages.next_page({"ports": [{"id": id} for id in ids]} | ({"more": True} if more else {}))
        held.pop(seen[0], None)  # one that goes away between two pages is no end
        if after is None:
            break
    assert seen == [f"p{number}" for number in range(10)]
    assert messages.next_page({"ports": {"a": 1, "b": 2}, "more": True}) == "b"
    with pytest.raises(InternalError):
        messages.next_page({"ports": [], "more": True})  # or it would be asked for ever


@pytest.mark.parametrize(
    ("after", "limit", "page"),
    [
        ("", 2, (["a", "b"], True)),
        ("", 3, (["a", "b", "c"], False)),
        ("b", 1, (["c"], False)),
        ("c", 1, ([], False)),
        ("", None, (["a", "b", "c"], False)),
    ],
)
def test_a_page_says_whether_there_are_more(after: str, limit: int | None, page: tuple[list[str], bool]) -> None:
    assert ports.page_of_ids(["c", "a", "b"], after, limit) == page


def test_descriptors_of_an_answer_that_nobody_wants_are_closed() -> None:
    read, write = os.pipe()
    assert questions.result(({"ok": True}, [write]), takes_descriptors=True) == ({"ok": True}, [write])
    assert questions.result(({"ok": True}, [write])) == ({"ok": True}, [])
    assert os.read(read, 1) == b""
    os.close(read)


@pytest.mark.parametrize("kind", [InvalidArgument, NotFound, Conflict, NotSupported])
def test_a_refusal_is_the_error_that_it_names(kind: type[PynetError]) -> None:
    read, write = os.pipe()
    with pytest.raises(kind, match=r"^why$") as caught:
        questions.result(({"ok": False, "error": "why", "class": kind.__name__, "hint": "so"}, [write]))
    assert caught.value.hint == "so"
    assert os.read(read, 1) == b""  # it brought a descriptor, which is closed
    os.close(read)


@pytest.mark.parametrize("reply", [{}, {"ok": 1}, {"ok": False, "class": "SystemExit"}, {"ok": "true"}])
def test_what_is_no_answer_is_an_internal_error(reply: ipc.Message) -> None:
    with pytest.raises(InternalError):
        questions.result((reply, []))


# -- threads -------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[], ipc.Channel]]:
    """Accepts the next connection at ``tmp_path / "sock"``."""
    with ipc.listen(str(tmp_path / "sock")) as listener:
        listener.settimeout(20)
        channels: list[ipc.Channel] = []

        def accept() -> ipc.Channel:
            channels.append(ipc.Channel(listener.accept()[0]))
            channels[-1].sock.settimeout(20)
            return channels[-1]

        yield accept
        for channel in channels:
            channel.close()


class _Asking(threading.Thread):
    def __init__(self, link: Link, question: str) -> None:
        super().__init__()
        self._link, self._question = link, question
        self.answer: object = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._link.request({"op": self._question}, [])[0]["said"]
        except Broken as error:
            self.answer = error


def _next(channel: ipc.Channel) -> ipc.Message:
    frame = channel.receive()
    assert frame is not None
    return frame[0]


def test_no_thread_waits_for_anothers_answer(tmp_path: Path, served: Callable[[], ipc.Channel]) -> None:
    link = Link(str(tmp_path / "sock"), 20)
    channel = served()
    first = _Asking(link, "slow")
    slow = _next(channel)
    for number in range(20):
        quick = _Asking(link, "quick")
        question = _next(channel)
        channel.send({"ok": True, "said": number, "tag": question["tag"]})
        quick.join(20)  # while the first one is still the one that reads
        assert quick.answer == number
    second = _Asking(link, "later")
    later = _next(channel)
    channel.send({"ok": True, "said": "slow", "tag": slow["tag"]})
    first.join(20)
    channel.send({"ok": True, "said": "later", "tag": later["tag"]})  # the reading went on to the one that is left
    second.join(20)
    assert (first.answer, second.answer) == ("slow", "later")
    link.close()


def test_the_end_is_told_to_all_who_wait(tmp_path: Path, served: Callable[[], ipc.Channel]) -> None:
    link = Link(str(tmp_path / "sock"), 20)
    channel = served()
    asking = [_Asking(link, str(number)) for number in range(5)]
    for _ in asking:
        _next(channel)
    channel.sock.shutdown(socket.SHUT_RDWR)
    for thread in asking:
        thread.join(20)
        assert isinstance(thread.answer, Broken) and not thread.answer.is_late
    assert link.is_broken
    with pytest.raises(Broken):
        link.request({"op": "again"}, [])
    assert link._channel.fileno() == -1


def test_closing_wakes_who_waits_and_only_then_gives_the_descriptor_up(
    tmp_path: Path, served: Callable[[], ipc.Channel]
) -> None:
    link = Link(str(tmp_path / "sock"), 20)
    channel = served()
    asking = _Asking(link, "x")
    _next(channel)
    link.close()
    asking.join(20)
    assert isinstance(asking.answer, Broken)
    assert link._channel.fileno() == -1


def test_an_answer_that_does_not_come_in_time_is_late(tmp_path: Path, served: Callable[[], ipc.Channel]) -> None:
    link = Link(str(tmp_path / "sock"), 0.1)
    channel = served()
    with pytest.raises(Broken) as caught:
        link.request({"op": "x"}, [])
    assert caught.value.is_late
    # half of one is none
    link = Link(str(tmp_path / "sock"), 0.1)
    channel = served()
    channel.sock.sendall(b"\0\0\0\5\0\0\0\0{")
    with pytest.raises(Broken) as caught:
        link.request({"op": "x"}, [])
    assert caught.value.is_late
    assert link._channel.fileno() == -1


def test_an_answer_that_comes_for_nobody_loses_its_descriptors(
    tmp_path: Path, served: Callable[[], ipc.Channel]
) -> None:
    link = Link(str(tmp_path / "sock"), 20)
    channel = served()
    read, write = os.pipe()
    asking = _Asking(link, "x")
    question = _next(channel)
    channel.send({"ok": True, "said": 1, "tag": 99}, [write])
    os.close(write)
    channel.send({"ok": True, "said": 2, "tag": question["tag"]})
    asking.join(20)
    assert asking.answer == 2
    assert os.read(read, 1) == b""
    os.close(read)
    link.close()


def test_a_message_that_is_too_large_is_the_callers_and_breaks_nothing(
    tmp_path: Path, served: Callable[[], ipc.Channel]
) -> None:
    link = Link(str(tmp_path / "sock"), 20)
    channel = served()
    with pytest.raises(InvalidArgument, match="too large"):
        link.request({"op": "x" * ipc.MAX_PAYLOAD}, [])
    asking = _Asking(link, "x")
    channel.send({"ok": True, "said": "well", "tag": _next(channel)["tag"]})
    asking.join(20)
    assert asking.answer == "well"
    link.close()


# -- the answering side --------------------------------------------------------------------------------------------


class _Serving:
    """A server of one connection, in this loop."""

    def __init__(self, patience: float = 20) -> None:
        self.ended = asyncio.Event()
        self.server = Server(asyncio.get_running_loop(), None, patience)
        self.server.operations["echo"] = lambda caller, message, fds: Answer({"said": message["say"]}, [])
        self.ours, its = socket.socketpair()
        self.ours.setblocking(False)
        self.server.adopt(its, self.ended.set)

    def close(self) -> None:
        self.server.close()
        self.ours.close()


async def _receive(sock: socket.socket) -> ipc.Message:
    channel = ipc.Channel(sock)
    while True:
        await asyncio.get_running_loop().run_in_executor(None, _readable, sock)
        frames, is_open = channel.drain()
        assert is_open
        if frames:
            ((message, _),) = frames
            return message


def _readable(sock: socket.socket) -> None:
    import select

    assert select.select([sock], [], [], 20)[0]


async def test_half_a_frame_is_waited_for_and_then_not_any_more(capfd: pytest.CaptureFixture[str]) -> None:
    serving = _Serving(patience=0.05)
    serving.ours.sendall(b"\0\0\0\5\0\0\0\0{")
    await asyncio.wait_for(serving.ended.wait(), 20)
    assert serving.ours.recv(1) == b""
    assert "no end of a frame for 0.05 s" in capfd.readouterr().err
    serving.close()


async def test_patience_is_for_each_frame_and_not_for_the_connection() -> None:
    serving = _Serving(patience=0.3)
    frame = b'\0\0\0\x17\0\0\0\0{"op":"echo","say":123}'
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.7
    serving.ours.sendall(frame[:9])
    while loop.time() < end:  # the end of one and the beginning of the next, for longer than the patience
        serving.ours.sendall(frame[9:] + frame[:9])
        assert (await _receive(serving.ours))["said"] == 123
    assert not serving.ended.is_set()
    serving.close()


async def test_a_tag_that_can_not_go_back_ends_its_connection_alone() -> None:
    serving = _Serving()
    serving.ours.sendall(b'\0\0\0\x17\0\0\0\0{"op":"echo","say":"x"}')
    assert (await _receive(serving.ours))["said"] == "x"
    deep = b"[" * 900 + b"]" * 900
    payload = b'{"op":"echo","say":1,"tag":' + deep + b"}"
    serving.ours.sendall(len(payload).to_bytes(4, "big") + bytes(4) + payload)
    # it is answered, refused or closed, whatever the depth that the interpreter has left; nothing is raised
    await asyncio.get_running_loop().run_in_executor(None, _readable, serving.ours)
    serving.close()


async def test_an_answer_that_is_no_frame_is_a_refusal() -> None:
    serving = _Serving()
    serving.server.operations["huge"] = lambda caller, message, fds: Answer({"x": "x" * ipc.MAX_PAYLOAD}, [])
    for question, accepted in ((b'{"op":"huge","tag":7}', False), (b'{"op":"echo","say":1}', True)):
        serving.ours.sendall(len(question).to_bytes(4, "big") + bytes(4) + question)
        answer = await _receive(serving.ours)
        assert answer["ok"] is accepted
        assert accepted or (answer["class"], answer["tag"]) == ("InvalidArgument", 7)
    serving.close()


async def test_a_bug_in_an_operation_is_answered_and_its_descriptors_are_closed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    serving = _Serving()

    def broken(caller: Caller, message: ipc.Message, fds: list[int]) -> Answer:
        raise KeyError("a bug")

    serving.server.operations["broken"] = broken
    serving.server.operations["fine"] = lambda caller, message, fds: DONE
    for op in ("broken", "fine", "nonesuch"):
        read, write = os.pipe()
        ipc.Channel(serving.ours).send({"op": op}, [write])
        os.close(write)
        assert (await _receive(serving.ours))["ok"] is (op == "fine")
        assert os.read(read, 1) == b""
        os.close(read)
    assert "'a bug'" in capfd.readouterr().err
    serving.close()


def test_a_client_that_is_alone_says_so(tmp_path: Path) -> None:
    from pynet.proxy.process.client import ForwarderClient

    client = ForwarderClient(str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="No such file"):
        client.stats()
    client.close()
