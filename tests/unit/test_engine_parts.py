"""The engine's pure parts: routing, shapes, times, logs, events, host files, detach keys.  No daemon."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.engine.api.pipes import pump, write_all
from pynet.engine.api.routes import ROUTES
from pynet.engine.api.server import Router, negotiate
from pynet.engine.container import etc_render as hostfiles
from pynet.engine.container.inbox import Inbox
from pynet.engine.container.logs import (
    LogFile,
    Renderer,
    Selection,
    follow,
    frame,
    parse_block,
    parse_line,
    send,
    tail_offset,
)
from pynet.engine.container.record import Container, State
from pynet.engine.container.registry import Registry
from pynet.engine.container.rename import rename
from pynet.engine.container.shapes import Look, NetworkLook, network_settings, port_list, port_map, status_text
from pynet.engine.container.usage import parse_net_dev, sample, select_rows
from pynet.engine.events import EventBus
from pynet.engine.filters import Filters
from pynet.engine.grammar.detach import DetachScanner, parse_keys
from pynet.engine.images import matches_reference
from pynet.engine.inotify import Inotify
from pynet.engine.network_shapes import create_arguments
from pynet.engine.pools import Pools
from pynet.engine.reserve import Reserve, is_full
from pynet.engine.times import NEVER, parse_age, parse_time, rfc3339
from pynet.engine.versions import API_VERSION
from pynet.netlib.durations import human_duration
from pynet.netlib.errors import Conflict, Forbidden, InvalidArgument, MultipleErrors, NotFound
from pynet.netlib.store.sqlite import Store
from pynet.netlib.timestamps import parse_stamp

# -- routes ------------------------------------------------------------------------------------------------------


def test_versions() -> None:
    assert negotiate("/v1.24/info") == ((1, 24), "/info")
    assert negotiate("/info") == (API_VERSION, "/info")
    assert negotiate("/v1.51") == ((1, 51), "/")
    for path in ("/v1.23/info", "/v0.9/info", "/v1.52/info", "/v2.0/info"):
        with pytest.raises(InvalidArgument, match="client version"):
            negotiate(path)
    assert negotiate("/vacuum")[1] == "/vacuum"


def test_every_route_is_found_and_none_hides_another() -> None:
    router = Router(ROUTES)
    for method, pattern, handler in ROUTES:
        path = pattern.replace("{name:path}", "a/b").replace("{id}", "x").replace("{name}", "x")
        found = router.find(method, path)
        assert found is not None, path
        assert found[0] is handler, path


def test_image_names_may_have_slashes_and_containers_not() -> None:
    router = Router(ROUTES)
    found = router.find("GET", "/images/host:5000/a/b:1/json")
    assert found is not None
    assert found[1] == {"name": "host:5000/a/b:1"}
    assert router.find("GET", "/containers/a/b/json") is None
    assert router.find("GET", "/containers/json/x") is None
    assert router.find("GET", "") is None


# -- times -------------------------------------------------------------------------------------------------------


def test_times() -> None:
    assert parse_time("") is None
    assert parse_time("1700000000.123456789") == 1_700_000_000_123_456_789
    assert parse_time("2023-11-14T22:13:20.000000001Z") == 1_700_000_000_000_000_001
    assert parse_time("2023-11-15T00:13:20+02:00") == 1_700_000_000_000_000_000
    assert parse_time("2023-11-14T20:13:20.5-02:00") == 1_700_000_000_500_000_000
    for bad in ("yesterday", "1e9", "2023-11-14", "2023-99-14T00:00:00Z", "1.1234567890"):
        with pytest.raises(InvalidArgument, match="invalid time"):
            parse_time(bad)


def test_ages() -> None:
    assert parse_age("1h30m") == 5400
    assert parse_age("1.5s") == 1.5
    assert parse_age("250ms") == 0.25
    assert parse_age("10") is parse_age("") is parse_age("-1s") is None


@given(st.integers(1, 4_000_000_000_000_000))
def test_written_times_can_be_read(microseconds: int) -> None:
    text = rfc3339(microseconds / 1e6)
    stamp = parse_stamp(text)
    assert stamp is not None
    assert abs(stamp - microseconds * 1000) <= 1000
    assert rfc3339(0) == NEVER


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (150, "2 minutes"),
        (3600, "About an hour"), (7200, "2 hours"), (86400 * 3, "3 days"), (86400 * 20, "2 weeks"),
        (86400 * 90, "3 months"), (86400 * 800, "2 years"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_status_texts() -> None:
    assert status_text(State(), 0) == "Created"
    assert status_text(State("running", started=10), 75) == "Up About a minute"
    assert status_text(State("paused", started=10), 15) == "Up 5 seconds (Paused)"
    assert status_text(State("restarting", exit_code=3, finished=10), 15) == "Restarting (3) 5 seconds ago"
    assert status_text(State("exited", exit_code=137, finished=10), 15) == "Exited (137) 5 seconds ago"


# -- shapes ------------------------------------------------------------------------------------------------------

PORTS = (("tcp", "0.0.0.0", 8080, 80), ("tcp", "::", 8080, 80), ("udp", "127.0.0.1", 53, 53))


def test_ports() -> None:
    look = Look(sandbox_id="x", ports=PORTS)
    assert port_map(look, ["80/tcp", "443/tcp"]) == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "443/tcp": None,
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
    }
    listed = port_list(look, ["80/tcp", "443/tcp"])
    assert [entry["PrivatePort"] for entry in listed] == [53, 80, 80, 443]
    assert "PublicPort" not in listed[-1]


def test_the_old_top_level_addresses_are_those_of_the_default_bridge() -> None:
    attachment = NetworkLook({}, "n" * 64, "e" * 64, "172.17.0.2/16", "", "172.17.0.1", "", "02:42:ac:11:00:02")
    settings = network_settings(Look("s", "/ns", {"bridge": attachment, "mine": NetworkLook({})}), [])
    assert (settings["IPAddress"], settings["IPPrefixLen"], settings["Gateway"]) == ("172.17.0.2", 16, "172.17.0.1")
    assert settings["Networks"]["mine"]["IPAddress"] == ""
    assert network_settings(Look(networks={"mine": attachment}), ["80/tcp"])["Ports"] == {}


def test_network_create_request() -> None:
    body = {
        "Name": "mine", "EnableIPv4": False, "EnableIPv6": True, "Internal": True,
        "IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "AuxiliaryAddresses": {"a": "10.0.0.9"}}]},
    }  # fmt: skip
    name, arguments = create_arguments(body, (1, 51))
    assert (name, arguments["driver"], arguments["ipv4"], arguments["ipv6"]) == ("mine", "bridge", False, True)
    assert arguments["ipam"][0].aux == {"a": "10.0.0.9"}
    assert create_arguments(body, (1, 47))[1]["ipv4"] is True
    with pytest.raises(Forbidden):
        create_arguments({"Name": "x", "Scope": "swarm"}, (1, 51))


# -- logs --------------------------------------------------------------------------------------------------------


def line(text: str, stream: str = "stdout", time: str = "2024-05-01T10:00:00.000000001Z") -> bytes:
    return json.dumps({"log": text, "stream": stream, "time": time}).encode() + b"\n"


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log.json"


async def sent(path: Path, selection: Selection, *, framed: bool = False) -> bytes:
    got = bytearray()

    async def write(data: bytes) -> None:
        got.extend(data)

    log = LogFile(str(path))
    try:
        await send(log, selection, write, framed=framed, inotify=None, ended=None)
    finally:
        log.close()
    return bytes(got)


async def test_log_selection(log_path: Path) -> None:
    log_path.write_bytes(
        line("one\n") + line("err\n", "stderr", "2024-05-01T10:00:01.000000000Z") + b"damaged\n"
        + line("two\n", time="2024-05-01T10:00:02.000000005Z")
    )  # fmt: skip
    assert await sent(log_path, Selection()) == b"one\nerr\ntwo\n"
    assert await sent(log_path, Selection(stderr=False, tail=1)) == b"two\n"
    assert await sent(log_path, Selection(tail=0)) == b""
    assert await sent(log_path, Selection(since=parse_stamp("2024-05-01T10:00:02.000000005Z"))) == b"two\n"
    assert await sent(log_path, Selection(since=parse_stamp("2024-05-01T10:00:02.000000006Z"))) == b""
    assert await sent(log_path, Selection(until=parse_stamp("2024-05-01T10:00:01Z"))) == b"one\nerr\n"
    assert await sent(log_path, Selection(timestamps=True, tail=1)) == b"2024-05-01T10:00:02.000000005Z two\n"
    assert await sent(log_path, Selection(stdout=False), framed=True) == b"\x02\0\0\0\0\0\0\x04err\n"


async def test_bytes_that_are_no_text_come_through(log_path: Path) -> None:
    raw = bytes(range(256))
    log_path.write_bytes(line(raw.decode("utf-8", "surrogateescape")))
    assert await sent(log_path, Selection()) == raw


def as_written(text: str, stream: str) -> bytes:
    """As the supervisor writes it (runtime/supervisor/logs.py)."""
    body = json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return b'{"log":' + body + f',"stream":"{stream}","time":"2024-05-01T10:00:00.000000001Z"}}\n'.encode()


def streams_of(frames: bytes) -> dict[int, bytes]:
    found = {1: b"", 2: b""}
    while frames:
        length = int.from_bytes(frames[4:8], "big")
        found[frames[0]] += frames[8 : 8 + length]
        frames = frames[8 + length :]
    return found


@given(
    st.lists(st.tuples(st.text('ab"\\\té\n', max_size=6), st.sampled_from(["stdout", "stderr"])), max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_a_block_is_rendered_as_its_lines_are_one_by_one(texts: list[tuple[str, str]], out: bool, err: bool) -> None:
    block = b"".join(as_written(text + "\n" * (index % 3 > 0), stream) for index, (text, stream) in enumerate(texts))
    selection = Selection(stdout=out, stderr=err)
    wanted = [entry for entry in parse_block(block) if selection.passes(entry)]
    for part in (block, *(line + b"\n" for line in block.split(b"\n")[:-1])):
        slow = [entry for entry in parse_block(part) if selection.passes(entry)]
        framed = b"".join(frame(entry.stream, entry.data) for entry in slow)
        assert Renderer(selection, framed=True, joined=False).render(part) == framed
        assert Renderer(selection, framed=False, joined=False).render(part) == b"".join(e.data for e in slow)
    assert streams_of(Renderer(selection, framed=True, joined=True).render(block)) == {
        stream: b"".join(entry.data for entry in wanted if entry.stream == stream) for stream in (1, 2)
    }


def test_plain_lines_share_a_frame_where_they_may() -> None:
    block = as_written("y\n", "stdout") * 3
    assert Renderer(Selection(), framed=True, joined=True).render(block) == frame(1, b"y\ny\ny\n")
    assert Renderer(Selection(), framed=True, joined=False).render(block) == frame(1, b"y\n") * 3


@given(st.lists(st.integers(0, 3000), max_size=20), st.integers(0, 25))
def test_tail_finds_the_last_lines(lengths: list[int], count: int) -> None:
    lines = [b"x" * length + b"\n" for length in lengths]
    fd = os.memfd_create("log")
    try:
        os.write(fd, b"".join(lines))
        wanted = b"".join(lines[len(lines) - count :] if 0 < count <= len(lines) else lines if count else [])
        assert os.pread(fd, 1 << 20, tail_offset(fd, count)) == wanted
    finally:
        os.close(fd)


def test_tail_of_a_file_larger_than_a_chunk() -> None:
    fd = os.memfd_create("log")
    try:
        lines = [f"{n:06}".encode() * 20 + b"\n" for n in range(10_000)]
        os.write(fd, b"".join(lines))
        for count in (1, 3000, 9999, 10_000):
            assert os.pread(fd, 2 << 20, tail_offset(fd, count)) == b"".join(lines[-count:])
    finally:
        os.close(fd)


def test_a_damaged_line_is_passed_over() -> None:
    for bad in (
        b"",
        b"{",
        b"[]",
        b'{"log": 5, "stream": "stdout", "time": ""}',
        b'{"log": "x", "stream": "other", "time": ""}',
    ):
        assert parse_line(bad) is None


async def test_a_follower_gets_everything_that_was_written_before_the_end(log_path: Path) -> None:
    log_path.touch()
    log, inotify, ended = LogFile(str(log_path)), Inotify(), Future[int]()
    lines = [f"line {n}\n" for n in range(500)]

    def write() -> None:
        with open(log_path, "ab", buffering=0) as file:
            for text in lines:
                data = line(text)
                file.write(data[:7])  # a reader may see half a line
                file.write(data[7:])
        ended.set_result(0)

    writer = threading.Thread(target=write)
    writer.start()
    got = [entry.data.decode() async for block in follow(log, inotify, ended) for entry in parse_block(block)]
    writer.join()
    log.close()
    inotify.close()
    assert got == lines


# -- events ------------------------------------------------------------------------------------------------------


async def collect(
    bus: EventBus, count: int, filters: dict[str, list[str]] | None = None, since: int | None = None
) -> list[Any]:
    found: list[Any] = []
    with bus.subscribe(Filters(filters), since=since) as subscription:
        async for event in subscription.until(None):
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_history_then_what_comes_without_gap_or_repetition() -> None:
    bus = EventBus()
    for n in range(5):
        bus.publish("container", "start", str(n), {})
    history = await collect(bus, 5, since=0)

    def publish() -> None:
        for n in range(5, 200):
            bus.publish("container", "start", str(n), {})

    publisher = threading.Thread(target=publish)
    with bus.subscribe(Filters(), since=history[-1]["timeNano"] + 1) as subscription:
        publisher.start()
        seen: list[str] = []
        async for event in subscription.until(None):
            seen.append(event["id"])
            if len(seen) == 195:
                break
    publisher.join()
    assert seen == [str(n) for n in range(5, 200)]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"type": ["network"]}, ["n1"]),
        ({"event": ["exec_create"]}, ["c1"]),
        ({"container": ["web"]}, ["c1", "n1"]),
        ({"container": ["c1"]}, ["c1", "n1"]),
        ({"label": ["tier=front"]}, ["c1"]),
        ({"image": ["busybox"]}, ["c1"]),
        ({"image": ["alpine:3"]}, ["c2"]),
        ({"network": ["mine"]}, ["n1"]),
    ],
)
async def test_event_filters(filters: dict[str, list[str]], ids: list[str]) -> None:
    bus = EventBus()
    bus.publish("container", "exec_create: ls -l", "c1", {"name": "web", "image": "busybox:latest", "tier": "front"})
    bus.publish("network", "connect", "n1", {"name": "mine", "type": "bridge", "container": "c1"})
    bus.publish("container", "start", "c2", {"name": "other", "image": "alpine:3"})
    if filters == {"container": ["web"]}:
        ids = ["c1"]  # the network's event names the container by id
    assert [event["Actor"]["ID"] for event in await collect(bus, len(ids), filters, since=0)] == ids


async def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pynet.engine.events.BACKLOG", 3)
    bus = EventBus()
    with bus.subscribe(Filters()) as subscription:
        for n in range(5):
            bus.publish("container", "start", str(n), {})
        assert [event async for event in subscription.until(None)] == []
    with pytest.raises(InvalidArgument, match="invalid filter 'nope'"):
        bus.subscribe(Filters({"nope": ["x"]}))


# -- files of a container ----------------------------------------------------------------------------------------


def test_hosts_file() -> None:
    text = hostfiles.render_hosts(["10.0.0.2"], "box", "dom", ["10.0.0.9\tdb\n", "::1\tsix\n"], "10.0.0.3\tweb w\n")
    assert text.startswith(hostfiles.HOSTS_HEAD)
    assert text.endswith("10.0.0.9\tdb\n::1\tsix\n10.0.0.2\tbox.dom box\n10.0.0.3\tweb w\n")


@pytest.mark.parametrize(
    ("host", "rendered"),
    [
        ("nameserver 10.0.0.1\nsearch a b\noptions ndots:1\n", "nameserver 10.0.0.1\nsearch a b\noptions ndots:1\n"),
        ("nameserver 127.0.0.53\n", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        ("nameserver ::1 # local\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n", "nameserver 2001:db8::1\n"),
        ("", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        ("domain x\nsearch .\nnameserver 10.0.0.1", "nameserver 10.0.0.1\n"),
    ],
)
def test_resolv_conf(host: str, rendered: str) -> None:
    assert hostfiles.render_resolv(host, servers=[], search=[], options=[], filtered=True) == rendered


def test_resolv_conf_options_win() -> None:
    text = hostfiles.render_resolv(
        "nameserver 10.0.0.1\n", servers=["1.1.1.1"], search=["x"], options=["rotate"], filtered=True
    )
    assert text == "nameserver 1.1.1.1\nsearch x\noptions rotate\n"
    assert hostfiles.render_resolv("nameserver 127.0.0.1\n", servers=[], search=[], options=[], filtered=False) == (
        "nameserver 127.0.0.1\n"
    )


def test_a_file_is_rewritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hostfiles.write_in_place(path, "long text\n")
    inode = path.stat().st_ino
    hostfiles.write_in_place(path, "short\n")
    assert (path.read_text(), path.stat().st_ino) == ("short\n", inode)


# -- streams -----------------------------------------------------------------------------------------------------


def test_frames() -> None:
    assert frame(2, b"abc") == b"\x02\0\0\0\0\0\0\x03abc"


def test_detach_keys() -> None:
    assert parse_keys("") == b"\x10\x11"
    assert parse_keys("a,ctrl-c,ctrl-\\") == b"a\x03\x1c"
    assert parse_keys("ctrl-a,b,DEL,ctrl-[,ctrl-@,ctrl-_") == b"\x01b\x7f\x1b\0\x1f"
    for bad in ("ctrl-", "ab", ",", "ctrl-1", "ctrl-ab", "ctrl-A", "a,", "é"):
        with pytest.raises(InvalidArgument, match="Invalid detach keys"):
            parse_keys(bad)


def test_keys_that_turn_out_to_be_no_detach_are_passed_on() -> None:
    scanner = DetachScanner(b"\x10\x11")
    assert scanner.feed(b"ab\x10") == b"ab"
    assert scanner.feed(b"c\x10\x10") == b"\x10c\x10"
    assert scanner.feed(b"\x11rest") == b""
    assert scanner.detached


@given(
    st.text("ab", max_size=40).map(str.encode),
    st.lists(st.integers(1, 5), max_size=20),
    st.sampled_from(["a", "ab", "aab", "aabaaa"]),
)
def test_a_scanner_loses_nothing(data: bytes, cuts: list[int], text: str) -> None:
    keys = text.encode()
    scanner = DetachScanner(keys)
    out, rest = b"", data
    for cut in [*cuts, len(data)]:
        if not scanner.detached:
            out += scanner.feed(rest[:cut])
            rest = rest[cut:]
    if keys in data:
        assert scanner.detached
        assert out == data[: data.index(keys)]
    elif not scanner.detached:
        assert data.startswith(out)
        assert keys.startswith(data[len(out) :])


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe2(os.O_NONBLOCK)
    yield read, write
    for fd in (read, write):
        os.close(fd)


async def test_pump_and_write_wait_for_each_other(pipe: tuple[int, int]) -> None:
    read, write = pipe
    data, got, over = os.urandom(1 << 20), bytearray(), asyncio.Event()

    async def sink(block: bytes) -> None:
        got.extend(block)

    async def feed() -> None:
        await write_all(write, data)
        over.set()  # nobody closes the pipe: a child in the background has it

    await asyncio.gather(pump(read, sink, over), feed())
    assert bytes(got) == data


# -- records -----------------------------------------------------------------------------------------------------


def test_waiters_are_told_once_and_can_withdraw() -> None:
    made = Container("x", "box", 0, "", {}, {}, {}, [], {})
    first, second = made.expect("exit"), made.expect("exit")
    made.forget("exit", second)
    made.change(exit_code=7)
    made.announce("exit")
    made.announce("exit")
    assert first.result(0) == 7
    assert not second.done()


def bare(name: str) -> Container:
    return Container(f"id of {name}", name, 0, "", {"Labels": {}, "Image": "busybox"}, {}, {}, [], {})


def test_a_record_that_was_removed_can_not_be_saved_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    registry = Registry(store, Reserve(tmp_path), tmp_path)
    made = bare("box")
    registry.take_name("box", made.id)
    registry.add(made)
    registry.save(made)
    registry.delete(made)
    with pytest.raises(NotFound, match="No such container"):
        registry.save(made)
    assert store.list("container") == []
    assert registry.take_name("box", "another") == "box"
    store.close()


def test_a_name_is_given_back_by_its_owner_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    registry = Registry(store, Reserve(tmp_path), tmp_path)
    registry.take_name("box", "one")
    with pytest.raises(Conflict, match="already in use"):
        registry.take_name("box", "two")
    registry.drop_name("box", "two")
    with pytest.raises(Conflict):
        registry.take_name("box", "two")
    registry.drop_name("box", "one")
    assert registry.take_name("box", "two") == "box"
    store.close()


class Order:
    """What is told, and which files are written, in which order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.events = self
        self.heard = threading.Event()

    def publish(self, kind: str, action: str, id: str, attributes: dict[str, str]) -> None:
        self.done.append(f"{action} {attributes['name']}")
        self.heard.set()

    def follow(self, container: Container) -> None:
        self.done.append(f"files {container.name}")


