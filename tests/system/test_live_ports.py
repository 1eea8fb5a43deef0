"""Ports of containers that run: added, withdrawn, listed, kept over restarts; by the API, the command, and real packets."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest

from pynet.plugins.testhost import Host, Lan

from support.engine import Bed, Daemon
from support.waiting import PATIENCE

PAGE = "mkdir -p /www; echo a page > /www/index.html; exec httpd -f -p 80 -h /www"


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


def served(daemon: Daemon, *options: str, script: str = PAGE) -> str:
    made = daemon.pynet("run", "-d", *options, "busybox", "sh", "-c", script)
    assert made.returncode == 0, made.stderr
    id = made.stdout.strip()
    if script == PAGE:
        daemon.eventually(lambda: ":80" in daemon.pynet("exec", id, "netstat", "-ltn").stdout)
    return id


def answer(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        found = b""
        while piece := sock.recv(4096):
            found += piece
    return found.decode().rpartition("\r\n\r\n")[2]


def paths(daemon: Daemon, ref: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["HostIp"], one["HostPort"]): one for one in daemon.get(f"/pynet/containers/{ref}/ports").body}


def test_a_port_is_added_and_withdrawn_while_the_container_runs(daemon: Daemon) -> None:
    served(daemon, "--name", "web", "-p", "8080:80")
    added = daemon.pynet("port", "add", "web", "8081:80", "127.0.0.1:8082:80")
    assert (added.returncode, added.stderr) == (0, "")
    assert added.stdout.splitlines()[0] == "80/tcp -> 0.0.0.0:8081"
    assert answer("127.0.0.1", 8081) == answer("127.0.0.1", 8082) == "a page\n"
    removed = daemon.pynet("port", "rm", "web", "8080")
    assert removed.stdout.splitlines() == ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080"]
    told = daemon.get("/events", since=0, until=int(time.time()) + 1, filters={"event": ["publish", "unpublish"]}).body
    assert [(one["Action"], one["Actor"]["Attributes"]["ports"]) for one in map(json.loads, told.splitlines())] == [
        ("publish", "8081:80/tcp,127.0.0.1:8082:80/tcp"),
        ("unpublish", "8080:80/tcp"),
    ]
    with pytest.raises(ConnectionRefusedError):
        answer("127.0.0.1", 8080)
    inspected = daemon.get("/containers/web/json").body
    assert sorted(inspected["HostConfig"]["PortBindings"]["80/tcp"], key=str) == [
        {"HostIp": "", "HostPort": "8081"},
        {"HostIp": "127.0.0.1", "HostPort": "8082"},
    ]
    assert {e["HostPort"] for e in inspected["NetworkSettings"]["Ports"]["80/tcp"]} == {"8081", "8082"}
    again = daemon.pynet("port", "rm", "web", "8080")
    assert again.returncode == 1
    assert again.stderr.splitlines() == [
        "pynet: Error response from daemon: container web publishes no host port 8080",
        "  it publishes 8081/tcp, 8082/tcp",
    ]


def test_what_was_added_outlives_restarts_of_the_container_and_of_pynetd(host: Host) -> None:
    with Daemon.running() as daemon:
        daemon.bootstrap()
        _restarts(daemon)


def _restarts(daemon: Daemon) -> None:
    served(daemon, "--name", "web", "-p", "8080:80")
    assert daemon.pynet("port", "add", "web", "8081:80").returncode == 0
    assert daemon.pynet("port", "rm", "web", "8080").returncode == 0
    daemon.wait_back(daemon.kill())
    assert answer("127.0.0.1", 8081) == "a page\n"
    assert daemon.post("/containers/web/restart", t=0).status == 204
    daemon.eventually(lambda: ":80" in daemon.pynet("exec", "web", "netstat", "-ltn").stdout)
    assert answer("127.0.0.1", 8081) == "a page\n"
    with pytest.raises(ConnectionRefusedError):
        answer("127.0.0.1", 8080)
    assert {port for _, port in paths(daemon, "web")} == {"8081"}


def test_ports_of_a_container_that_does_not_run_are_published_when_it_starts(daemon: Daemon) -> None:
    assert daemon.pynet("create", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", PAGE).returncode == 0
    added = daemon.pynet("port", "add", "web", "8081:80")
    assert added.stderr == "WARNING: the container does not run: they are published when it starts\n"
    assert daemon.pynet("port", "rm", "web", "8080").returncode == 0
    assert daemon.post("/containers/web/start").status == 204
    daemon.eventually(lambda: ":80" in daemon.pynet("exec", "web", "netstat", "-ltn").stdout)
    assert answer("127.0.0.1", 8081) == "a page\n"
    assert {port for _, port in paths(daemon, "web")} == {"8081"}


def test_ports_wait_for_a_network_that_publishes(daemon: Daemon) -> None:
    assert daemon.post("/networks/create", {"Name": "inside", "Internal": True}).status == 201
    served(daemon, "--name", "web", "--network", "inside", "-p", "8080:80")
    added = daemon.pynet("port", "add", "web", "8081:80")
    assert added.stderr.startswith("WARNING: the container is on no network that publishes ports")
    assert paths(daemon, "web") == {}
    assert daemon.pynet("network", "connect", "bridge", "web").returncode == 0
    assert answer("127.0.0.1", 8080) == answer("127.0.0.1", 8081) == "a page\n"


def test_a_range_and_two_protocols_at_once(daemon: Daemon) -> None:
    served(daemon, "--name", "web")
    added = daemon.pynet("port", "add", "web", "9000-9099:8000-8099/tcp+udp")
    assert (added.returncode, len(added.stdout.splitlines())) == (0, 400)  # two protocols, two families
    held = {(port, one["Port"]) for (_, port), one in paths(daemon, "web").items()}
    assert len(held) == 100
    removed = daemon.pynet("port", "rm", "web", "9010-9098/udp+tcp", "9000-9009/tcp")
    assert removed.returncode == 0
    left = daemon.get("/pynet/containers/web/ports").body
    assert sorted({(one["HostPort"], one["Port"]) for one in left}) == [
        *((f"900{n}", f"800{n}/udp") for n in range(10)),
        ("9099", "8099/tcp"),
        ("9099", "8099/udp"),
    ]


def test_one_address_of_a_port_goes_and_the_other_stays(daemon: Daemon) -> None:
    served(daemon, "--name", "web", "-p", "8080:80")
    assert daemon.pynet("port", "rm", "web", "0.0.0.0:8080").stdout == "80/tcp -> 0.0.0.0:8080\n"
    assert set(paths(daemon, "web")) == {("::", "8080")}
    bindings = daemon.get("/containers/web/json").body["HostConfig"]["PortBindings"]
    assert bindings == {"80/tcp": [{"HostIp": "::", "HostPort": "8080"}]}


def test_exposed_ports_that_were_published_all_can_go_one_by_one(daemon: Daemon) -> None:
    served(daemon, "--name", "web", "-P", "--expose", "80", "--expose", "81-82")
    found = daemon.get("/pynet/containers/web/ports").body
    assert {one["Port"] for one in found} == {"80/tcp", "81/tcp", "82/tcp"}
    gone = next(one["HostPort"] for one in found if one["Port"] == "81/tcp")
    assert daemon.pynet("port", "rm", "web", gone).returncode == 0
    daemon.post("/containers/web/restart", t=0)
    assert {one["Port"] for one in daemon.get("/pynet/containers/web/ports").body} == {"80/tcp", "82/tcp"}


def test_a_port_that_somebody_has_is_refused_by_the_name_of_who_has_it(daemon: Daemon) -> None:
    served(daemon, "--name", "first", "-p", "8080:80")
    served(daemon, "--name", "second")
    refused = daemon.pynet("port", "add", "second", "8081:80", "8080:80")
    assert refused.returncode == 1
    assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in refused.stderr
    assert "container first holds it" in refused.stderr
    with socket.create_server(("127.0.0.1", 8082)):
        taken = daemon.pynet("port", "add", "second", "8082:80")
    assert "failed to bind host port 0.0.0.0:8082/tcp: address already in use" in taken.stderr
    assert f"(pid {os.getpid()}) holds it" in taken.stderr
    assert paths(daemon, "second") == {}
    assert daemon.get("/containers/second/json").body["HostConfig"]["PortBindings"] == {}
    assert daemon.get("/pynet/check").body == []


def test_which_way_a_port_takes_is_told(daemon: Daemon) -> None:
    id = served(daemon, "--name", "web", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "8082:80,proxy-protocol=2")
    address = daemon.get("/containers/web/json").body["NetworkSettings"]["IPAddress"]
    ways = {key: (one["Path"], one["Why"]) for key, one in paths(daemon, id).items()}
    assert ways["0.0.0.0", "8080"] == ("both", "NAT, and the proxy for clients on the host's loopback")
    assert ways["::", "8080"] == ("proxy", "the host's address is IPv6 and the container has IPv4 alone")
    assert ways["127.0.0.1", "8081"][0] == "proxy"
    assert ways["0.0.0.0", "8082"] == ("proxy", "the PROXY protocol (version 2) was asked for")
    shown = daemon.pynet("port", "--verbose", "web").stdout
    assert f"80/tcp   0.0.0.0:8080     both    {address}:80" in shown
    assert daemon.get("/containers/web/json").body["NetworkSettings"]["PortPaths"] == list(paths(daemon, id).values())


def test_a_dry_run_shows_what_would_be_made_and_makes_nothing(daemon: Daemon) -> None:
    served(daemon, "--name", "web")
    before = daemon.get("/containers/web/json").body
    shown = daemon.pynet("port", "--dry-run", "add", "web", "8080:80")
    assert [line.split(":")[0] for line in shown.stdout.splitlines()] == [
        "make listening on tcp/0.0.0.0/8080, tcp/",
        f"make NAT of the published ports of sandbox {before['Id'][:12]}",
        f"make proxy of the published ports of sandbox {before['Id'][:12]}",
    ]
    assert daemon.get("/containers/web/json").body == before
    with socket.create_server(("0.0.0.0", 8080)):
        pass  # nobody holds it


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("host", "conflicting options: port publishing and the host network mode"),
        ("container:web", "conflicting options: port publishing and the container type network mode"),
    ],
)
def test_who_has_no_network_of_its_own_publishes_nothing(daemon: Daemon, mode: str, message: str) -> None:
    served(daemon, "--name", "web")
    assert daemon.pynet("create", "--name", "other", "--network", mode, "busybox", "true").returncode == 0
    refused = daemon.post("/pynet/containers/other/ports", {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}})
    assert (refused.status, refused.body["message"]) == (403, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "no port to publish: PortBindings must name one"),
        ({"PortBindings": {"80/tcp": [{"HostPort": "0-7"}]}}, "invalid port specification"),
        ({"PortBindings": {"80/tcp": [{"HostIp": "nonsense"}]}}, "invalid IP address: nonsense"),
        ({"PortBindings": []}, "invalid JSON: PortBindings must be an object"),
        ({"Ports": {"80/tcp": []}}, "Ports has no effect: it is no field that this engine knows"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(daemon: Daemon, body: dict[str, Any], message: str) -> None:
    served(daemon, "--name", "web")
    refused = daemon.post("/pynet/containers/web/ports", body)
    assert refused.status == 400
    assert refused.body["message"].startswith(message)
    assert daemon.delete("/pynet/containers/web/ports", port="x").status == 400
    assert daemon.delete("/pynet/containers/web/ports").status == 400


def test_a_udp_client_is_answered_by_who_has_the_port_now(daemon: Daemon, bed: Bed) -> None:
    """A client that keeps its source port: its flow to the last owner of the port is forgotten."""
    lan = bed.lan
    with ExitStack() as stack:
        servers: dict[str, socket.socket] = {}
        for name in ("one", "two"):
            served(daemon, "--name", name, script="sleep 1000")
            fd = os.open(daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["SandboxKey"], os.O_RDONLY)
            stack.callback(os.close, fd)
            server = lan.netns_thread.socket(fd, socket.AF_INET, socket.SOCK_DGRAM)
            servers[name] = stack.enter_context(server)
            server.settimeout(PATIENCE)
            server.bind(("0.0.0.0", 53))
        client = stack.enter_context(lan.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(PATIENCE)
        client.connect((Lan.host_address, 5353))
        for name, server in servers.items():
            assert daemon.pynet("port", "add", name, "5353:53/udp").returncode == 0
            client.send(b"for " + name.encode())
            question, sender = server.recvfrom(100)
            assert (question, sender) == (b"for " + name.encode(), (Lan.address, client.getsockname()[1]))
            server.sendto(name.encode(), sender)
            assert client.recv(100) == name.encode()
            assert daemon.pynet("port", "rm", name, "5353/udp").returncode == 0


def test_a_connection_outlives_its_port_for_a_while_and_those_of_others_entirely(daemon: Daemon) -> None:
    served(daemon, "--name", "web", "-p", "8080:7", script="while :; do nc -l -p 7 -e cat; done")
    daemon.eventually(lambda: ":7 " in daemon.pynet("exec", "web", "netstat", "-ltn").stdout)
    with socket.create_connection(("127.0.0.1", 8080), timeout=PATIENCE) as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        assert daemon.pynet("port", "add", "web", "8081:7", "8082:7").returncode == 0
        assert daemon.pynet("port", "rm", "web", "8080", "8082").returncode == 0
        sock.sendall(b"after")
        assert sock.recv(100) == b"after"
