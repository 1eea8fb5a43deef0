"""Addresses of containers by the Engine API: what is given, what can not be had, what a stopped container keeps."""

from __future__ import annotations

from typing import Any

import pytest

from pynet.plugins.testhost import Host

from support.engine import Bed, Daemon
from support.networks import box, create, inspect, names

SUBNET = "10.99.0.0/24"


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


# -- addresses -------------------------------------------------------------------------------------------------------


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