def test_who_hears_of_a_new_name_finds_it_in_the_files_of_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    registry = Registry(store, Reserve(tmp_path), tmp_path)
    made = bare("old")
    registry.take_name("old", made.id)
    registry.add(made)
    order = Order()
    rename(order, registry, order, "old", "new")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert order.done == ["files new", "rename new"]
    store.close()


def test_an_event_that_can_not_be_dealt_with_is_told_and_the_next_one_is_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, order = Store(tmp_path / "db"), Order()
    registry = Registry(store, Reserve(tmp_path), tmp_path)
    made = bare("box")
    registry.add(made)
    made.change(status="restarting")
    pools = Pools()
    core: Any = SimpleNamespace(pools=pools, events=order)
    nobody: Any = None
    inbox = Inbox(core, registry, nobody, nobody, nobody)
    with made.lock:
        inbox.on_event({"event": "started", "id": made.id, "time": 1.0})
        inbox.on_event({"event": "oom", "id": made.id})
        registry.delete(made)  # so the new state can not be saved
    assert order.heard.wait(20)
    pools.close()
    assert made.state.oom_killed
    (record,) = caplog.records
    assert record.getMessage() == "event started of box"
    assert record.exc_info is not None and record.exc_info[0] is NotFound
    store.close()


def test_who_finds_no_event_any_more_ends_nothing(tmp_path: Path) -> None:
    """Another worker had them all; meanwhile a restart may have begun for which ``--rm`` waits."""
    store = Store(tmp_path / "db")
    ended: list[str] = []
    made = bare("box")
    made.host_config["AutoRemove"] = True
    made.change(status="exited")
    core: Any = None
    registry = Registry(store, Reserve(tmp_path), tmp_path)
    end: Any = SimpleNamespace(forget=lambda container: ended.append("forgotten"))  # pyright: ignore[reportUnknownLambdaType]
    remove: Any = SimpleNamespace(automatically=lambda container: ended.append("removed"))  # pyright: ignore[reportUnknownLambdaType]
    Inbox(core, registry, core, end, remove)._empty(made)
    assert ended == ["forgotten"]
    store.close()


