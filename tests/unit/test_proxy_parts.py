"""The forwarder's parts by themselves: the lane under asyncio, pipes, batches of datagrams, the guard."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.netlib.errors import InvalidArgument, NotFound
from pynet.proxy.dataplane import mmsg
from pynet.proxy.dataplane.lane import Lane
from pynet.proxy.dataplane.pipes import PipePool
from pynet.proxy.dataplane.udp import Clients
from pynet.proxy.process.guard import Guard, start_time
from pynet.proxy.process.options import Options, parser

from support.waiting import PATIENCE


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


def _run(lane: Lane, main: object) -> None:
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
        runner.run(main)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_asyncio_runs_on_the_lane(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Timers, threads, streams and a lane handler at the same time."""
    left, right = sockets
    lane = Lane()
    seen: list[bytes] = []

    async def main() -> None:
        lane.add(left.fileno(), select.EPOLLIN, lambda events: seen.append(left.recv(10)))
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            right.send(b"lane")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        timer = asyncio.Event()
        loop.call_later(0.01, timer.set)
        await timer.wait()
        assert await loop.run_in_executor(None, os.getpid) == os.getpid()

    _run(lane, main())
    assert seen == [b"lane"]


def test_a_timer_made_in_a_handler_is_noticed(sockets: tuple[socket.socket, socket.socket]) -> None:
    """The loop waits without a limit when a handler makes its first timer."""
    left, right = sockets
    lane = Lane()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def handler(events: int) -> None:
            left.recv(10)
            loop.call_later(0.01, done.set)
            lane.wake = True

        lane.add(left.fileno(), select.EPOLLIN, handler)
        right.send(b"x")
        await done.wait()

    _run(lane, main())


