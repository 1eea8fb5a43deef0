"""Macvlan networks by Docker's own client, the pynet command and the Engine API: containers on the wire of a LAN."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pynet.engine.container.run import HELPER_PATIENCE
from pynet.plugins.testhost import Host, Lan, playing_host, playing_lan

from support.dhcp import DhcpServer
from support.engine import Bed, Daemon
from support.waiting import PATIENCE

PAGE = "mkdir -p /www; echo a page > /www/index.html; exec httpd -f -p 80 -h /www"
LAN_OPTIONS = (
    *("-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.0.2.0/24"),
    *("--ip-range", "192.0.2.128/26", "--gateway", Lan.address),
)
needs_docker = pytest.mark.skipif(shutil.which("docker") is None, reason="the docker client is not installed")


def page(host: Host | Lan, address: str) -> str:
    """What is served there, seen from a machine."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{address}/", timeout=PATIENCE) as response:
            return str(response.read().decode())

    return host.call(fetch)


def serve(daemon: Daemon, *options: str) -> None:
    id = daemon.pynet("run", "-d", *options, "busybox", "sh", "-c", PAGE).stdout.strip()
    daemon.eventually(lambda: ":80" in daemon.pynet("exec", id, "netstat", "-ltn").stdout)


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get(f"/networks/{name}").body
    return found


@needs_docker
def test_dockers_client_makes_the_network_and_its_containers_are_on_the_lan(bed: Bed) -> None:
    daemon = bed.daemon
    id = daemon.docker("network", "create", *LAN_OPTIONS, "-o", "macvlan_mode=bridge", "office").stdout.strip()
    listed = daemon.docker(
        "network", "ls", "--filter", "driver=macvlan", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"
    )
    assert listed.stdout == "office macvlan local\n"
    shape = json.loads(daemon.docker("network", "inspect", "office").stdout)[0]
    assert shape["Id"] == id
    assert (shape["Driver"], shape["Internal"], shape["EnableIPv4"]) == ("macvlan", False, True)
    assert shape["Options"] == {"parent": "eth0", "macvlan_mode": "bridge"}
    assert shape["IPAM"]["Config"] == [{"Subnet": "192.0.2.0/24", "IPRange": "192.0.2.128/26", "Gateway": Lan.address}]
    serve(daemon, "--network", "office", "--name", "web", "--ip", "192.0.2.200")
    assert page(bed.lan, "192.0.2.200") == "a page\n"
    said = daemon.docker("run", "--rm", "--network", "office", "busybox", "wget", "-qO-", "http://192.0.2.200/")
    assert said.stdout == "a page\n"
    settings = json.loads(daemon.docker("inspect", "web").stdout)[0]["NetworkSettings"]["Networks"]["office"]
    assert (settings["IPAddress"], settings["Gateway"], settings["IPPrefixLen"]) == ("192.0.2.200", Lan.address, 24)
    assert settings["MacAddress"] == "02:42:c0:00:02:c8"
    assert daemon.docker("exec", "web", "cat", "/sys/class/net/eth0/address").stdout == "02:42:c0:00:02:c8\n"
    assert Lan.address in daemon.docker("exec", "web", "ip", "route", "show", "default").stdout
    refused = daemon.docker("network", "rm", "office", check=False)
    assert "has active endpoints" in refused.stderr
    daemon.docker("rm", "-f", "web")
    daemon.docker("network", "rm", "office")