def test_directories_without_a_record_go_to_the_trash(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    registry = Registry(store, Reserve(tmp_path), tmp_path)
    registry.sweep()  # there is no such directory yet
    made = bare("kept")
    registry.add(made)
    for id in (made.id, "stray"):
        registry.path(id).mkdir(parents=True)
    registry.sweep()
    assert [path.name for path in (tmp_path / "containers").iterdir()] == [made.id]
    assert [path.name.partition(".")[0] for path in registry.trash.iterdir()] == ["stray"]
    store.close()


# -- small parsers -----------------------------------------------------------------------------------------------


def test_interfaces_of_a_namespace() -> None:
    head = "Inter-|   Receive\n face |bytes\n"
    text = head + "    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n"
    assert parse_net_dev(text) == {
        "eth0": {
            "rx_bytes": 100, "rx_packets": 2, "rx_errors": 3, "rx_dropped": 4,
            "tx_bytes": 200, "tx_packets": 5, "tx_errors": 6, "tx_dropped": 7,
        }
    }  # fmt: skip


def test_what_does_not_run_uses_nothing() -> None:
    nobody: Any = None  # is asked: there is no process
    found = sample(nobody, bare("box"))
    assert (found.cpu, found.usage, found.interfaces) == (0, {}, {})
    assert found.system > 0


def test_rows_of_ps() -> None:
    output = "USER  PID COMMAND\nroot    1 /sbin/init splash\nme    42 sleep 5\n"
    assert select_rows(output, {42}) == {"Titles": ["USER", "PID", "COMMAND"], "Processes": [["me", "42", "sleep 5"]]}
    with pytest.raises(InvalidArgument, match="Couldn't find PID field"):
        select_rows("COMMAND\nx\n", {1})


def test_reference_patterns() -> None:
    assert matches_reference("busybox:latest", ["busy*"])
    assert matches_reference("busybox:latest", ["busybox"])
    assert not matches_reference("busybox:latest", ["alpine", "busy?"])


def test_a_full_disk_is_known_among_several_errors() -> None:
    full, other = OSError(errno.ENOSPC, "No space left on device"), NotFound("gone")
    assert is_full(MultipleErrors("could not remove all", [other, full]))
    assert not is_full(MultipleErrors("could not remove all", [other, other]))