def test_asyncio_is_told_what_a_descriptor_is_ready_for_and_no_more(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    left, right = sockets
    with Lane() as lane:
        lane.register(left, selectors.EVENT_READ | selectors.EVENT_WRITE)
        try:
            while True:
                left.send(bytes(65536))
        except BlockingIOError:
            pass
        right.send(b"x")
        ((_, events),) = lane.select(20)
        assert events == selectors.EVENT_READ
        left.recv(10)
        while right.recv(1 << 20, socket.MSG_PEEK):
            right.recv(1 << 20)
            if select.select([], [left], [], 0)[1]:
                break
        ((_, events),) = lane.select(20)
        assert events == selectors.EVENT_WRITE
        lane.unregister(left)


def test_ready_work_runs_after_all_events_of_the_turn(sockets: tuple[socket.socket, socket.socket]) -> None:
    """So a descriptor that is made there can not meet an event that was meant for its predecessor."""
    left, right = sockets
    order: list[str] = []
    with Lane() as lane:

        def handler(events: int) -> None:
            order.append("event")
            lane.ready.append(lambda: order.append("ready"))
            lane.stop()

        for sock in sockets:
            lane.add(sock.fileno(), select.EPOLLIN, handler)
        left.send(b"x")
        right.send(b"x")
        lane.run()
    assert order == ["event", "event", "ready", "ready"]


def test_a_descriptor_belongs_to_one_side(sockets: tuple[socket.socket, socket.socket]) -> None:
    left, _ = sockets
    with Lane() as lane:
        lane.add(left.fileno(), select.EPOLLIN, lambda events: None)
        with pytest.raises(KeyError):
            lane.register(left, 1)
        lane.remove(left.fileno())
        lane.register(left, 1)
        assert lane.get_key(left).events == 1
        lane.modify(left, 2, "data")
        assert lane.get_map()[left.fileno()].data == "data"
        lane.unregister(left)
        assert not lane.get_map()


def test_pipes_are_pooled_and_bounded() -> None:
    pool = PipePool(limit=2)
    first, second = pool.borrow(), pool.borrow()
    assert first is not None
    assert second is not None
    assert pool.borrow() is None
    pool.give_back(first)
    assert pool.borrow() == first
    pool.discard(second)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(second[0])
    assert pool.count == 1
    pool.give_back(first)
    pool.close()
    assert pool.count == 0


def test_datagrams_travel_in_batches_and_keep_their_lengths() -> None:
    lengths = (0, 1, 64, 65507, 0, 1400)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, socket.socket(type=socket.SOCK_DGRAM) as here:
        there.bind(("127.0.0.1", 0))
        here.connect(there.getsockname())
        for length in lengths:
            here.send(b"x" * length)
        slots = mmsg.Slots()
        receiver, sender = mmsg.Receiver(slots, mmsg.IPV4), mmsg.Sender(slots, mmsg.IPV4)
        assert receiver.receive(there.fileno()) == len(lengths)
        assert receiver.lengths(len(lengths)) == lengths
        records = receiver.records(len(lengths))
        assert records == records[:16] * len(lengths)
        slots.aim(1, lengths[1:4])
        sender.to(records[:16])
        assert sender.send(there.fileno(), 3) == 3
        here.settimeout(PATIENCE)
        assert [len(here.recv(65536)) for _ in range(3)] == [1, 64, 65507]
        assert receiver.receive(there.fileno()) == 0


def test_a_datagram_that_can_not_go_does_not_hold_up_the_next() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, socket.socket(type=socket.SOCK_DGRAM) as here:
        there.bind(("127.0.0.1", 0))
        there.settimeout(PATIENCE)
        here.connect(there.getsockname())
        slots = mmsg.Slots()
        sender = mmsg.Sender(slots)
        slots.aim(0, (5, 65536, 7))  # EMSGSIZE in the middle
        assert sender.send(here.fileno(), 3) == 2
        assert [len(there.recv(100)) for _ in range(2)] == [5, 7]


def test_an_icmp_error_costs_no_datagram_of_a_target_that_is_back() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as here:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            there.bind(("127.0.0.1", 0))
            address = there.getsockname()
        here.connect(address)
        here.send(b"into the void")  # the answer is an ICMP error that waits on the socket
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            there.bind(address)
            there.settimeout(PATIENCE)
            slots = mmsg.Slots()
            slots.aim(0, (3, 4))
            assert mmsg.Sender(slots).send(here.fileno(), 2) == 2
            assert [len(there.recv(100)) for _ in range(2)] == [3, 4]


def test_an_answer_names_the_address_that_was_used() -> None:
    local = socket.inet_aton("127.0.0.9")
    record = bytes(16) + struct.pack("Nii", 28, 0, mmsg.IP_PKTINFO) + struct.pack("i", 1) + bytes(4) + local + bytes(4)
    control = mmsg.reply_control(mmsg.IPV4_ANY, record)
    assert control == struct.pack("Nii", 28, 0, mmsg.IP_PKTINFO) + bytes(4) + local + bytes(8)
    linked = socket.inet_pton(socket.AF_INET6, "fe80::1") + struct.pack("i", 3)
    record = bytes(28) + bytes(16) + linked + bytes(4)
    assert linked in mmsg.reply_control(mmsg.IPV6_ANY, record)
    group = socket.inet_pton(socket.AF_INET6, "ff02::1") + struct.pack("i", 3)
    assert not any(mmsg.reply_control(mmsg.IPV6_ANY, bytes(44) + group + bytes(4))[16:])
    assert mmsg.reply_control(mmsg.IPV4, bytes(16)) == b""


class _Flow:
    """A flow as the table of clients sees it."""

    def __init__(self, clients: Clients, name: str) -> None:
        self.clients, self.name = clients, name
        self.done, self.seen = False, 0.0

    def close(self) -> None:
        self.done = True
        self.clients.remove(self)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_the_flow_that_was_idle_longest_goes_first() -> None:
    with Lane() as lane:
        clients = Clients(asyncio.get_running_loop(), lane, limit=3, idle=1000)
        flows = [_Flow(clients, name) for name in "abc"]
        for flow in flows:
            clients.add(flow)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        clients.used(flows[0])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        clients.make_room()
        assert [flow.name for flow in flows if flow.done] == ["b"]
        clients.make_room()
        assert [flow.name for flow in flows if flow.done] == ["b"]  # there is room
        assert clients.evict()
        assert [flow.name for flow in flows if flow.done] == ["b", "c"]
        assert clients.evict() and not clients.evict()


@pytest.mark.parametrize("option", ["--udp-clients", "--workers"])
def test_one_is_enough_and_none_is_not(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = parser().parse_args(["--run", "/nowhere", option, "1"], Options())
    assert getattr(options, option[2:].replace("-", "_")) == 1
    with pytest.raises(SystemExit):
        parser().parse_args(["--run", "/nowhere", option, "0"], Options())
    assert f"argument {option}: invalid" in capsys.readouterr().err


async def test_the_guard_starts_what_died_and_again_when_that_dies(tmp_path: Path) -> None:
    """A child that exits without asking for a watch of its own is started again after a pause."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    loop = asyncio.get_running_loop()
    guard = Guard(loop)
    said: asyncio.Queue[bytes] = asyncio.Queue()
    loop.add_reader(reader, lambda: said.put_nowait(os.read(reader, 6)))
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "read x", stdin=asyncio.subprocess.PIPE)
    argv = ["/bin/sh", "-c", f"echo again > {fifo}"]
    try:
        guard.watch(process.pid, argv, start_time(process.pid))
        process.kill()
        for _ in range(2):
            assert await asyncio.wait_for(said.get(), 10) == b"again\n"
    finally:
        guard.close()
        loop.remove_reader(reader)
        os.close(reader)
        await process.wait()


async def test_the_guard_knows_processes_by_more_than_their_number() -> None:
    guard = Guard(asyncio.get_running_loop())
    with pytest.raises(NotFound, match="another"):
        guard.watch(os.getpid(), ["/bin/true"], start_time(os.getpid()) + 1)
    with pytest.raises(NotFound):
        guard.watch(1 << 30, ["/bin/true"])
    for number in range(16):
        guard.watch(os.getpid(), ["/bin/true", str(number)])
    with pytest.raises(InvalidArgument):
        guard.watch(os.getpid(), ["/bin/true", "17"])
    guard.unwatch(["/bin/true", "3"])
    guard.unwatch(["/bin/true", "3"])
    guard.watch(os.getpid(), ["/bin/true", "17"])
    guard.close()
