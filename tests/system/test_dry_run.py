"""``--dry-run``: the plan of a change is what the change then makes, its errors are the change's, and nothing is done."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from support.engine import Bed, Daemon
from support.leaks import changes


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


def state(daemon: Daemon) -> list[Any]:
    """All that a change could change."""
    return [
        daemon.get("/networks").body,
        daemon.get("/containers/json", all=1).body,
        [{**daemon.get(f"/networks/{one['Id']}").body} for one in daemon.get("/networks").body],
        daemon.get("/volumes").body,
        daemon.get("/pynet/check").body,
    ]


def shown(daemon: Daemon, *words: str) -> list[str]:
    done = daemon.pynet(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_network(daemon: Daemon, bed: Bed) -> None:
    before, kernel = state(daemon), bed.host.snapshot()
    words = ["network", "create", "--subnet", "10.91.0.0/24", "-o", "bridge=planned0", "web"]
    lines = shown(daemon, *words, "--dry-run")
    assert "make bridge planned0: 10.91.0.1/24," in "\n".join(lines)
    assert any(line.startswith("make firewall rules of planned0: 10.91.0.0/24, masquerade") for line in lines)
    steps = [json.loads(line) for line in shown(daemon, *words, "--dry-run", "--json")]
    assert [f"{one['Verb']} {one['What'].split(',')[0]}" for one in steps] == [line.split(",")[0] for line in lines]
    assert state(daemon) == before
    assert changes(bed.host, kernel) == []
    shown(daemon, *words)  # the subnet and the name are free
    again = daemon.pynet(*words, "--dry-run")
    assert (again.returncode, "network with name web already exists" in again.stderr) == (1, True)


def test_a_subnet_that_was_only_shown_is_the_next_networks(daemon: Daemon) -> None:
    first = shown(daemon, "network", "create", "--dry-run", "one")
    assert shown(daemon, "network", "create", "--dry-run", "two")[0] == first[0]
    bridge = next(line for line in first if line.startswith("make bridge"))
    shown(daemon, "network", "create", "one")
    assert daemon.get("/networks/one").body["IPAM"]["Config"][0]["Gateway"] in bridge


def test_a_container_on_two_networks_with_a_port(daemon: Daemon, bed: Bed) -> None:
    shown(daemon, "network", "create", "--subnet", "10.91.0.0/24", "a")
    shown(daemon, "network", "create", "--subnet", "10.92.0.0/24", "b")
    before, kernel = state(daemon), bed.host.snapshot()
    words = ["--name", "box", "--network", "name=a,ip=10.91.0.7", "--network", "name=b,gw-priority=1", "-p", "8080:80"]
    for command in (["run", "--dry-run", *words], ["run", "-d", "--dry-run", *words], ["create", "--dry-run", *words]):
        lines = shown(daemon, *command, "busybox", "sleep", "1000")
        text = "\n".join(lines)
        assert lines[0].startswith("make network namespace ")
        assert "make interface eth0 in " in text and "10.91.0.7/24" in text
        assert "make interface eth1 in " in text and "10.92.0.2/24" in text
        assert "make default route in " in text and ": 10.92.0.1 on eth1" in text
        assert "0.0.0.0:8080/tcp -> 10.92.0.2:80" in text or ":8080/tcp -> 10.92.0.2:80" in text
    assert state(daemon) == before
    assert changes(bed.host, kernel) == []
    shown(daemon, "run", "-d", *words, "busybox", "sleep", "1000")
    found = daemon.get("/containers/box/json").body["NetworkSettings"]["Networks"]
    assert (found["a"]["IPAddress"], found["b"]["IPAddress"]) == (
        "10.91.0.7",
        "10.92.0.2",
    )  # the address was not used up


def test_a_connection(daemon: Daemon) -> None:
    shown(daemon, "network", "create", "--subnet", "10.91.0.0/24", "a")
    shown(daemon, "network", "create", "--subnet", "10.92.0.0/24", "b")
    shown(daemon, "run", "-d", "--name", "box", "--network", "a", "-p", "8080:80", "busybox", "sleep", "1000")
    before = state(daemon)
    lines = shown(daemon, "network", "connect", "--dry-run", "--gw-priority", "5", "b", "box")
    verbs = [line.split(" in ")[0].split(" of ")[0] for line in lines]
    assert "make interface eth1" in verbs
    assert "alter default route" in verbs
    assert "alter NAT" in verbs  # the port would lead to the new network
    assert state(daemon) == before
    shown(daemon, "create", "--name", "idle", "busybox", "true")
    assert shown(daemon, "network", "connect", "--dry-run", "b", "idle") == []


def test_what_goes_and_what_is_limited(daemon: Daemon) -> None:
    shown(daemon, "network", "create", "--subnet", "10.91.0.0/24", "a")
    shown(
        daemon,
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "a",
        "-p",
        "8080:80",
        "-p",
        "8081:81",
        "busybox",
        "sleep",
        "1000",
    )
    shown(daemon, "network", "connect", "bridge", "box")
    before = state(daemon)
    lines = shown(daemon, "port", "--dry-run", "rm", "box", "8080")
    assert any(line.startswith("alter NAT of the published ports") and "8080" not in line for line in lines), lines
    lines = shown(daemon, "network", "limit", "--dry-run", "--rate-in", "1mbit", "a", "box")
    assert [line.split()[0] for line in lines] == ["make"]
    assert "1000kbit" in lines[0]
    lines = shown(daemon, "network", "disconnect", "--dry-run", "a", "box")
    assert any(line.startswith("unmake interface eth0") for line in lines), lines
    steps = [json.loads(line) for line in shown(daemon, "network", "disconnect", "--dry-run", "--json", "a", "box")]
    assert [f"{step['Verb']} {step['What']}" for step in steps] == lines
    assert state(daemon) == before
    assert daemon.get("/pynet/networks/stats", network="a").body[0]["Limits"]["rate_in"] == 0

    shown(daemon, "create", "--name", "idle", "--network", "a", "-p", "8082:80", "busybox", "true")
    assert shown(daemon, "port", "--dry-run", "rm", "idle", "8082") == []
    assert shown(daemon, "network", "limit", "--dry-run", "--rate-in", "1mbit", "a", "idle") == []
    assert shown(daemon, "network", "disconnect", "--dry-run", "a", "idle") == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["port", "--dry-run", "rm", "box", "9999"], 1, "publishes no host port 9999"),
        (["network", "disconnect", "--dry-run", "b", "box"], 1, "is not connected to network b"),
        (["network", "limit", "--dry-run", "--rate-in", "fast", "a", "box"], 1, "fast"),
        (["network", "limit", "--dry-run", "--rate-in", "1mbit", "b", "box"], 1, "is not connected to network b"),
        (["run", "--dry-run", "--name", "box", "busybox", "true"], 125, 'The container name "/box" is already in use'),
        (["run", "--dry-run", "--network", "nosuch", "busybox", "true"], 125, "network nosuch not found"),
        (["run", "--dry-run", "nosuch", "true"], 125, "No such image: nosuch:latest"),
        (["run", "--dry-run", "-p", "8080:80", "busybox", "true"], 125, "port is already allocated"),
        (
            ["run", "--dry-run", "--network", "name=a,ip=10.99.0.1", "busybox", "true"],
            125,
            "no configured subnet contains",
        ),
        (["run", "--dry-run", "--network", "name=a,ip=10.91.0.2", "busybox", "true"], 125, "Address already in use"),
        (["network", "connect", "--dry-run", "a", "box"], 1, "endpoint with name box already exists in network a"),
        (["network", "connect", "--dry-run", "--ip", "10.99.0.1", "b", "box"], 1, "no configured subnet contains"),
        (["network", "create", "--dry-run", "--subnet", "10.91.0.0/25", "x"], 1, "Pool overlaps"),
        (["port", "--dry-run", "add", "box", "8080:81"], 1, "port is already allocated"),
    ],
)
def test_an_error_is_the_changes_own(daemon: Daemon, words: list[str], code: int, message: str) -> None:
    shown(daemon, "network", "create", "--subnet", "10.91.0.0/24", "a")
    shown(daemon, "network", "create", "--subnet", "10.92.0.0/24", "b")
    shown(daemon, "run", "-d", "--name", "box", "--network", "a", "-p", "8080:80", "busybox", "sleep", "1000")
    before = state(daemon)
    done = daemon.pynet(*words)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert state(daemon) == before


def test_who_shares_a_network_or_has_the_hosts_needs_nothing_made(daemon: Daemon) -> None:
    shown(daemon, "run", "-d", "--name", "box", "busybox", "sleep", "1000")
    assert shown(daemon, "run", "--dry-run", "--network", "container:box", "busybox", "true") == []
    assert shown(daemon, "run", "--dry-run", "--network", "host", "busybox", "true") == []
    assert len(shown(daemon, "run", "--dry-run", "--network", "none", "busybox", "true")) == 1


def test_ports_that_were_only_shown_are_free(daemon: Daemon) -> None:
    shown(daemon, "run", "--dry-run", "-p", "8080:80", "-p", "9000-9010:80", "busybox", "true")
    with socket.create_server(("0.0.0.0", 8080)), socket.create_server(("0.0.0.0", 9000)):
        pass
    shown(daemon, "run", "-d", "-p", "8080:80", "busybox", "sleep", "1000")
