"""Networks by the Engine API and by Docker's own clients: what can be asked for, what is refused and how, what is told."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.plugins.testhost import Host, playing_host

from support.engine import Daemon, warm_up

CLIENTS = [path for path in ("/usr/local/bin/docker", "/usr/bin/docker") if shutil.which(path)]
OPERATOR = (
    "configuration network can only contain network specific fields. Network operator fields like "
    "[ ingress | internal | attachable | scope ] are not supported."
)
NOT_BOTH = "user specified configurations are not supported if the network depends on a configuration network"


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with playing_host(), Daemon.running() as daemon:
        daemon.bootstrap()
        warm_up(daemon)
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The module's daemon; every test ends with no container and network of its own."""
    yield shared
    shared.clear()


def create(daemon: Daemon, name: str, **body: Any) -> str:
    reply = daemon.post("/networks/create", {"Name": name, **body})
    assert reply.status == 201, reply
    return str(reply.body["Id"])


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    reply = daemon.get(f"/networks/{name}")
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.body
    return found


def warnings(daemon: Daemon) -> list[str]:
    return list(daemon.get("/info").body["Warnings"])


def names(daemon: Daemon, **filters: list[str]) -> list[str]:
    reply = daemon.get("/networks", filters=json.dumps(filters))
    assert reply.status == 200, reply
    return sorted(network["Name"] for network in reply.body)


