"""Tables, human sizes and times, the rows of listings, detach keys and frames."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.cli import format as text
from pynet.cli import shown
from pynet.cli.commands import events, image, network, stats, traffic
from pynet.cli.frames import Demultiplexer
from pynet.cli.http1 import BadResponse
from pynet.cli.output import filters
from pynet.netlib.durations import human_duration
from pynet.netlib.errors import InvalidArgument


def test_table_pads_to_the_widest_cell_and_ends_lines_cleanly() -> None:
    assert text.table(["A", "LONG"], [["aaa", "b"], ["", "c"]]) == "A     LONG\naaa   b\n      c\n"


def test_what_containers_call_themselves_neither_moves_the_cursor_nor_makes_a_line() -> None:
    title = "sh\x1b]0;owned\x07\nroot\u009b2J\udc80"
    assert text.table(["CMD"], [[title], ["é…"]]) == "CMD\nsh\\x1b]0;owned\\x07\\nroot\\x9b2J\\udc80\né…\n"
    event = {
        "time": 0,
        "Type": "container",
        "Action": "exec_start: sh\n",
        "Actor": {"Attributes": {"label": "\x1b[2J\n1970"}},
    }
    line = events.text(event)
    assert line.endswith("exec_start: sh\\n  (label=\\x1b[2J\\n1970)"), line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("count", "decimal", "binary"),
    [
        (0, "0B", "0B"),
        (999, "999B", "999B"),
        (1000, "1kB", "1000B"),
        (4096, "4.1kB", "4KiB"),
        (1_234_567, "1.23MB", "1.18MiB"),
        (5 << 30, "5.37GB", "5GiB"),
    ],
)
def test_sizes(count: int, decimal: str, binary: str) -> None:
    assert text.size(count) == decimal
    assert text.size(count, binary=True) == binary


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (45 * 60, "45 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (70 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_have_dockers_words(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words
    assert text.ago(1000.0, 1000.0 + seconds) == f"{words} ago"


def test_ports_in_runs() -> None:
    entries: list[Mapping[str, object]] = [
        {"IP": "0.0.0.0", "PrivatePort": 80 + n, "PublicPort": 8080 + n, "Type": "tcp"} for n in range(3)
    ]
    entries += [
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 9000, "Type": "tcp"},
        {"PrivatePort": 53, "PublicPort": 53, "Type": "udp", "IP": "0.0.0.0"},
    ]
    assert text.ports(entries) == ("0.0.0.0:8080-8082->80-82/tcp, [::]:8080->80/tcp, 0.0.0.0:53->53/udp, 9000/tcp")
    assert text.ports([]) == ""


CONTAINER = {
    "Id": "0123456789abcdef0123",
    "Names": ["/web"],
    "Image": "busybox",
    "Command": "httpd -f -p 80 -h /www",
    "Created": 1000,
    "State": "running",
    "Status": "Up 3 seconds",
    "Labels": {"b": "2", "a": "1"},
    "Ports": [{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
    "NetworkSettings": {"Networks": {"web": {}, "bridge": {}}},
}


def test_a_container_as_a_row() -> None:
    row = shown.row(CONTAINER, now=1180.0)
    assert row["ID"] == "0123456789ab"
    assert row["Names"] == "web"
    assert row["Command"] == '"httpd -f -p 80 -h /…"'
    assert row["RunningFor"] == "3 minutes ago"
    assert row["Ports"] == "127.0.0.1:8080->80/tcp"
    assert row["Labels"] == "a=1,b=2"
    assert row["Networks"] == "bridge,web"
    assert shown.row(CONTAINER, full=True)["Command"] == '"httpd -f -p 80 -h /www"'


def test_names_that_others_have_for_a_container_are_for_the_full_row() -> None:
    """ "/db" is its own, "/web/db" what web called it in a link; an engine that tells no other is shown as it is."""
    linked = {**CONTAINER, "Names": ["/db", "/web/db"]}
    assert shown.row(linked)["Names"] == "db"
    assert shown.row(linked, full=True)["Names"] == "db,web/db"
    assert shown.row({**CONTAINER, "Names": ["/web/db"]})["Names"] == "web/db"


def test_images_and_networks_as_rows() -> None:
    rows = image.image_rows(
        {"Id": "sha256:0123456789abcdef", "RepoTags": ["a/b:1", "c:5000/d:2"], "Created": 0, "Size": 1000}, now=7200.0
    )
    assert [(row["Repository"], row["Tag"], row["ID"], row["CreatedSince"]) for row in rows] == [
        ("a/b", "1", "0123456789ab", "2 hours ago"),
        ("c:5000/d", "2", "0123456789ab", "2 hours ago"),
    ]
    assert image.image_rows({"Id": "sha256:01", "RepoTags": None})[0]["Repository"] == "<none>"
    assert image.split_reference("host:5000/a") == ("host:5000/a", "")
    assert image.split_reference("a:1") == ("a", "1")
    assert network.row({"Id": "abc", "Name": "web", "EnableIPv6": True})["IPv6"] == "true"


def test_an_event_on_one_line() -> None:
    line = events.text(
        {
            "Type": "container",
            "Action": "start",
            "Actor": {"ID": "abc", "Attributes": {"name": "web", "image": "busybox"}},
            "timeNano": 1_000_000_005,
        }
    )
    assert line.endswith(" container start abc (image=busybox, name=web)")
    assert ".000000005" in line


def test_statistics() -> None:
    sample = {
        "id": "0123456789abcdef",
        "name": "/web",
        "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
        "memory_stats": {"usage": 3 << 20, "limit": 1 << 30, "stats": {"inactive_file": 1 << 20}},
        "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2000}},
        "pids_stats": {"current": 3},
    }
    row = stats.row(sample)
    assert (row["CPUPerc"], row["MemUsage"], row["MemPerc"]) == ("40.00%", "2MiB / 1GiB", "0.20%")
    assert (row["NetIO"], row["BlockIO"], row["PIDs"]) == ("1kB / 2kB", "0B / 0B", "3")
    assert stats.row({"id": "x"})["CPUPerc"] == "0.00%"


def test_filters() -> None:
    assert filters(["status=exited", "label=a=b", "status=created"]) == {
        "status": ["exited", "created"],
        "label": ["a=b"],
    }
    with pytest.raises(InvalidArgument):
        filters(["status"])


# -- streams ------------------------------------------------------------------------------------------------------


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8), st.integers(1, 9))
def test_frames_come_out_whole_however_they_are_cut(frames: list[tuple[int, bytes]], step: int) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in frames)
    demultiplexer = Demultiplexer()
    found: list[tuple[int, bytes]] = []
    for start in range(0, len(data), step):
        found += demultiplexer.feed(data[start : start + step])
    for stream in (1, 2):
        assert b"".join(p for s, p in found if s == stream) == b"".join(p for s, p in frames if s == stream)


def test_what_is_not_framed_is_refused() -> None:
    for data in (b"hello, world", b"\4\0\0\0\0\0\0\1x", b"\1\0\0\1\0\0\0\1x"):
        with pytest.raises(BadResponse):
            Demultiplexer().feed(data)


def test_an_archive_that_is_sent_shows_its_progress_at_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"x" * (3 << 20))
    with open(archive, "rb") as file:
        assert sum(map(len, image.pieces(file))) == 3 << 20
    assert capfd.readouterr().err == ""
    master, slave = pty.openpty()
    with open(slave, "w") as terminal, open(archive, "rb") as file:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert sum(map(len, image.pieces(file))) == 3 << 20
        said = ""
        while not said.endswith(f"B\r{image.CLEAR}"):  # a terminal hands on what was written in pieces of its own
            said += os.read(master, 4096).decode()
    os.close(master)
    assert said.startswith(f"\r{image.CLEAR}sent 1.05MB of 3.15MB")
    assert said.endswith(f"\r{image.CLEAR}")


@pytest.mark.parametrize(
    ("rate", "shown"), [(0, "-"), (1250, "10kbit"), (1_250_000, "10mbit"), (187_500, "1.5mbit"), (125 * 10**9, "1tbit")]
)
def test_a_limit_is_shown_as_it_is_asked_for(rate: int, shown: str) -> None:
    assert traffic.bits(rate) == shown


def test_a_row_of_network_stats() -> None:
    def sample(received: int) -> dict[str, object]:
        directions = ("bytes", "packets", "errors", "dropped")
        counters = {f"rx_{what}": received + n for n, what in enumerate(directions)}
        counters |= {f"tx_{what}": n for n, what in enumerate(directions)}
        limits = {"rate_in": 1250, "rate_out": 0, "burst": 0}
        return {
            "Network": "n", "Container": "c", "Interface": "eth0", "EndpointID": "e", "Counters": counters, "Limits": limits
        }  # fmt: skip

    first = traffic.row(sample(4000), 10.0, None)
    assert first == {
        "Network": "n", "Container": "c", "Interface": "eth0", "NetIO": "4kB / 0B", "Rate": "-", "Packets": "4001 / 1",
        "Errors": "4002 / 2", "Dropped": "4003 / 3", "Limit": "10kbit / -",
    }  # fmt: skip
    before = (10.0, {"e": sample(4000)})
    assert traffic.row(sample(6000), 12.0, before)["Rate"] == "1kB/s / 0B/s"
    assert traffic.row(sample(100), 12.0, before)["Rate"] == "0B/s / 0B/s", "a container that joined anew counts from 0"
    assert traffic.row(sample(100), 12.0, (10.0, {}))["Rate"] == "-"
