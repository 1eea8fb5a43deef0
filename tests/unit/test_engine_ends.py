"""Ends that somebody must see: of connections, of containers whose neighbours fail, of removals that race."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import grp
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from pynet.cli.launch import LOCK_NAME, LOG_NAME, start_engine
from pynet.cli.settings import Settings
from pynet.engine.api import hangup
from pynet.engine.api.call import Call
from pynet.engine.api.routes_streams import tail_count
from pynet.engine.api.server import Server
from pynet.engine.claims import bind, leave_lock, take_lock
from pynet.engine.container.attachment import ContainerNetworks
from pynet.engine.container.end import End
from pynet.engine.container.mounts import parse_mount
from pynet.engine.container.record import Container, State
from pynet.engine.container.run import Run
from pynet.engine.container.stop import Stop
from pynet.engine.events import EventBus
from pynet.engine.fields import Fields
from pynet.engine.filters import Filters
from pynet.engine.networks import Networks
from pynet.engine.patterns import matcher
from pynet.engine.reserve import Reserve
from pynet.engine.volumes import Volumes
from pynet.netlib.errors import (
    Conflict,
    InternalError,
    InvalidArgument,
    NotFound,
    NotModified,
    PynetError,
    RootBusy,
    Unavailable,
)
from pynet.netlib.store.sqlite import Store

# -- networks ------------------------------------------------------------------------------------------------------------


def test_names_are_asked_for_while_the_container_is_taken_off_the_network() -> None:
    """An inspect takes no lock: between its look at the networks and this one the entry may go."""
    config = {"Image": "", "Labels": {}, "Hostname": "web"}
    container = Container("0123456789abcdef", "box", 0, "", config, {}, {}, [], {})
    assert ContainerNetworks.names_on(container, "gone") == ["box", "0123456789ab", "web"]


# -- connections ---------------------------------------------------------------------------------------------------------


async def test_who_half_closed_and_then_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hangup, "LOOK_SECONDS", 0.001)
    lost = asyncio.get_running_loop().create_future()
    ours, theirs = socket.socketpair()

    class Held(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.watch = hangup.Hangup(transport)

        def eof_received(self) -> bool:
            half.set()
            return self.watch.half_closed()

        def connection_lost(self, exc: Exception | None) -> None:
            self.watch.close()
            lost.set_result(None)

    half = asyncio.Event()
    await asyncio.get_running_loop().create_connection(Held, sock=ours)
    theirs.shutdown(socket.SHUT_WR)
    await half.wait()
    assert not lost.done(), "an answer is owed still"
    theirs.close()
    await asyncio.wait_for(lost, 20)


async def test_an_answer_that_fails_after_its_head_is_cut_off(tmp_path: Path) -> None:
    """A second head in the middle of the chunks is what a client would read else; one of HTTP/1.0 gets no chunks."""

    async def breaks(call: Call) -> Any:
        response = await call.stream("text/plain")
        await response.write(b"begun")
        if call.flag("whole"):
            await response.write_eof()
            return response
        raise NotFound("gone in the middle")

    class Instance:
        root = tmp_path

    class Core:
        instance = Instance()

    class Engine:
        core = Core()

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    server = Server(Engine(), [("GET", "/breaks", breaks)])  # type: ignore[arg-type]  # what a route of ours needs of it
    listening = await server.start(sock)

    async def ask(line: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(f"GET {line}\r\nHost: x\r\n\r\n".encode())
        data = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return data

    cut = await ask("/breaks HTTP/1.1")
    assert cut.count(b"HTTP/1.1") == 1
    assert cut.endswith(b"5\r\nbegun\r\n"), "no last chunk: not all of it"
    old = await ask("/breaks?whole=1 HTTP/1.0")
    assert b" 200 " in old.splitlines()[0]
    assert old.endswith(b"\r\n\r\nbegun")
    listening.close()
    await server.stop()


@pytest.mark.parametrize(("number", "fails"), [(errno.EIO, True), (errno.EPERM, False), (errno.EINVAL, False)])
def test_a_socket_that_its_group_can_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fails: bool
) -> None:
    """What only says that we are no root of this host is passed over; else nobody would know why the group is shut out."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.getgrgid(os.getgid()))  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(os, "chown", refuse)
    path = str(tmp_path / "s")
    before = set(os.listdir("/proc/self/fd"))
    if fails:
        with pytest.raises(InternalError, match=f"can not listen on .*: {os.strerror(number)}"):
            bind(path)
    else:
        bind(path).close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_pynetd_that_is_started_again_takes_a_dead_ones_place_and_no_ended_ones(tmp_path: Path) -> None:
    first = take_lock(tmp_path)
    with pytest.raises(RootBusy, match=f"process {os.getpid()}"):
        take_lock(tmp_path, again=True)
    os.close(first)  # as a kill leaves it
    second = take_lock(tmp_path, again=True)
    leave_lock(second)
    with pytest.raises(Unavailable, match="ended while it was being started again"):
        take_lock(tmp_path, again=True)
    os.close(take_lock(tmp_path))


def test_who_waits_for_anothers_start_of_the_engine_starts_none(tmp_path: Path) -> None:
    settings = Settings(str(tmp_path / "s"), str(tmp_path / "root"), str(tmp_path), named=False)
    lock = os.open(tmp_path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    failed: list[PynetError] = []

    def start() -> None:
        try:
            start_engine(settings, ["--no-such-option"])  # if it is started, it ends at once
        except PynetError as error:
            failed.append(error)

    def waits() -> bool:
        inode = f":{os.stat(tmp_path / LOCK_NAME).st_ino} "
        return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())

    thread = threading.Thread(target=start)
    thread.start()
    while thread.is_alive() and not waits():
        thread.join(0.01)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(settings.address))  # the other one's engine serves
        sock.listen()
        os.close(lock)
        thread.join(20)
    assert not thread.is_alive()
    assert failed == []
    assert not (tmp_path / LOG_NAME).exists(), "a second engine was started"