def test_the_host_reaches_its_containers_and_they_the_host(bed: Bed) -> None:
    daemon = bed.daemon
    created = daemon.pynet("network", "create", *LAN_OPTIONS, "-o", "host_access=true", "office")
    assert created.returncode == 0, created.stderr
    own = inspect(daemon, "office")["IPAM"]["Config"][0]["AuxiliaryAddresses"]["host"]
    assert own == "192.0.2.128"
    serve(daemon, "--network", "office", "--name", "web")
    address = next(iter(inspect(daemon, "office")["Containers"].values()))["IPv4Address"].partition("/")[0]
    assert page(bed.host, address) == "a page\n"
    with bed.host.listen((own, 8000)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(PATIENCE)
        sent = pool.submit(daemon.pynet, "exec", "web", "sh", "-c", f"echo hello | nc {own} 8000")
        taken, (peer, _) = listener.accept()
        with taken:
            assert (taken.recv(6), peer) == (b"hello\n", address)
    assert sent.result().returncode == 0, sent.result().stderr
    daemon.pynet("rm", "-f", "web")
    assert f"{address}/32" not in {route.destination for route in bed.host.rtnl.routes()}
    daemon.pynet("network", "rm", "office")
    daemon.eventually(lambda: not [link for link in bed.host.rtnl.links() if link.kind == "macvlan"])


def test_the_way_outlives_a_pynetd_that_is_killed() -> None:
    with playing_host() as host, playing_lan(host) as lan, Daemon.running() as daemon:
        daemon.bootstrap()
        daemon.pynet("network", "create", *LAN_OPTIONS, "-o", "host_access=true", "office")
        serve(daemon, "--network", "office", "--name", "web", "--ip", "192.0.2.200")
        daemon.wait_back(daemon.kill())
        assert page(host, "192.0.2.200") == page(lan, "192.0.2.200") == "a page\n"
        checked = daemon.pynet("check")
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout


def test_a_running_container_comes_to_the_lan_and_leaves_it(bed: Bed) -> None:
    daemon = bed.daemon
    daemon.pynet("network", "create", *LAN_OPTIONS, "office")
    serve(daemon, "--name", "web", "-p", "8080:80")

    def ways() -> set[str]:
        """Where its default route leads."""
        shown = daemon.pynet("exec", "web", "ip", "route").stdout
        return {line.split()[2] for line in shown.splitlines() if line.startswith("default")}

    before = ways()
    connected = daemon.pynet("network", "connect", "--gw-priority", "-1", "office", "web")
    assert connected.returncode == 0, connected.stderr
    address = next(iter(inspect(daemon, "office")["Containers"].values()))["IPv4Address"].partition("/")[0]
    assert page(bed.lan, address) == "a page\n"
    assert ways() == before, "the bridge goes before it"
    daemon.pynet("network", "disconnect", "office", "web")
    daemon.pynet("network", "connect", "--gw-priority", "1", "--ip", "192.0.2.201", "office", "web")
    assert ways() == {Lan.address}
    assert page(bed.lan, "192.0.2.201") == "a page\n"
    daemon.pynet("network", "disconnect", "office", "web")
    assert ways() == before
    assert page(bed.lan, f"{Lan.host_address}:8080") == "a page\n"
    assert inspect(daemon, "office")["Containers"] == {}


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"parent": "eth7"}, 404, "parent interface eth7 not found"),
        ({"parent": "lo"}, 400, "loopback interface is not a valid macvlan parent link"),
        (
            {"parent": "eth0", "macvlan_mode": "nat"},
            400,
            "requested macvlan mode 'nat' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        ({"parent": "eth0", "parnet": "x"}, 400, "unknown option parnet for the macvlan driver"),
        (
            {"parent": "eth0", "host_access": "yes"},
            400,
            "invalid value 'yes' for option host_access: not true or false",
        ),
    ],
)
def test_what_is_refused_and_how(bed: Bed, options: dict[str, str], status: int, message: str) -> None:
    reply = bed.daemon.post("/networks/create", {"Name": "x", "Driver": "macvlan", "Options": options})
    assert (reply.status, reply.body["message"]) == (status, message)
    assert bed.daemon.get("/networks/x").status == 404
    # nothing was left: neither the name nor the subnet
    subnet = {"Config": [{"Subnet": "10.7.0.0/24"}]}
    for body in (
        {"Name": "x", "Driver": "macvlan", "Options": options, "IPAM": subnet},
        {"Name": "x", "Driver": "macvlan", "IPAM": subnet},
    ):
        reply = bed.daemon.post("/networks/create", body)
    assert reply.status == 201


def test_containers_have_the_addresses_that_the_lans_server_gives(bed: Bed) -> None:
    daemon = bed.daemon
    with DhcpServer(bed.lan, ["192.0.2.100", "192.0.2.101"]) as server:
        made = daemon.pynet(
            "network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipam-driver", "dhcp", "office"
        )
        assert made.returncode == 0, made.stderr
        shape = inspect(daemon, "office")["IPAM"]
        assert (shape["Driver"], shape["Config"]) == ("dhcp", [])
        serve(daemon, "--network", "office", "--name", "web")
        assert server.next("discover").hostname == "web"
        settings = daemon.get("/containers/web/json").body["NetworkSettings"]["Networks"]["office"]
        assert (settings["IPAddress"], settings["IPPrefixLen"], settings["Gateway"]) == ("192.0.2.100", 24, Lan.address)
        assert settings["MacAddress"] in server.lent
        assert page(bed.lan, "192.0.2.100") == "a page\n"
        daemon.pynet("restart", "-t", "0", "web")
        assert server.next("release").client == "192.0.2.100"
        assert server.next("discover").mac == settings["MacAddress"]
        again = daemon.get("/containers/web/json").body["NetworkSettings"]["Networks"]["office"]
        assert again["IPAddress"] == settings["IPAddress"]
        daemon.pynet("rm", "-f", "web")
        assert server.next("release").client == "192.0.2.100"
    daemon.pynet("network", "rm", "office")
    daemon.pynet(
        *("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipam-driver", "dhcp"),
        *("--ipam-opt", "timeout=1", "office"),
    )
    begun = time.monotonic()
    failed = daemon.pynet("run", "--rm", "--network", "office", "busybox", "true")
    assert time.monotonic() - begun < HELPER_PATIENCE, "it waited for a process of the engine's to come back"
    assert failed.returncode == 125
    assert "no DHCP server answered on eth0 within 1 s" in failed.stderr
    assert inspect(daemon, "office")["Containers"] == {}


