"""Networks of containers that run: many at once, come and gone; addresses, gateways, names, files. By two clients."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from pynet.netlib.kernel import sysctl
from pynet.plugins.testhost import Lan

from support.engine import Bed, Daemon
from support.waiting import PATIENCE

CLIENTS = ["pynet", pytest.param("docker", marks=pytest.mark.skipif(not shutil.which("docker"), reason="no docker"))]


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


def said(daemon: Daemon, client: str, *words: str) -> str:
    """What a command prints; it succeeds."""
    done = daemon.docker(*words) if client == "docker" else daemon.pynet(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def networks(daemon: Daemon, client: str = "pynet") -> None:
    said(daemon, client, "network", "create", "--subnet", "10.81.0.0/24", "a")
    said(daemon, client, "network", "create", "--subnet", "10.82.0.0/24", "--ipv6", "--subnet", "fd82::/64", "b")
    said(daemon, client, "network", "create", "--subnet", "10.83.0.0/24", "--internal", "c")


def run(daemon: Daemon, name: str, *options: str, client: str = "pynet") -> None:
    """Start a container that does nothing."""
    said(daemon, client, "run", "-d", "--name", name, *options, "busybox", "sleep", "1000")


def inside(daemon: Daemon, name: str, *command: str) -> str:
    done = daemon.pynet("exec", name, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def links(daemon: Daemon, name: str) -> list[str]:
    return sorted(
        line.split(":")[1].split("@")[0].strip() for line in inside(daemon, name, "ip", "-o", "link").splitlines()
    )


def default_route(daemon: Daemon, name: str, family: str = "-4") -> str:
    found = [
        line.split() for line in inside(daemon, name, "ip", family, "route").splitlines() if line.startswith("default")
    ]
    return found[0][found[0].index("via") + 1] if found else ""


def settings(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["Networks"]
    return found


def hosts(daemon: Daemon, name: str) -> dict[str, list[str]]:
    """Address to names of /etc/hosts, IPv4 alone."""
    lines = inside(daemon, name, "cat", "/etc/hosts").splitlines()
    return {words[0]: words[1:] for words in map(str.split, lines) if words and "." in words[0]}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_container_starts_on_several_networks_as_each_was_asked_for(daemon: Daemon, client: str) -> None:
    networks(daemon, client)
    run(
        daemon,
        "box",
        "--network",
        "name=a,ip=10.81.0.7,alias=first,mac-address=02:00:00:00:00:07",
        "--network",
        "name=b,ip=10.82.0.8,ip6=fd82::8,gw-priority=5,driver-opt=com.docker.network.endpoint.ifname=wan0",
        client=client,
    )
    found = settings(daemon, "box")
    assert found["a"]["IPAddress"] == "10.81.0.7" and found["a"]["MacAddress"] == "02:00:00:00:00:07"
    assert found["a"]["Aliases"] == ["first"]
    assert (found["b"]["IPAddress"], found["b"]["GlobalIPv6Address"]) == ("10.82.0.8", "fd82::8")
    assert found["b"]["GwPriority"] == 5
    assert links(daemon, "box") == ["eth0", "lo", "wan0"]
    assert default_route(daemon, "box") == "10.82.0.1"
    assert default_route(daemon, "box", "-6") == "fd82::1"
    assert "02:00:00:00:00:07" in inside(daemon, "box", "ip", "link", "show", "eth0")


@pytest.mark.parametrize("client", CLIENTS)
def test_networks_come_and_go_while_a_container_runs(daemon: Daemon, client: str) -> None:
    networks(daemon, client)
    run(daemon, "box", "--network", "c", client=client)
    assert (links(daemon, "box"), default_route(daemon, "box")) == (
        ["eth0", "lo"],
        "",
    )  # an internal network is no way out
    said(daemon, client, "network", "connect", "--ip", "10.82.0.9", "--ip6", "fd82::9", "--alias", "nine", "b", "box")
    assert links(daemon, "box") == ["eth0", "eth1", "lo"]
    assert (default_route(daemon, "box"), default_route(daemon, "box", "-6")) == ("10.82.0.1", "fd82::1")
    said(daemon, client, "network", "connect", "--gw-priority", "10", "a", "box")
    # IPv4 by the priority; a has no IPv6, so that family stays where it was
    assert (default_route(daemon, "box"), default_route(daemon, "box", "-6")) == ("10.81.0.1", "fd82::1")
    said(daemon, client, "network", "disconnect", "c", "box")
    said(daemon, client, "network", "connect", "c", "box")
    # what left is out of the way at once, and out of the kernel a little later
    daemon.eventually(lambda: links(daemon, "box") == ["eth0", "eth1", "eth2", "lo"])
    assert "10.83." in inside(daemon, "box", "ip", "-4", "addr", "show", "eth0")  # the lowest free name
    said(daemon, client, "network", "disconnect", "a", "box")
    assert default_route(daemon, "box") == "10.82.0.1"
    said(daemon, client, "network", "disconnect", "-f", "b", "box")
    assert (default_route(daemon, "box"), default_route(daemon, "box", "-6")) == ("", "")
    assert sorted(settings(daemon, "box")) == ["c"]


def test_what_is_chosen_for_a_container_that_does_not_run_holds_when_it_starts(daemon: Daemon) -> None:
    networks(daemon)
    said(daemon, "pynet", "create", "--name", "box", "--network", "a", "busybox", "sleep", "1000")
    said(daemon, "pynet", "network", "connect", "--ip", "10.82.0.9", "--mac-address", "02:00:00:00:00:09", "b", "box")
    said(daemon, "pynet", "network", "disconnect", "a", "box")
    said(daemon, "pynet", "start", "box")
    found = settings(daemon, "box")
    assert sorted(found) == ["b"]
    assert (found["b"]["IPAddress"], found["b"]["MacAddress"]) == ("10.82.0.9", "02:00:00:00:00:09")


def test_published_ports_follow_the_gateway_and_connections_of_other_networks_go_on(daemon: Daemon, bed: Bed) -> None:
    networks(daemon)
    run(daemon, "box", "--network", "a", "-p", "8080:80")
    run(daemon, "peer", "--network", "a")
    lan = bed.lan
    with ExitStack() as stack:

        def opened(name: str) -> int:
            fd = os.open(daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["SandboxKey"], os.O_RDONLY)
            stack.callback(os.close, fd)
            return fd

        box, peer = opened("box"), opened("peer")
        server = stack.enter_context(lan.netns_thread.call(box, socket.create_server, ("", 80)))
        server.settimeout(PATIENCE)
        address = settings(daemon, "box")["a"]["IPAddress"]
        inner = stack.enter_context(lan.netns_thread.call(peer, socket.create_connection, (address, 80), PATIENCE))
        accepted = stack.enter_context(server.accept()[0])
        stop, lost = threading.Event(), list[str]()

        def talk() -> None:
            inner.settimeout(PATIENCE)
            while not stop.is_set():
                inner.sendall(b"x")
                if accepted.recv(1) != b"x":
                    lost.append("the connection ended")
                    return

        talking = threading.Thread(target=talk)
        talking.start()
        try:
            for gateway in ("b", "a", "b"):
                if gateway == "b":
                    said(daemon, "pynet", "network", "connect", "--gw-priority", "7", "b", "box")
                else:
                    said(daemon, "pynet", "network", "disconnect", "b", "box")
                client = stack.enter_context(lan.connect((Lan.host_address, 8080), PATIENCE))
                arrived, (sender, _) = server.accept()
                stack.enter_context(arrived)
                assert sender == Lan.address  # by NAT, whichever network it is
                assert arrived.getsockname()[0] == settings(daemon, "box")[gateway]["IPAddress"]
                client.close()
        finally:
            stop.set()
            talking.join()
        assert lost == []


def test_parameters_and_link_local_addresses_of_an_interface(daemon: Daemon, bed: Bed) -> None:
    networks(daemon)
    option = "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0"
    run(
        daemon,
        "box",
        "--network",
        "a",
        "--network",
        f'name=b,link-local-ip=169.254.7.7,link-local-ip=fe80::77,"driver-opt={option}"',
    )
    assert inside(daemon, "box", "cat", "/proc/sys/net/ipv4/conf/eth1/log_martians") == "1\n"
    assert inside(daemon, "box", "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians") == "0\n"
    shown = inside(daemon, "box", "ip", "addr", "show", "eth1")
    assert "inet 169.254.7.7/16" in shown and "inet6 fe80::77/64" in shown
    assert settings(daemon, "box")["b"]["IPAMConfig"]["LinkLocalIPs"] == ["169.254.7.7", "fe80::77"]
    # they are part of the plan: somebody's change is seen, and taken back
    fd = os.open(daemon.get("/containers/box/json").body["NetworkSettings"]["SandboxKey"], os.O_RDONLY)
    try:
        bed.lan.netns_thread.call(fd, sysctl.write, "net.ipv4.conf.eth1.log_martians", 0)
    finally:
        os.close(fd)
    assert [one["name"] for one in daemon.get("/pynet/check").body] == ["net.ipv4.conf.eth1.log_martians"]
    assert daemon.pynet("repair").returncode == 0
    assert inside(daemon, "box", "cat", "/proc/sys/net/ipv4/conf/eth1/log_martians") == "1\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--ip", "10.99.0.1"], 400, "invalid endpoint settings: no configured subnet contains IP address 10.99.0.1"),
        (["--ip", "fd82::1"], 400, "invalid endpoint settings: invalid IPv4 address: fd82::1"),
        (["--ip", "nonsense"], 400, "invalid endpoint settings: invalid IPv4 address: nonsense"),
        (["--ip6", "::"], 400, "invalid endpoint settings: invalid IPv6 address: ::"),
        (["--link-local-ip", "10.0.0.1"], 400, "invalid endpoint settings: invalid link-local IP address: 10.0.0.1"),
        (["--mac-address", "02:00"], 400, "invalid MAC address: 02:00"),
        (["--link", "a:b:c"], 400, "bad format for links: a:b:c"),
        (["--driver-opt", "com.docker.network.endpoint.ifname=a/b"], 400, "invalid interface name 'a/b'"),
        (
            ["--driver-opt", "com.docker.network.endpoint.ifname=eth0"],
            409,
            "interface eth0 of the container is on network a",
        ),
        (
            ["--driver-opt", "com.docker.network.endpoint.ifname=lo"],
            400,
            "an endpoint's interface can not be called lo",
        ),
        (["--driver-opt", "nonsense=1"], 400, "unknown option of an endpoint: nonsense"),
        (
            ["--driver-opt", "com.docker.network.endpoint.sysctls=net.ipv4.ip_forward=1"],
            400,
            "invalid endpoint settings: unrecognised network interface sysctl 'net.ipv4.ip_forward=1'",
        ),
        (
            ["--driver-opt", "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.nonsense=1"],
            400,
            "there is no kernel parameter net.ipv4.conf.eth1.nonsense",
        ),
    ],
)
def test_a_connection_that_can_not_be_is_refused_and_leaves_nothing(
    daemon: Daemon, words: list[str], status: int, message: str
) -> None:
    networks(daemon)
    run(daemon, "box", "--network", "a")
    before = daemon.get("/containers/box/json").body
    refused = daemon.pynet("network", "connect", *words, "b", "box")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"pynet: Error response from daemon: {message}"), refused.stderr
    assert daemon.get("/containers/box/json").body == before
    assert daemon.get("/networks/b").body["Containers"] == {}
    assert daemon.get("/pynet/check").body == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "container:box", "-h", "x"], "hostname and the network mode"),
        (["--network", "container:box", "--dns", "9.9.9.9"], "dns and the network mode"),
        (["--network", "container:box", "--add-host", "a:1.2.3.4"], "custom host-to-IP mapping and the network mode"),
        (["--network", "container:box", "-p", "80"], "port publishing and the container type network mode"),
        (["--network", "container:box", "-P"], "port publishing and the container type network mode"),
        (["--network", "container:box", "--expose", "80"], "port exposing and the container type network mode"),
        (["--network", "container:box", "--link", "box"], "container type network can't be used with links"),
        (["--network", "host", "--link", "box"], "host type networking can't be used with links"),
    ],
)  # fmt: skip
def test_who_shares_a_network_chooses_nothing_of_it(daemon: Daemon, words: list[str], message: str) -> None:
    run(daemon, "box")
    refused = daemon.pynet("create", *words, "busybox", "true")
    assert refused.returncode == 125
    assert f"conflicting options: {message}" in refused.stderr


def test_links_of_the_default_bridge(daemon: Daemon) -> None:
    run(daemon, "db", "-h", "dbhost")
    run(daemon, "box", "--link", "db:store")
    address = settings(daemon, "db")["bridge"]["IPAddress"]
    assert hosts(daemon, "box")[address] == ["store", "dbhost", "db"]
    said(daemon, "pynet", "rename", "db", "db2")
    assert hosts(daemon, "box")[address] == ["store", "dbhost", "db2"]
    assert daemon.get("/containers/box/json").body["HostConfig"]["Links"] == ["/db2:/box/store"]
    said(daemon, "pynet", "stop", "-t", "0", "db2")
    run(daemon, "between")  # somebody takes the address
    said(daemon, "pynet", "start", "db2")
    moved = settings(daemon, "db2")["bridge"]["IPAddress"]
    assert hosts(daemon, "box")[moved] == ["store", "dbhost", "db2"]
    assert moved == address or address not in hosts(daemon, "box")
    missing = daemon.pynet("create", "--link", "nobody", "busybox", "true")
    assert "could not get container for nobody: No such container: nobody" in missing.stderr
    said(daemon, "pynet", "create", "--name", "late", "--link", "db2", "busybox", "true")
    said(daemon, "pynet", "stop", "-t", "0", "db2")
    assert "Cannot link to a non running container: /db2 AS /late/db2" in daemon.pynet("start", "late").stderr


def test_links_of_a_network_are_names_of_one_container_alone(daemon: Daemon) -> None:
    networks(daemon)
    run(daemon, "db", "--network", "a")
    run(daemon, "box", "--network", "a", "--link", "db:store")
    run(daemon, "other", "--network", "a")
    address = settings(daemon, "db")["a"]["IPAddress"]
    lines = inside(daemon, "box", "cat", "/etc/hosts").splitlines()
    assert f"{address}\tstore" in lines
    assert "store" not in inside(daemon, "other", "cat", "/etc/hosts")
    assert inside(daemon, "box", "ping", "-c", "1", "-W", "5", "store")


def test_files_follow_and_what_a_user_wrote_stays(daemon: Daemon) -> None:
    networks(daemon)
    run(daemon, "box", "--network", "a", "--add-host", "up:host-gateway")
    run(daemon, "peer", "--network", "a")
    gateway = daemon.get("/networks/bridge").body["IPAM"]["Config"][0]["Gateway"]
    assert hosts(daemon, "box")[gateway] == ["up"]
    inside(
        daemon,
        "box",
        "sh",
        "-c",
        "echo '192.0.2.77 mine' >> /etc/hosts; sed -i.x s/localhost/localhost\\ here/ /etc/hosts || true",
    )
    inside(daemon, "box", "sh", "-c", "grep -q mine /etc/hosts")
    said(daemon, "pynet", "rename", "peer", "mate")
    said(daemon, "pynet", "network", "connect", "b", "box")
    found = hosts(daemon, "box")
    assert found["192.0.2.77"] == ["mine"]
    assert settings(daemon, "mate")["a"]["IPAddress"] not in found  # the name server knows it
    assert settings(daemon, "box")["b"]["IPAddress"] in found
    said(daemon, "pynet", "network", "disconnect", "b", "box")
    said(daemon, "pynet", "rm", "-f", "mate")
    assert hosts(daemon, "box")["192.0.2.77"] == ["mine"]
    said(daemon, "pynet", "restart", "-t", "0", "box")
    assert "192.0.2.77" not in hosts(daemon, "box")  # a start makes the files anew, as Docker's does


def test_name_servers_and_names_of_a_container_stay_while_networks_come_and_go(daemon: Daemon) -> None:
    networks(daemon)
    options = ["--dns", "9.9.9.9", "--dns", "2001:db8::53", "--dns-search", "example.org", "--dns-option", "ndots:2"]
    run(daemon, "box", "--network", "a", *options, "-h", "here", "--domainname", "example.net")
    address = settings(daemon, "box")["a"]["IPAddress"]
    wanted = inside(daemon, "box", "cat", "/etc/resolv.conf")
    assert "\nnameserver 127.0.0.11\nsearch example.org\noptions ndots:2\n" in wanted
    assert "\n# ExtServers: [9.9.9.9 2001:db8::53]\n" in wanted
    inside(daemon, "box", "sh", "-c", "echo '# mine' >> /etc/resolv.conf")
    said(daemon, "pynet", "network", "connect", "b", "box")
    said(daemon, "pynet", "network", "disconnect", "b", "box")
    assert inside(daemon, "box", "cat", "/etc/resolv.conf") == f"{wanted}# mine\n"
    assert inside(daemon, "box", "cat", "/etc/hostname") == inside(daemon, "box", "hostname") == "here\n"
    assert inside(daemon, "box", "cat", "/proc/sys/kernel/domainname") == "example.net\n"
    assert hosts(daemon, "box")[address][:2] == ["here.example.net", "here"]


def test_a_renamed_container_gives_its_old_name_back_on_its_networks_too(daemon: Daemon) -> None:
    networks(daemon)
    run(daemon, "box", "--network", "a")
    said(daemon, "pynet", "rename", "box", "old")
    run(daemon, "box", "--network", "a")
    names = {one["Name"] for one in daemon.get("/networks/a").body["Containers"].values()}
    assert names == {"box", "old"}


def test_a_forced_disconnect_of_nobody(daemon: Daemon) -> None:
    networks(daemon)
    plain = daemon.post("/networks/a/disconnect", {"Container": "nobody"})
    assert (plain.status, plain.body["message"]) == (404, "No such container: nobody")
    forced = daemon.post("/networks/a/disconnect", {"Container": "nobody", "Force": True})
    assert (forced.status, forced.body["message"]) == (404, "endpoint nobody not found in network a")
    shown = daemon.post("/networks/a/disconnect", {"Container": "nobody", "Force": True}, **{"dry-run": 1})
    assert (shown.status, shown.body["message"]) == (404, forced.body["message"]), "what is shown is what would be done"