# -- what is refused, with Docker's status and text ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"ConfigOnly": True, "Internal": True}, 403, OPERATOR),
        ({"ConfigOnly": True, "Attachable": True}, 403, OPERATOR),
        ({"ConfigOnly": True, "Scope": "local"}, 403, OPERATOR),
        (
            {"ConfigOnly": True, "ConfigFrom": {"Network": "office"}},
            403,
            "a configuration network cannot depend on another configuration network",
        ),
        ({"ConfigFrom": {"Network": "nosuch"}}, 404, 'configuration network "nosuch" does not exist'),
        ({"ConfigFrom": {"Network": "bridge"}}, 404, 'configuration network "bridge" does not exist'),
        ({"ConfigFrom": {"Network": "office"}, "EnableIPv6": True}, 403, NOT_BOTH),
        ({"ConfigFrom": {"Network": "office"}, "EnableIPv4": False}, 403, NOT_BOTH),
        ({"ConfigFrom": {"Network": "office"}, "Labels": {"a": "b"}}, 403, NOT_BOTH),
        (
            {"ConfigFrom": {"Network": "office"}, "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]}},
            403,
            NOT_BOTH,
        ),
        (
            {"ConfigFrom": {"Network": "office"}, "Options": {"com.docker.network.driver.mtu": "1400"}},
            403,
            "network driver options are not supported if the network depends on a configuration network",
        ),
        ({"Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
        ({"Driver": "null"}, 403, 'only one instance of "null" network is allowed'),
        (
            {"IPAM": {"Options": {"com.docker.network.ipam.serial": "perhaps"}}},
            400,
            "invalid value 'perhaps' for option com.docker.network.ipam.serial: not true or false",
        ),
        ({"IPAM": {"Options": {"nosuch": "1"}}}, 400, "unknown option nosuch for the IPAM driver default"),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(
    daemon: Daemon, body: dict[str, Any], status: int, message: str
) -> None:
    create(daemon, "office", ConfigOnly=True, IPAM={"Config": [{"Subnet": "10.91.0.0/24"}]})
    before = names(daemon)
    reply = daemon.post("/networks/create", {"Name": "x", **body})
    assert (reply.status, reply.body["message"]) == (status, message)
    assert names(daemon) == before
    assert daemon.get("/pynet/check").body == []
    if "ConfigFrom" in body and not body.get("ConfigOnly"):
        create(daemon, "y", ConfigFrom={"Network": "office"})
        assert inspect(daemon, "y")["IPAM"]["Config"][0]["Subnet"] == "10.91.0.0/24", "the refused one kept the pool"


# -- configuration-only networks -------------------------------------------------------------------------------------


def test_a_network_is_made_from_a_configuration_and_goes_its_own_way(daemon: Daemon) -> None:
    config = create(
        daemon,
        "office",
        ConfigOnly=True,
        EnableIPv6=True,
        Labels={"floor": "2"},
        Options={"com.docker.network.driver.mtu": "1400"},
        IPAM={"Config": [{"Subnet": "10.91.0.0/24", "IPRange": "10.91.0.64/26"}, {"Subnet": "fd00:91::/64"}]},
    )
    shown = inspect(daemon, "office")
    assert (shown["Driver"], shown["Scope"], shown["ConfigOnly"]) == ("null", "local", True)
    assert shown["IPAM"]["Config"][0] == {"Subnet": "10.91.0.0/24", "IPRange": "10.91.0.64/26"}, "as it was asked for"

    create(daemon, "web", ConfigFrom={"Network": "office"}, Internal=True)
    made = inspect(daemon, "web")
    assert (made["ConfigOnly"], made["ConfigFrom"], made["Driver"]) == (False, {"Network": "office"}, "bridge")
    assert (made["EnableIPv6"], made["Internal"], made["Labels"]) == (True, True, {"floor": "2"})
    assert made["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert made["IPAM"]["Config"][0] == {
        "Subnet": "10.91.0.0/24", "IPRange": "10.91.0.64/26", "Gateway": "10.91.0.1"
    }  # fmt: skip

    refused = daemon.delete("/networks/office")
    assert (refused.status, refused.body["message"]) == (403, 'configuration network "office" is in use')
    assert "web" in refused.body["hint"]
    box = daemon.post("/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": "office"}}, name="box")
    start = daemon.post("/containers/box/start")
    assert box.status == 201
    assert start.status == 403
    assert start.body["message"].endswith("cannot create endpoint on configuration-only network")
    assert daemon.delete("/containers/box").status == 204
    daemon.post("/networks/prune")
    assert names(daemon) == ["bridge", "host", "none", "office"], "unused networks are pruned, configurations are not"
    assert daemon.delete(f"/networks/{config}").status == 204


@pytest.mark.parametrize("client", CLIENTS)
def test_dockers_clients_make_configurations_and_networks_from_them(daemon: Daemon, client: str) -> None:
    daemon.docker(
        "network", "create", "--config-only", "--subnet", "10.92.0.0/24", "-o", "com.docker.network.driver.mtu=1400",
        "--label", "a=b", "office", program=client,
    )  # fmt: skip
    daemon.docker("network", "create", "--config-from", "office", "--attachable", "web", program=client)
    shown = json.loads(daemon.docker("network", "inspect", "web", program=client).stdout)[0]
    assert (shown["Attachable"], shown["Labels"], shown["ConfigFrom"]) == (True, {"a": "b"}, {"Network": "office"})
    answer = daemon.docker("run", "--rm", "--network", "web", "busybox", "ip", "addr", program=client).stdout
    assert "10.92.0.2/24" in answer
    assert "mtu 1400" in answer
    refused = daemon.docker("network", "rm", "office", check=False, program=client)
    assert 'configuration network "office" is in use' in refused.stderr


# -- the default bridge and the default pools ------------------------------------------------------------------------


def test_the_engines_options_say_what_the_default_bridge_is_like(host: Host) -> None:
    with Daemon.running("--bip", "10.5.0.1/24", "--fixed-cidr", "10.5.0.128/25", "--mtu", "1400") as daemon:
        daemon.bootstrap()
        made = inspect(daemon, "bridge")
        assert made["IPAM"]["Config"] == [{"Subnet": "10.5.0.0/24", "IPRange": "10.5.0.128/25", "Gateway": "10.5.0.1"}]
        look = daemon.docker("run", "--rm", "busybox", "ip", "addr").stdout
        assert "10.5.0.128/24" in look
        assert "mtu 1400" in look
        ids = {network["Name"]: network["Id"] for network in daemon.get("/networks").body}

        daemon.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
        daemon.terminate()
        daemon.arguments = ("--bip", "10.6.0.1/24", "--default-gateway", "10.6.0.254")
        daemon.start()
        assert inspect(daemon, "bridge")["IPAM"]["Config"][0]["Subnet"] == "10.5.0.0/24", "somebody is on it"
        assert any("network bridge is not as the engine's options say" in text for text in warnings(daemon))
        daemon.docker("exec", "box", "ping", "-c", "1", "-W", "2", "10.5.0.1")

        daemon.docker("rm", "-f", "box")
        daemon.terminate()
        daemon.start()
        assert {network["Name"]: network["Id"] for network in daemon.get("/networks").body} == ids, "another, same id"
        assert not any("network bridge" in text for text in warnings(daemon))
        look = daemon.docker("run", "--rm", "busybox", "ip", "route").stdout
        assert "default via 10.6.0.254" in look
        assert "10.6.0.0/24" in look
        assert daemon.get("/pynet/check").body == []


def test_without_a_default_bridge_containers_have_no_network(host: Host) -> None:
    with Daemon.running("--bridge", "none") as daemon:
        daemon.bootstrap()
        assert names(daemon) == ["host", "none"]
        assert daemon.docker("run", "--rm", "busybox", "ls", "/sys/class/net").stdout.split() == ["lo"]
        daemon.docker("network", "create", "mine")
        assert "eth0" in daemon.docker("run", "--rm", "--network", "mine", "busybox", "ls", "/sys/class/net").stdout


@pytest.mark.parametrize("pools", [("base=10.50.0.0/23,size=24", "base=fd00:50::/63,size=64")])
def test_default_pools_are_those_that_the_engine_is_started_with(host: Host, pools: tuple[str, str]) -> None:
    words = [word for pool in pools for word in ("--default-address-pool", pool)]
    with Daemon.running("--bip", "10.5.0.1/24", *words) as daemon:
        create(daemon, "a", EnableIPv6=True)
        create(daemon, "b", EnableIPv6=True)
        subnets = [[config["Subnet"] for config in inspect(daemon, name)["IPAM"]["Config"]] for name in "ab"]
        assert subnets == [["10.50.0.0/24", "fd00:50::/64"], ["10.50.1.0/24", "fd00:50:0:1::/64"]]
        full = daemon.post("/networks/create", {"Name": "c"})
        assert (full.status, full.body["message"]) == (400, "all predefined address pools have been fully subnetted")
        assert "3 networks (bridge, a, b)" in full.body["hint"]
        assert daemon.get("/info").body["DefaultAddressPools"] == [
            {"Base": "10.50.0.0/23", "Size": 24}, {"Base": "fd00:50::/63", "Size": 64}
        ]  # fmt: skip
        assert daemon.delete("/networks/b").status == 204
        create(daemon, "c")


def test_an_engine_with_options_that_make_no_sense_does_not_start(host: Host, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "--bridge", "br0", "--bip", "10.5.0.1/24")
    said = daemon.start()
    assert said.startswith("You specified -b & --bip, mutually exclusive options. Please specify only one")


# -- what is in the way ----------------------------------------------------------------------------------------------


def test_an_overlap_names_the_network_and_a_subnet_on_a_route_is_warned_of(host: Host) -> None:
    with Daemon.running() as daemon:
        create(daemon, "first", IPAM={"Config": [{"Subnet": "10.93.0.0/24"}]})
        overlap = daemon.post("/networks/create", {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.93.0.128/25"}]}})
        assert (overlap.status, overlap.body["message"]) == (
            403,
            "invalid pool request: Pool overlaps with other one on this address space",
        )
        assert "10.93.0.0/24 of network first" in overlap.body["hint"]
        subprocess.run(["ip", "link", "add", "up1", "type", "veth", "peer", "up2"], check=True)
        subprocess.run(["ip", "addr", "add", "10.95.7.1/16", "dev", "up1"], check=True)
        subprocess.run(["ip", "link", "set", "up1", "up"], check=True)
        warned = daemon.post("/networks/create", {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.95.1.0/24"}]}})
        assert warned.status == 201
        assert warned.body["Warning"].startswith(
            "subnet 10.95.1.0/24 overlaps the host's route 10.95.0.0/16 through up1"
        )
        clear = daemon.post("/networks/create", {"Name": "y", "IPAM": {"Config": [{"Subnet": "10.96.1.0/24"}]}})
        assert clear.body["Warning"] == ""
        subprocess.run(["ip", "link", "del", "up1"], check=True)