def test_who_waits_for_a_server_keeps_nobody_from_looking(bed: Bed) -> None:
    """Eighteen starts, each up to a minute: sixteen of them had all the threads that answer."""
    daemon, count = bed.daemon, 18
    options = ("--ipam-driver", "dhcp", "--ipam-opt", "timeout=60")
    made = daemon.pynet("network", "create", "-d", "macvlan", "-o", "parent=eth0", *options, "office")
    assert made.returncode == 0, made.stderr
    names = [f"box-{number}" for number in range(count)]
    for name in names:
        body = {
            "Image": "busybox",
            "Cmd": ["sleep", "1000"],
            "StopSignal": "KILL",
            "HostConfig": {"NetworkMode": "office"},
        }
        assert daemon.post("/containers/create", body, name=name).status == 201
    ended: list[int] = []

    def begin(name: str) -> None:
        ended.append(daemon.post(f"/containers/{name}/start").status)

    starts = [threading.Thread(target=begin, args=(name,)) for name in names]
    for start in starts:
        start.start()
    daemon.eventually(lambda: len(os.listdir(daemon.run / "netns")) >= 16)
    assert len(daemon.get("/containers/json", all=1).body) == count
    assert daemon.get("/containers/box-0/json").body["State"]["Running"] is False
    assert ended == []
    with DhcpServer(bed.lan, [f"192.0.2.{100 + number}" for number in range(count)]):
        for start in starts:
            start.join()
        assert ended == [204] * count
        daemon.pynet("rm", "-f", *names)
    daemon.pynet("network", "rm", "office")


def test_an_address_that_its_server_does_not_renew_is_seen_to_be_gone(bed: Bed) -> None:
    daemon = bed.daemon
    with DhcpServer(bed.lan, ["192.0.2.100", "192.0.2.101"]) as server:
        made = daemon.pynet(
            "network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipam-driver", "dhcp", "office"
        )
        assert made.returncode == 0, made.stderr
        daemon.pynet("run", "-d", "--network", "office", "--name", "peer", "busybox", "sleep", "1000")
        server.seconds = 6
        daemon.pynet("run", "-d", "--network", "office", "--name", "web", "busybox", "sleep", "1000")

        def found(name: str) -> str:
            """What peer finds under a name, and what web has in its file."""
            return daemon.pynet("exec", "peer", "nslookup", name).stdout + hosts()

        def hosts() -> str:
            return daemon.pynet("exec", "web", "cat", "/etc/hosts").stdout

        def address() -> str:
            return str(daemon.get("/containers/web/json").body["NetworkSettings"]["Networks"]["office"]["IPAddress"])

        assert address() == "192.0.2.101"
        assert found("web").count("192.0.2.101") == 2
        server.silent = {"request", "discover"}
        daemon.eventually(lambda: address() == "")
        daemon.eventually(lambda: "192.0.2.101" not in found("web"))
        checked = daemon.pynet("check")
        assert (checked.returncode, checked.stdout) == (1, "missing lease 192.0.2.101/24 of endpoint web\n")
        daemon.eventually(lambda: "can not lease 192.0.2.101" in daemon.log(), "it was not asked for again")
        daemon.pynet("rm", "-f", "web", "peer")
    daemon.pynet("network", "rm", "office")


@pytest.mark.parametrize(("name", "least"), [("macvlan.md", 6), ("ipam.md", 2)])
def test_the_pages_commands_do_what_they_say(bed: Bed, name: str, least: int) -> None:
    daemon = bed.daemon
    text = (Path(__file__).parents[2] / "docs" / name).read_text()
    lines = [
        line[4:]
        for line in text.splitlines()
        if line.startswith("    pynet ") and ("macvlan" in line or "lan web" in line or "--network lan" in line)
    ]
    assert len(lines) >= least
    with DhcpServer(bed.lan, ["192.0.2.100", "192.0.2.101"]):
        for line in lines:
            words = line.split()[1:]
            if words[:2] == ["network", "create"]:
                daemon.clear()
            if words[:2] == ["network", "connect"]:
                daemon.clear()
                daemon.pynet("network", "create", *LAN_OPTIONS, "lan")
                daemon.pynet("run", "-d", "--name", "web", "busybox", "sleep", "600")
            done = daemon.pynet(*words)
            if "parent=eth0.10" in line and not bed.host.rtnl.has_kind("vlan"):
                assert "this kernel has no vlan (module 8021q)" in done.stderr
                continue
            assert done.returncode == 0, f"{line}: {done.stderr}"


def test_ipvlan_is_there_or_refused_by_the_modules_name(bed: Bed) -> None:
    reply = bed.daemon.post("/networks/create", {"Name": "x", "Driver": "ipvlan", "Options": {"parent": "eth0"}})
    if reply.status == 201:
        assert inspect(bed.daemon, "x")["Driver"] == "ipvlan"
    else:
        assert (reply.status, reply.body["message"]) == (501, "this kernel has no ipvlan (module ipvlan)")
    assert {"bridge", "host", "ipvlan", "macvlan", "null"} <= set(bed.daemon.get("/info").body["Plugins"]["Network"])
    page_text = (Path(__file__).parents[2] / "docs" / "macvlan.md").read_text()
    assert "this kernel has no ipvlan (module ipvlan)" in page_text
