"""The firewall through the engine: gateway modes and publish policies as clients see them, and rules that come back."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

from pynet.plugins.testhost import Host, Lan

from support.engine import Daemon
from support.waiting import PATIENCE, SILENCE, until

MODE = "com.docker.network.bridge.gateway_mode_ipv{}"
SERVE = ("sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp")


def answers(lan: Lan, address: str, port: int, timeout: float = 1.0) -> bool:
    try:
        with lan.connect((address, port), timeout) as client:
            client.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
            data = b""
            while piece := client.recv(4096):
                data += piece
            return data.rstrip().endswith(b"hello")
    except OSError:
        return False


def create(daemon: Daemon, name: str, options: dict[str, str], **more: Any) -> tuple[int, str]:
    reply = daemon.post("/networks/create", {"Name": name, "Options": options, **more})
    return reply.status, reply.body.get("message", "")


def test_gateway_modes_of_the_api(daemon: Daemon, lan: Lan) -> None:
    assert create(daemon, "n", {MODE.format(4): "bridged"}) == (
        400, f"invalid value 'bridged' for option {MODE.format(4)}: unknown gateway mode bridged",
    )  # fmt: skip
    assert create(daemon, "n", {MODE.format(6): "isolated"}) == (
        400, "gateway mode 'isolated' can only be used for an internal network",
    )  # fmt: skip
    assert [n["Name"] for n in daemon.get("/networks").body if n["Name"] == "n"] == []
    ipam = {"Config": [{"Subnet": "10.9.0.0/24"}]}
    assert create(daemon, "n", {MODE.format(4): "routed"}, IPAM=ipam)[0] == 201
    lan.run(["ip", "route", "add", "10.9.0.0/24", "via", lan.host_address])

    def warnings(host_port: str) -> list[str]:
        bindings = {"80/tcp": [{"HostPort": host_port}]}
        body = {"Image": "busybox", "HostConfig": {"NetworkMode": "n", "PortBindings": bindings}}
        told: list[str] = daemon.post("/containers/create", body).body["Warnings"]
        return told

    (said,) = warnings("8080")
    assert said.startswith("Host ports have no meaning for IPv4 of network n: it is routed")
    assert warnings("") == []
    for name in ("first", "second"):
        daemon.docker("run", "-d", "--name", name, "--network", "n", "-p", "8080:80", "busybox", *SERVE)
    settings = daemon.get("/containers/second/json").body["NetworkSettings"]
    assert settings["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}]}
    (listed,) = [one for one in daemon.get("/containers/json").body if one["Names"] == ["/second"]]
    assert listed["Ports"] == [{"IP": "0.0.0.0", "PrivatePort": 80, "Type": "tcp"}]
    address = settings["Networks"]["n"]["IPAddress"]
    until(lambda: answers(lan, address, 80), "the routed port is not reached")
    assert not answers(lan, lan.host_address, 8080, SILENCE)
    with socket.create_server(("0.0.0.0", 8080)):
        pass  # no host port was taken


def test_the_engine_puts_back_what_is_flushed(daemon: Daemon, lan: Lan, host: Host) -> None:
    daemon.docker("run", "-d", "--name", "web", "-p", "8080:80", "busybox", *SERVE)
    until(lambda: answers(lan, lan.host_address, 8080), "the port is not reached")

    def rules() -> bool:
        done = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True)
        return "tcp . 8080" in done.stdout

    assert rules()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    until(rules, "the rules did not come back")
    assert answers(lan, lan.host_address, 8080, PATIENCE)
    until(lambda: "put back in" in daemon.log(), "it is not told")


def test_the_hosts_input_rules_judge_published_ports(host: Host, lan: Lan) -> None:
    with Daemon.running("--publish-policy=host-input") as daemon:
        daemon.bootstrap()
        daemon.docker("run", "-d", "--name", "web", "-p", "8080:80", "busybox", *SERVE)
        until(lambda: answers(lan, lan.host_address, 8080), "the port is not reached")
        for command in (
            "nft add table inet own",
            "nft add chain inet own in { type filter hook input priority 0 ; policy accept ; }",
            "nft add rule inet own in iifname eth0 tcp dport 8080 drop",
        ):
            subprocess.run(command.split(), check=True)
        assert not answers(lan, lan.host_address, 8080, SILENCE)
        daemon.wait_back(daemon.kill())
        assert not answers(lan, lan.host_address, 8080, SILENCE), "the others start it with its options"
        subprocess.run(["nft", "delete", "table", "inet", "own"], check=True)
        assert answers(lan, lan.host_address, 8080, PATIENCE)