# -- containers ----------------------------------------------------------------------------------------------------------


def test_an_end_is_told_whatever_goes_wrong_beside_it() -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    class Core:
        events = EventBus()

    broken: Any = Broken()
    end = End(Core(), broken, broken, broken, broken)  # type: ignore[arg-type]  # whatever it asks fails
    container = Container("x", "box", 0, "", {"Image": "", "Labels": {}}, {}, {}, [], {})
    ended = container.expect("exit")
    with pytest.raises(RuntimeError):
        end.exited(container, {"exit_code": 3})
    assert ended.result(0) == 3


@pytest.mark.parametrize("gone", [Conflict("container x is not running"), NotFound("No such container: x")])
def test_a_kill_or_a_stop_that_its_end_overtakes(gone: PynetError) -> None:
    """The supervisor knows of the end, and this record does not yet."""
    container = Container("x", "box", 0, "", {"Image": "", "Labels": {}}, {}, {}, [], {}, state=State("running"))

    class Supervisor:
        def kill(self, *_: Any, **__: Any) -> None:
            raise gone

        def stop(self, *_: Any) -> None:
            container.change(status="exited")
            container.announce("exit")
            raise gone

    class There:
        def check_there(self) -> None: ...
        def save_end(self, container: Container) -> None: ...

    class Core:
        events, supervisor, store = EventBus(), Supervisor(), There()

    stop = Stop(Core(), There())  # type: ignore[arg-type]
    with pytest.raises(Conflict, match=r"^cannot kill container: box: container x is not running$"):
        stop.kill(container, 10)
    if isinstance(gone, NotFound):
        stop.stop(container)
        assert not container.running


def test_two_restarts_of_a_container_that_is_removed_at_its_end_spare_it_both() -> None:
    """The one that is done must not take the other's word back."""
    stopping, go_on = threading.Event(), threading.Event()

    class Stops:
        def stop(self, container: Container, **_: Any) -> None:
            if threading.current_thread() is slow:
                stopping.set()
                go_on.wait(20)
            raise NotModified("it has ended by itself")

    class Core:
        events = EventBus()

    none: Any = None
    run = Run(Core(), none, networks=none, volumes=none, hosts=none, end=none, stop=Stops(), remove=none)  # type: ignore[arg-type]
    container = Container("x", "box", 0, "", {"Image": "", "Labels": {}}, {}, {}, [], {}, state=State("running"))
    slow = threading.Thread(target=run.restart, args=(container,))
    slow.start()
    assert stopping.wait(20)
    run.restart(container)
    kept = container.kept
    go_on.set()
    slow.join()
    assert kept
    assert not container.kept


def test_a_second_prune_of_networks_is_a_conflict_until_the_first_is_done() -> None:
    pruning, go_on = threading.Event(), threading.Event()

    class Controller:
        def networks(self) -> list[Any]:
            return []

    class Containers:
        def all(self) -> list[Any]:
            return []

    class Core:
        controller = Controller()
        events = EventBus()

    def until(text: str) -> float:
        if text == "slow":
            pruning.set()
            go_on.wait(20)
        return 0.0

    none: Any = None
    networks = Networks(Core(), Containers(), none, none)  # type: ignore[arg-type]
    slow = threading.Thread(target=networks.prune, args=(Filters({"until": ["slow"]}), until))
    slow.start()
    assert pruning.wait(20)
    for _ in range(2):
        with pytest.raises(Conflict, match="a prune operation is already running") as caught:
            networks.prune(Filters(), until)
        assert caught.value.status == 409
    go_on.set()
    slow.join()
    for _ in range(2):
        assert networks.prune(Filters(), until) == {"NetworksDeleted": None}
    with pytest.raises(InvalidArgument):
        networks.prune(Filters({"nonsense": ["1"]}), until)
    assert networks.prune(Filters(), until) == {"NetworksDeleted": None}, "one that is refused leaves no trace"


def test_a_volume_is_removed_by_one_of_two(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    try:
        events = EventBus()
        met = threading.Barrier(2)

        def users(name: str, but: str) -> list[str]:
            try:
                met.wait(0.2)  # both got as far as this, where nothing keeps them apart
            except threading.BrokenBarrierError:
                pass
            return []

        volumes = Volumes(store, Reserve(tmp_path), tmp_path, events, users)
        volumes.create("data")
        told: list[str] = []

        def remove() -> None:
            try:
                volumes.remove("data")
            except NotFound:
                told.append("not found")
            else:
                told.append("removed")

        threads = [threading.Thread(target=remove) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(told) == ["not found", "removed"]
    finally:
        store.close()


# -- values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [("", None), ("all", None), ("x", None), ("-1", None), ("0", 0), ("7", 7), ("9" * 5000, None)],
)
def test_lines_of_a_tail(text: str, count: int | None) -> None:
    assert tail_count(text) == count


@pytest.mark.parametrize("text", ["(" * 5000, "a{9999999999999}", "["])
def test_what_is_no_expression_is_a_part_of_a_name(text: str) -> None:
    assert not matcher([text], "/")("box")


@pytest.mark.parametrize("options", [{"SizeBytes": -1}, {"Mode": -1}, {"Mode": 0o10000}])
def test_a_tmpfs_that_the_kernel_would_refuse(options: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        parse_mount(Fields({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": options}))
