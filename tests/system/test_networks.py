"""Networks by the Engine API and by Docker's own clients: what can be asked for, what is refused and how, what is told."""

from __future__ import annotations

import json
import shutil
import socket
import time
from typing import Any

import pytest

from support.engine import Bed, Daemon
from support.networks import box, create, inspect, names

CLIENTS = [path for path in ("/usr/local/bin/docker", "/usr/bin/docker") if shutil.which(path)]
OPERATOR = (
    "configuration network can only contain network specific fields. Network operator fields like "
    "[ ingress | internal | attachable | scope ] are not supported."
)
NOT_BOTH = "user specified configurations are not supported if the network depends on a configuration network"


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


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
