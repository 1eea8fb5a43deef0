"""What others delete is found by name and repaired, with containers running and traffic going on.

pynetd watches some of it and mends it by itself (netlib/link_watch.py, the firewall's events): of that a check may find all, some
or nothing, and nothing else.  What is inside sandboxes nobody watches: there the names are exact.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from pynet.netlib.kernel.libnftables import Nft
from pynet.netlib.kernel.rtnetlink import Rtnetlink
from pynet.netlib.kernel.rtnl_routes import RouteInfo
from pynet.plugins.testhost import Host, Lan

from support.engine import Bed, Daemon
from support.waiting import PATIENCE


@pytest.fixture
def playing(bed: Bed) -> Bed:
    """Two containers on a network: "web" with a published port, and "peer"."""
    daemon = bed.daemon
    for words in (
        ("network", "create", "--subnet", "10.91.0.0/24", "-o", "bridge=repaired0", "net"),
        ("run", "-d", "--name", "web", "--network", "net", "-p", "8080:80", "busybox", "sleep", "1000"),
        ("run", "-d", "--name", "peer", "--network", "net", "busybox", "sleep", "1000"),
    ):
        done = daemon.pynet(*words)
        assert done.returncode == 0, done.stderr
    return bed


class Traffic:
    """A server in "web": a connection from "peer" that talks all the time, and new ones from the LAN."""

    def __init__(self, playing: Bed, stack: ExitStack) -> None:
        self.daemon, _, self.lan = playing
        self.fds: dict[str, int] = {}
        for name in ("web", "peer"):
            key = self.daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["SandboxKey"]
            self.fds[name] = os.open(key, os.O_RDONLY)
            stack.callback(os.close, self.fds[name])
        self.address = self.daemon.get("/containers/web/json").body["NetworkSettings"]["Networks"]["net"]["IPAddress"]
        self.server = stack.enter_context(self.inside("web", socket.create_server, ("", 80)))
        self.server.settimeout(PATIENCE)
        self.client = stack.enter_context(self.inside("peer", socket.create_connection, (self.address, 80), PATIENCE))
        self.accepted = stack.enter_context(self.server.accept()[0])
        self.client.settimeout(PATIENCE)
        self.accepted.settimeout(PATIENCE)
        self.rounds, self.lost, self.done = 0, "", threading.Event()
        self.thread = threading.Thread(target=self.talk)

    def inside(self, name: str, function: Callable[..., socket.socket], *arguments: object) -> socket.socket:
        return self.lan.netns_thread.call(self.fds[name], function, *arguments)

    def talk(self) -> None:
        try:
            while not self.done.is_set():
                self.client.sendall(b"x")
                if self.accepted.recv(1) != b"x":
                    self.lost = "the connection ended"
                    return
                self.rounds += 1
        except OSError as error:
            self.lost = str(error)

    def new(self) -> None:
        """A connection of the LAN through the published port is answered by the container."""
        with self.lan.connect((Lan.host_address, 8080), PATIENCE):
            arrived, (sender, _) = self.server.accept()
            arrived.close()
            assert sender == Lan.address


@contextmanager
def traffic(playing: Bed) -> Generator[Traffic]:
    with ExitStack() as stack:
        found = Traffic(playing, stack)
        found.thread.start()
        try:
            yield found
        finally:
            found.done.set()
            found.thread.join()


def differences(daemon: Daemon, *, watched: bool = False) -> list[str]:
    """By the command, whose status says whether there are any.  Its two forms agree, unless pynetd mended it in between."""
    plain, objects = daemon.pynet("check"), daemon.pynet("check", "--json")
    shown = [line for line in plain.stdout.splitlines() if line != "`pynet repair` brings the kernel in line"]
    found = [" ".join(json.loads(line).values()) for line in objects.stdout.splitlines()]
    assert objects.returncode == (1 if found else 0)
    if plain.returncode:
        assert plain.returncode == 1 and len(plain.stdout.splitlines()) == len(shown) + 1
    else:
        assert shown == ["all is as it should be"]
        shown = []
    assert shown == found or (watched and set(found) < set(shown))
    return shown


def repaired(daemon: Daemon, found: list[str], *, watched: bool = False) -> None:
    """Repair says what check said, unless pynetd was faster, and then all is as it should be."""
    done = daemon.pynet("repair")
    assert (done.returncode, done.stderr) == (0, "")
    if not watched:
        assert done.stdout.splitlines() == [f"repaired: {line}" for line in found]
    assert differences(daemon) == []


def host_end(host: Host, daemon: Daemon, name: str) -> str:
    id = daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["Networks"]["net"]["EndpointID"]
    return next(link.name for link in host.rtnl.links() if link.name.startswith("pv") and id.startswith(link.name[2:]))


def test_nothing_is_different(playing: Bed) -> None:
    assert differences(playing.daemon) == []
    assert playing.daemon.pynet("repair").stdout == "nothing to repair\n"


def test_a_bridge(playing: Bed) -> None:
    daemon, host, _ = playing
    with traffic(playing) as going:
        index = host.rtnl.index("repaired0")
        host.rtnl.delete_link(index)
        found = differences(daemon, watched=True)
        known = {"repaired0", *(host_end(host, daemon, name) for name in ("peer", "web"))}
        assert {line.removeprefix("missing link ") for line in found if "link" in line} <= known
        repaired(daemon, found, watched=True)
        assert host.rtnl.index("repaired0") not in (0, index)
        before = going.rounds
        daemon.eventually(lambda: going.rounds > before + 10 or going.lost)
        going.new()
    assert not going.lost  # it waited, and went on


def test_a_veth_pair(playing: Bed) -> None:
    daemon, host, _ = playing
    with traffic(playing) as going:
        going.done.set()  # its own way is cut: such a connection may be lost
        going.thread.join()
        end = host_end(host, daemon, "web")
        index = host.rtnl.index(end)
        host.rtnl.delete_link(index)
        key = daemon.get("/containers/web/json").body["NetworkSettings"]["SandboxKey"]
        found = differences(daemon, watched=True)
        assert set(found) <= {f"missing link {end}", f"missing route 10.91.0.1 in {key}"}
        repaired(daemon, found, watched=True)
        assert host.rtnl.index(end) not in (0, index)
        going.new()


def test_a_route_inside(playing: Bed) -> None:
    daemon, _, lan = playing
    with traffic(playing) as going:
        fd = going.fds["web"]

        def delete() -> None:
            with Rtnetlink() as rtnl:
                rtnl.delete_route(RouteInfo(gateway="10.91.0.1", device=rtnl.index("eth0")))

        lan.netns_thread.call(fd, delete)
        key = daemon.get("/containers/web/json").body["NetworkSettings"]["SandboxKey"]
        found = differences(daemon)
        assert found == [f"missing route 10.91.0.1 in {key}"]
        repaired(daemon, found)
        going.new()
    assert not going.lost


def nft(host: Host, use: Callable[[Nft], list[dict[str, Any]] | None]) -> list[dict[str, Any]]:
    def act() -> list[dict[str, Any]]:
        ruleset = Nft()
        try:
            return use(ruleset) or []
        finally:
            ruleset.close()

    return host.call(act)


def maps_with_ports(host: Host, table: str) -> list[str]:
    """Maps of the table in which the published port is."""
    listed = [one["map"] for one in nft(host, lambda ruleset: ruleset.list(f"list table inet {table}")) if "map" in one]
    found = [one["name"] for one in listed if "8080" in json.dumps(one.get("elem", ""))]
    assert found
    return found


def test_a_published_ports_rule_and_the_whole_table(playing: Bed) -> None:
    daemon, host, _ = playing
    known = [one["table"] for one in nft(host, lambda ruleset: ruleset.list("list tables")) if "table" in one]
    (table,) = [one["name"] for one in known if one["name"].startswith("pynet")]
    with traffic(playing) as going:
        maps = maps_with_ports(host, table)
        for destroy in ("".join(f"flush map inet {table} {name}\n" for name in maps), f"delete table inet {table}"):
            nft(host, lambda ruleset: ruleset.run(destroy))  # noqa: B023
            found = differences(daemon, watched=True)
            assert all(line.startswith("missing rule ") for line in found), found
            repaired(daemon, found, watched=True)
            going.new()
    assert not going.lost


def test_a_stray_interface_is_named_and_taken_away(playing: Bed) -> None:
    daemon, host, _ = playing
    group = next(link.group for link in host.rtnl.links() if link.name == "repaired0")
    host.rtnl.add_bridge("stray0", mac="02:00:00:00:00:01", mtu=1500, group=group, up=False)
    with traffic(playing) as going:
        assert differences(daemon) == ["stray link stray0"]
        repaired(daemon, ["stray link stray0"])
        going.new()
    assert host.rtnl.index("stray0") == 0
