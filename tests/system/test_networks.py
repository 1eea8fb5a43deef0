"""Networks by the Engine API and by Docker's own clients: what can be asked for, what is refused and how, what is told."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pynet.plugins.testhost import Host

from support.engine import Bed, Daemon

CLIENTS = [path for path in ("/usr/local/bin/docker", "/usr/bin/docker") if shutil.which(path)]
OPERATOR = (
    "configuration network can only contain network specific fields. Network operator fields like "
    "[ ingress | internal | attachable | scope ] are not supported."
)
SUBNET = "10.99.0.0/24"
NOT_BOTH = "user specified configurations are not supported if the network depends on a configuration network"


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


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


@pytest.mark.parametrize(("serial", "address"), [("true", "10.99.0.4"), ("false", "10.99.0.2")])
def test_the_order_of_addresses_is_as_asked_and_is_kept_over_a_restart(host: Host, serial: str, address: str) -> None:
    ipam = {"Config": [{"Subnet": SUBNET}], "Options": {"com.docker.network.ipam.serial": serial}}

    def run(name: str) -> str:
        one.docker("run", "-d", "--name", name, "--network", "n", "busybox", "sleep", "1000")
        return str(one.get(f"/containers/{name}/json").body["NetworkSettings"]["Networks"]["n"]["IPAddress"])

    with Daemon.running() as one:
        one.bootstrap()
        create(one, "n", IPAM=ipam)
        assert [run("one"), run("two")] == ["10.99.0.2", "10.99.0.3"]
        one.docker("rm", "-f", "one")
        one.terminate()
        one.start()
        assert run("three") == address


@pytest.mark.parametrize("kind", ["networks", "volumes"])
def test_the_filter_name_is_an_expression(daemon: Daemon, kind: str) -> None:
    for name in ("web", "web-1", "other"):
        assert daemon.post(f"/{kind}/create", {"Name": name}).status == 201
    try:
        for pattern, wanted in (("^web$", ["web"]), ("^web", ["web", "web-1"]), ("eb", ["web", "web-1"]), ("(w", [])):
            listed = daemon.get(f"/{kind}", filters=json.dumps({"name": [pattern]})).body
            found = listed["Volumes"] or [] if kind == "volumes" else listed
            assert sorted(one["Name"] for one in found) == wanted, pattern
    finally:
        for name in ("web", "web-1", "other"):
            daemon.delete(f"/{kind}/{name}")


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


def test_the_default_bridge_may_be_one_that_is_there(host: Host) -> None:
    """Its addresses say what the subnet is, and it is left as it was found."""
    with Daemon.running("--bridge", "br9") as daemon:
        assert names(daemon) == ["host", "none"]
        assert any("device with non default name br9 must be created manually" in text for text in warnings(daemon))
    for words in ("link add br9 type bridge", "addr add 10.7.0.1/24 dev br9", "link set br9 up"):
        subprocess.run(["ip", *words.split()], check=True)
    with Daemon.running("--bridge", "br9", "--mtu", "1400") as daemon:
        daemon.bootstrap()
        assert inspect(daemon, "bridge")["IPAM"]["Config"] == [{"Subnet": "10.7.0.0/24", "Gateway": "10.7.0.1"}]
        assert "10.7.0.2/24" in daemon.docker("run", "--rm", "busybox", "ip", "addr").stdout
        first = inspect(daemon, "bridge")["Id"]
        daemon.terminate()
        daemon.start()
        assert inspect(daemon, "bridge")["Id"] == first
        assert not any("network bridge" in text for text in warnings(daemon))
    left = subprocess.run(["ip", "addr", "show", "br9"], capture_output=True, text=True, check=True).stdout
    assert "10.7.0.1/24" in left
    subprocess.run(["ip", "link", "del", "br9"], check=True)


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


# -- what can be asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_dockers_clients_ask_for_all_of_it(daemon: Daemon, client: str) -> None:
    """Several subnets of both families, each with its range, gateway and auxiliary addresses."""
    daemon.docker(
        "network", "create", "--driver", "bridge", "--internal", "--attachable", "--ipv6", "--scope", "local",
        "--subnet", "10.97.0.0/24", "--ip-range", "10.97.0.128/25", "--gateway", "10.97.0.9", "--aux-address",
        "printer=10.97.0.130", "--subnet", "fd00:97::/64", "--gateway", "fd00:97::9", "--subnet", "10.98.0.0/24",
        "--ipam-driver", "default", "--ipam-opt", "com.docker.network.ipam.serial=true",
        "-o", "com.docker.network.bridge.name=br97", "-o", "com.docker.network.bridge.enable_icc=false", "--label", "a=b",
        "mine", program=client,
    )  # fmt: skip
    shown = json.loads(daemon.docker("network", "inspect", "mine", program=client).stdout)[0]
    by_subnet = {str(config["Subnet"]): config for config in shown["IPAM"]["Config"]}
    shown["IPAM"]["Config"] = [by_subnet[subnet] for subnet in sorted(by_subnet)]  # Docker's client has no order
    assert shown["IPAM"] == {
        "Driver": "default",
        "Options": {"com.docker.network.ipam.serial": "true"},
        "Config": [
            {"Subnet": "10.97.0.0/24", "IPRange": "10.97.0.128/25", "Gateway": "10.97.0.9",
             "AuxiliaryAddresses": {"printer": "10.97.0.130"}},
            {"Subnet": "10.98.0.0/24", "Gateway": "10.98.0.1"},
            {"Subnet": "fd00:97::/64", "Gateway": "fd00:97::9"},
        ],
    }  # fmt: skip
    assert (shown["Internal"], shown["Attachable"], shown["EnableIPv6"], shown["Scope"]) == (True, True, True, "local")
    assert shown["Options"]["com.docker.network.bridge.name"] == "br97"
    assert shown["Labels"] == {"a": "b"}
    assert "br97" in {name for _, name in socket.if_nameindex()}
    listed = daemon.docker("network", "ls", "--filter", "name=mine", "--format", "{{.Name}} {{.Driver}} {{.Internal}}")
    assert listed.stdout == "mine bridge true\n"


def test_a_network_may_have_ipv6_alone(daemon: Daemon) -> None:
    daemon.docker("network", "create", "--ipv4=false", "--ipv6", "six", program=CLIENTS[0])
    shown = inspect(daemon, "six")
    assert (shown["EnableIPv4"], shown["EnableIPv6"]) == (False, True)
    (config,) = shown["IPAM"]["Config"]
    assert config["Subnet"].startswith("fd")
    assert config["Subnet"].endswith("/64"), "a unique local one of this host's own"
    look = daemon.docker("run", "--rm", "--network", "six", "busybox", "ip", "-o", "addr", "show", "eth0").stdout
    assert config["Subnet"].partition("::")[0] in look
    assert " inet " not in look
    both = daemon.post("/networks/create", {"Name": "x", "EnableIPv4": False, "EnableIPv6": False})
    assert (both.status, both.body["message"]) == (400, "IPv4 or IPv6 must be enabled")


@pytest.mark.parametrize(("subnet", "prefix"), [("0.0.0.0/26", 26), ("0.0.0.0/16", 16), ("::/96", 96)])
def test_a_subnet_of_a_size_is_chosen_and_kept(host: Host, subnet: str, prefix: int) -> None:
    with Daemon.running() as daemon:
        create(daemon, "sized", EnableIPv6=True, IPAM={"Config": [{"Subnet": subnet}]})
        chosen = [config["Subnet"] for config in inspect(daemon, "sized")["IPAM"]["Config"]]
        assert any(text.endswith(f"/{prefix}") for text in chosen)
        assert len(chosen) == 2, "and one of the other family"
        daemon.terminate()
        daemon.start()
        assert [config["Subnet"] for config in inspect(daemon, "sized")["IPAM"]["Config"]] == chosen


# -- addresses -------------------------------------------------------------------------------------------------------


def box(daemon: Daemon, name: str, network: str, **ipam: str) -> tuple[int, str]:
    """Create and start a container on *network*; the status of the start, and its address or the error."""
    made = daemon.post(
        "/containers/create",
        {
            "Image": "busybox",
            "Cmd": ["sleep", "1000"],
            "HostConfig": {"NetworkMode": network},
            "NetworkingConfig": {"EndpointsConfig": {network: {"IPAMConfig": ipam or None}}},
        },
        name=name,
    )
    if made.status != 201:
        return made.status, str(made.body["message"])
    start = daemon.post(f"/containers/{name}/start")
    if start.status != 204:
        return start.status, str(start.body["message"])
    settings = daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["Networks"][network]
    return 204, str(settings["IPAddress"] or settings["GlobalIPv6Address"])


def test_the_next_subnet_serves_when_one_is_used_up_and_then_the_error_names_the_network(daemon: Daemon) -> None:
    id = create(daemon, "tiny", IPAM={"Config": [{"Subnet": "10.99.0.0/30"}, {"Subnet": "10.99.1.0/30"}]})
    assert box(daemon, "box-a", "tiny") == (204, "10.99.0.2")
    assert box(daemon, "box-b", "tiny") == (204, "10.99.1.2")
    status, message = box(daemon, "box-c", "tiny")
    assert status == 500
    assert message.endswith(f"no available IPv4 addresses on this network's address pools: tiny ({id})")


@pytest.mark.parametrize(
    ("subnet", "addresses"),
    [
        ("10.99.0.0/31", ["10.99.0.1"]),
        ("10.99.0.0/30", ["10.99.0.2"]),
        ("10.99.0.0/29", ["10.99.0.2", "10.99.0.3"]),
    ],
)
def test_small_subnets_are_used_to_the_last_address(daemon: Daemon, subnet: str, addresses: list[str]) -> None:
    create(daemon, "tiny", IPAM={"Config": [{"Subnet": subnet}]})
    for number, address in enumerate(addresses):
        assert box(daemon, f"box{number}", "tiny") == (204, address)


def test_a_vast_subnet_costs_nothing(daemon: Daemon) -> None:
    create(
        daemon,
        "vast",
        EnableIPv6=True,
        IPAM={"Config": [{"Subnet": "10.0.0.0/9"}, {"Subnet": "fd00:99::/48", "IPRange": "fd00:99:0:7::/64"}]},
    )
    assert box(daemon, "box-a", "vast", IPv4Address="10.127.255.254") == (204, "10.127.255.254")
    networks = daemon.get("/containers/box-a/json").body["NetworkSettings"]["Networks"]
    assert networks["vast"]["GlobalIPv6Address"] == "fd00:99:0:7::"


@pytest.mark.parametrize(
    ("network", "ipam", "status", "message"),
    [
        ("mine", {"IPv4Address": "10.5.5.5"}, 400, "no configured subnet contains IP address 10.5.5.5"),
        ("mine", {"IPv4Address": "10.99.0.1"}, 403, "Address already in use"),
        ("mine", {"IPv4Address": "10.99.0.20"}, 403, "Address already in use"),
        ("mine", {"IPv4Address": "10.99.0.255"}, 403, "Address already in use"),
        ("mine", {"IPv6Address": "fd00::5"}, 400, "no configured subnet contains IP address fd00::5"),
        ("mine", {"IPv4Address": "nonsense"}, 400, "invalid IPv4 address: nonsense"),
        ("bridge", {"IPv4Address": "172.17.0.9"}, 400, "user-specified IP address is supported on user-defined networks only"),
    ],
)  # fmt: skip
def test_addresses_that_can_not_be_had(
    daemon: Daemon, network: str, ipam: dict[str, str], status: int, message: str
) -> None:
    create(
        daemon,
        "mine",
        IPAM={"Config": [{"Subnet": "10.99.0.0/24", "AuxiliaryAddresses": {"printer": "10.99.0.20"}}]},
    )
    found, text = box(daemon, "box-a", network, **ipam)
    assert found == status
    assert message in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"Subnet": "10.99.0.7/24"}, "invalid subnet 10.99.0.7/24: it should be 10.99.0.0/24"),
        ({"Subnet": "nonsense"}, "invalid subnet nonsense: invalid CIDR block notation"),
        (
            {"Subnet": SUBNET, "IPRange": "10.98.0.0/25"},
            "invalid ip-range 10.98.0.0/25: parent subnet 10.99.0.0/24 doesn't contain ip-range",
        ),
        (
            {"Subnet": SUBNET, "IPRange": "10.99.0.0/16"},
            "invalid ip-range 10.99.0.0/16: CIDR block is bigger than its parent subnet 10.99.0.0/24",
        ),
        (
            {"Subnet": SUBNET, "Gateway": "10.98.0.1"},
            "invalid gateway 10.98.0.1: parent subnet 10.99.0.0/24 doesn't contain this address",
        ),
        ({"Subnet": SUBNET, "Gateway": "fd00::1"}, "invalid gateway fd00::1: parent subnet is an IPv4 block"),
        (
            {"Subnet": SUBNET, "AuxiliaryAddresses": {"a": "10.98.0.1"}},
            "invalid auxiliary address a: parent subnet 10.99.0.0/24 doesn't contain this address",
        ),
    ],
)
def test_subnets_that_do_not_fit_are_refused_with_every_finding(
    daemon: Daemon, config: dict[str, Any], message: str
) -> None:
    reply = daemon.post("/networks/create", {"Name": "x", "IPAM": {"Config": [config, {"Gateway": "1"}]}})
    assert reply.status == 400
    assert reply.body["message"].startswith(f"invalid network config:\n* {message}\n")
    assert reply.body["message"].count("\n* ") == 2


# -- looking ---------------------------------------------------------------------------------------------------------


def test_list_filters(daemon: Daemon) -> None:
    id = create(daemon, "front", Labels={"tier": "web"})
    create(daemon, "back")
    box(daemon, "box-a", "front")
    assert names(daemon, driver=["bridge"]) == ["back", "bridge", "front"]
    assert names(daemon, driver=["null", "host"]) == ["host", "none"]
    assert names(daemon, name=["fr"]) == ["front"]
    assert names(daemon, id=[id[:20]]) == ["front"]
    assert names(daemon, label=["tier"]) == names(daemon, label=["tier=web"]) == ["front"]
    assert names(daemon, label=["tier=db"]) == []
    assert names(daemon, scope=["local"]) == ["back", "bridge", "front", "host", "none"]
    assert names(daemon, scope=["swarm"]) == []
    assert names(daemon, type=["custom"]) == ["back", "front"]
    assert names(daemon, type=["builtin"]) == ["bridge", "host", "none"]
    assert names(daemon, dangling=["true"]) == ["back"]
    assert names(daemon, dangling=["false"]) == ["front"]
    for filters, message in (
        ({"nosuch": ["1"]}, "invalid filter 'nosuch'"),
        ({"type": ["neither"]}, "invalid filter: 'type'='neither'"),
        ({"dangling": ["maybe"]}, "invalid filter 'dangling=[maybe]'"),
    ):
        reply = daemon.get("/networks", filters=json.dumps(filters))
        assert (reply.status, reply.body["message"].replace("'maybe'", "maybe")) == (400, message)


def test_inspect_shows_those_that_run_and_how_many_addresses_are_left(daemon: Daemon) -> None:
    create(daemon, "mine", IPAM={"Config": [{"Subnet": "10.99.0.0/24", "IPRange": "10.99.0.128/25"}]})
    box(daemon, "box-a", "mine", IPv4Address="10.99.0.5")
    box(daemon, "box-b", "mine")
    assert {one["Name"] for one in inspect(daemon, "mine")["Containers"].values()} == {"box-a", "box-b"}
    assert inspect(daemon, "mine")["Status"] == {
        "IPAM": {"Subnets": {"10.99.0.0/24": {"IPsInUse": 5, "DynamicIPsAvailable": 126}}}
    }
    daemon.post("/containers/box-a/stop", t=0)
    daemon.post("/containers/box-b/stop", t=0)
    assert inspect(daemon, "mine")["Containers"] == {}


def test_prune_removes_what_nobody_uses_and_its_filters_choose(daemon: Daemon) -> None:
    create(daemon, "used")
    create(daemon, "keep", Labels={"keep": "1"})
    create(daemon, "gone", Labels={"tier": "web"})
    daemon.post("/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": "used"}}, name="box-a")

    def prune(**filters: list[str]) -> list[str]:
        reply = daemon.post("/networks/prune", filters=filters)
        assert reply.status == 200, reply
        return sorted(reply.body["NetworksDeleted"] or [])

    assert prune(until=["1h"]) == []
    assert prune(label=["tier=db"]) == []
    assert prune(**{"label!": ["keep"]}) == ["gone"]
    assert prune() == ["keep"]
    assert names(daemon) == ["bridge", "host", "none", "used"]
    assert daemon.post("/networks/prune", filters={"name": ["x"]}).status == 400


def test_events_name_the_networks_driver_also_of_one_that_is_gone(daemon: Daemon) -> None:
    since = time.time()
    id = create(daemon, "mine")
    box(daemon, "box-a", "mine")
    daemon.delete("/containers/box-a", force=1)
    daemon.delete("/networks/mine")
    daemon.post("/networks/prune")
    filters = json.dumps({"type": ["network"]})
    text = daemon.get("/events", since=f"{since:.9f}", until=f"{time.time():.9f}", filters=filters).body
    events = [json.loads(line) for line in str(text).splitlines()] if isinstance(text, str) else [text]
    assert [event["Action"] for event in events] == ["create", "connect", "disconnect", "destroy", "prune"]
    assert {event["Actor"]["ID"] for event in events[:4]} == {id}
    assert all(event["Actor"]["Attributes"]["type"] == "bridge" for event in events[:4])
    assert events[4]["Actor"] == {"ID": "", "Attributes": {"reclaimed": "0"}}


def test_the_predefined_networks_stay(host: Host) -> None:
    with Daemon.running() as daemon:
        before = {network["Name"]: network["Id"] for network in daemon.get("/networks").body}
        for name in ("bridge", "host", "none"):
            refused = daemon.delete(f"/networks/{name}")
            assert (refused.status, refused.body["message"]) == (
                403,
                f"{name} is a pre-defined network and cannot be removed",
            )
            made = daemon.post("/networks/create", {"Name": name})
            assert (made.status, made.body["message"]) == (
                403,
                f"operation is not permitted on predefined {name} network",
            )
        daemon.terminate()
        daemon.start()
        assert {network["Name"]: network["Id"] for network in daemon.get("/networks").body} == before
        drivers = {network["Name"]: network["Driver"] for network in daemon.get("/networks").body}
        assert drivers == {"bridge": "bridge", "host": "host", "none": "null"}


# -- static addresses of containers that are stopped ------------------------------------------------------------------


def test_a_stopped_container_keeps_the_address_that_it_was_given(daemon: Daemon) -> None:
    create(daemon, "mine", IPAM={"Config": [{"Subnet": "10.99.0.0/24"}]})
    box(daemon, "one", "mine", IPv4Address="10.99.0.2")
    assert daemon.post("/containers/one/stop", t=0).status == 204
    assert daemon.get("/containers/one/json").body["NetworkSettings"]["Networks"]["mine"]["IPAddress"] == ""
    assert inspect(daemon, "mine")["Containers"] == {}
    assert names(daemon, dangling=["true"]) == ["mine"]
    assert box(daemon, "two", "mine") == (204, "10.99.0.3"), "not the first free one"
    assert "one" not in daemon.docker("exec", "two", "cat", "/etc/hosts").stdout.split()

    daemon.terminate()
    daemon.start()
    assert box(daemon, "three", "mine") == (204, "10.99.0.4"), "also after a restart of the engine"
    assert daemon.post("/containers/one/rename", name="eins").status == 204
    assert daemon.post("/containers/eins/start").status == 204
    again = daemon.get("/containers/eins/json").body["NetworkSettings"]["Networks"]["mine"]
    assert again["IPAddress"] == "10.99.0.2"
    daemon.docker("exec", "two", "ping", "-c", "1", "-W", "2", "eins")


def test_an_address_is_kept_from_the_create_on(daemon: Daemon) -> None:
    create(daemon, "mine", IPAM={"Config": [{"Subnet": "10.99.0.0/24"}]})
    settings = {"EndpointsConfig": {"mine": {"IPAMConfig": {"IPv4Address": "10.99.0.2"}}}}
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": "mine"}, "NetworkingConfig": settings}
    assert daemon.post("/containers/create", {**body, "Cmd": ["sleep", "1000"]}, name="one").status == 201
    assert daemon.post("/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"]}, name="late").status == 201
    late = {"Container": "late", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.99.0.3"}}}
    assert daemon.post("/networks/mine/connect", late).status == 200
    assert inspect(daemon, "mine")["Containers"] == {}
    daemon.terminate()
    daemon.start()
    assert box(daemon, "two", "mine") == (204, "10.99.0.4")
    for name, address in (("one", "10.99.0.2"), ("late", "10.99.0.3")):
        assert daemon.post(f"/containers/{name}/start").status == 204
        assert (
            daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["Networks"]["mine"]["IPAddress"] == address
        )
    assert daemon.delete("/containers/late", force=1).status == 204
    assert daemon.delete("/containers/one", force=1).status == 204
    assert daemon.post("/containers/create", body, name="never").status == 201
    assert daemon.delete("/containers/two", force=1).status == 204
    assert daemon.delete("/networks/mine").status == 204, "a container that never ran holds nothing up"


def test_who_runs_has_the_address_that_two_ask_for(daemon: Daemon) -> None:
    """As with Docker: a stopped container makes way, and is told by whom when it comes back."""
    create(daemon, "mine", IPAM={"Config": [{"Subnet": "10.99.0.0/24"}]})
    box(daemon, "one", "mine", IPv4Address="10.99.0.2")
    assert daemon.post("/containers/one/stop", t=0).status == 204
    shown = daemon.pynet("run", "--dry-run", "--network", "name=mine,ip=10.99.0.2", "busybox", "true")
    assert shown.returncode == 0, shown.stderr
    assert box(daemon, "four", "mine") == (204, "10.99.0.3"), "what was only shown took nothing"
    assert box(daemon, "two", "mine", IPv4Address="10.99.0.2") == (204, "10.99.0.2")
    refused = daemon.post("/containers/one/start")
    assert (refused.status, refused.body["message"].rpartition(": ")[2]) == (403, "Address already in use")
    assert refused.body["hint"].startswith("two has it")
    assert daemon.post("/containers/two/stop", t=0).status == 204
    assert daemon.post("/containers/one/start").status == 204
    assert daemon.get("/containers/one/json").body["NetworkSettings"]["Networks"]["mine"]["IPAddress"] == "10.99.0.2"
    assert daemon.pynet("check").returncode == 0


@pytest.mark.parametrize("way", ["rm", "disconnect", "network rm"])
def test_what_a_stopped_container_kept_goes_with_it(daemon: Daemon, way: str) -> None:
    body = {"Config": [{"Subnet": "10.99.0.0/24"}]}
    create(daemon, "mine", IPAM=body)
    box(daemon, "one", "mine", IPv4Address="10.99.0.2")
    daemon.post("/containers/one/stop", t=0)
    if way == "rm":
        assert daemon.delete("/containers/one").status == 204
    elif way == "disconnect":
        assert daemon.post("/networks/mine/disconnect", {"Container": "one"}).status == 200
    else:
        assert daemon.delete("/networks/mine").status == 204
        create(daemon, "mine", IPAM=body)
    assert box(daemon, "two", "mine", IPv4Address="10.99.0.2") == (204, "10.99.0.2")


def test_a_network_that_somebody_is_on_is_not_removed_and_what_was_kept_stays(daemon: Daemon) -> None:
    create(daemon, "mine", IPAM={"Config": [{"Subnet": "10.99.0.0/24"}]})
    box(daemon, "one", "mine", IPv4Address="10.99.0.2")
    box(daemon, "two", "mine")
    daemon.post("/containers/one/stop", t=0)
    assert daemon.delete("/networks/mine").status == 403
    assert box(daemon, "three", "mine") == (204, "10.99.0.4")


# -- the configuration file ------------------------------------------------------------------------------------------


def test_an_engine_is_as_its_configuration_file_says_and_comes_back_so_from_a_crash(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    opts = {"bridge": {"com.docker.network.driver.mtu": "1300", "com.docker.network.enable_ipv6": "true"}}
    file.write_text(json.dumps({"bip": "10.5.0.1/24", "icc": False, "default-network-opts": opts}))
    with Daemon.running("--config-file", str(file)) as daemon:
        daemon.bootstrap()
        assert inspect(daemon, "bridge")["IPAM"]["Config"] == [{"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1"}]
        assert inspect(daemon, "bridge")["Options"]["com.docker.network.bridge.enable_icc"] == "false"
        assert "com.docker.network.driver.mtu" not in inspect(daemon, "bridge")["Options"]
        create(daemon, "plain")
        create(daemon, "own", Options={"mtu": "1400"}, EnableIPv6=False)
        assert "mtu 1300" in daemon.docker("run", "--rm", "--network", "plain", "busybox", "ip", "addr").stdout
        assert "mtu 1400" in daemon.docker("run", "--rm", "--network", "own", "busybox", "ip", "addr").stdout
        assert inspect(daemon, "plain")["Options"] == opts["bridge"]
        assert inspect(daemon, "plain")["EnableIPv6"] is True
        assert inspect(daemon, "own")["EnableIPv6"] is False

        file.write_text('{"bip": ')  # it is being edited
        daemon.wait_back(daemon.kill())
        assert inspect(daemon, "bridge")["IPAM"]["Config"] == [{"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1"}]
        create(daemon, "later")
        assert inspect(daemon, "later")["Options"] == opts["bridge"]

        daemon.terminate()
        said = daemon.start()
        assert said.startswith(f"unable to configure the engine with file {file}: it is not JSON: ")
        daemon.arguments = ("--config-file", str(file), "--bip", "10.6.0.1/24")
        file.write_text('{"bip": "10.5.0.1/24"}')
        assert "bip: (from flag: 10.6.0.1/24, from file: 10.5.0.1/24)" in daemon.start()
        daemon.arguments = ("--config-file", str(file))
        assert daemon.start() == "1"


def test_the_file_in_etc_is_read_when_it_is_there_and_judged_without_a_start(host: Host, tmp_path: Path) -> None:
    """In a mount namespace with a layer over /etc."""
    script = """
        set -e
        mount -t tmpfs none "$1"; mkdir "$1/up" "$1/work"
        mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/up,workdir=$1/work" /etc
        validate() { echo "$("$2" -I -m pynet.cli.main --root "$1/r" --run "$1/u" daemon --validate 2>&1 | head -1)"; }
        validate "$@"
        rm -rf /etc/pynet; mkdir /etc/pynet
        echo '{"icc": false}' > /etc/pynet/daemon.json; validate "$@"
        echo '{"icc": "no"}' > /etc/pynet/daemon.json; validate "$@"
        PYNET_CONFIG_FILE=/dev/null validate "$@"
        ls "$1"
    """
    environ = {
        name: text for name, text in os.environ.items() if not name.startswith("PYNET_") and name != "DOCKER_HOST"
    }
    said = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    wrong = "pynetd: unable to configure the engine with file /etc/pynet/daemon.json: icc must be true or false, which no is not"
    assert said.stdout.splitlines() == [*["configuration OK"] * 2, wrong, "configuration OK", "up", "work"]
