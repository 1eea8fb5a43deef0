"""Networks as an engine is started, by options and configuration file: the default bridge, the pools, what is in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pynet.plugins.testhost import Host

from support.engine import Daemon
from support.networks import create, inspect, names, warnings

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

        os.kill(daemon.pid(), signal.SIGHUP)
        daemon.eventually(lambda: "SIGHUP: the configuration file is read when the engine is started" in daemon.log())
        assert inspect(daemon, "later")["Options"] == opts["bridge"], "it is there still"

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
