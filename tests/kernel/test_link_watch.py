"""Interfaces that others delete, set down or strip come back by themselves, with all that hangs on them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.instance import veth_name
from pynet.netlib.link_watch import LinkWatch
from pynet.netlib.model import IpamConfig
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Lan

from support.answering import Servers
from support.netlib import inside_of
from support.waiting import until


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


@pytest.fixture
def watch(controller: Controller) -> Iterator[LinkWatch]:
    sandbox = controller.create_sandbox("a")
    configs = [IpamConfig(subnet="10.1.0.0/24"), IpamConfig(subnet="fd00:1::/64")]
    controller.create_network("web", ipam=configs, ipv6=True).create_endpoint("a").join(sandbox)
    sandbox.publish(parse_publish("8080:80"))
    with controller.watch_links() as watch:
        yield watch


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@pytest.mark.parametrize(
    "command",
    [
        "ip link del {bridge}",
        "ip link del {veth}",
        "ip link set {bridge} down",
        "ip link set {veth} down",
        "ip link set {veth} nomaster",
        "ip addr flush dev {bridge}",
        "ip -6 addr del fd00:1::1/64 dev {bridge}",
    ],
)
def test_what_is_taken_comes_back(
    controller: Controller, watch: LinkWatch, lan: Lan, request: pytest.FixtureRequest, command: str
) -> None:
    network = controller.network("web")
    (endpoint,) = network.endpoints()
    run(command.format(bridge=network.bridge, veth=veth_name(endpoint.id)))
    until(lambda: watch.repairs > 0, "it was not noticed")
    until(lambda: controller.check() == [], "it is not whole")
    servers = Servers()
    request.addfinalizer(servers.close)
    with inside_of(controller, controller.sandbox("a")) as inside:
        servers.serve("a", inside, 80)
        for address in (lan.host_address, lan.host_address6):
            with lan.connect((address, 8080)) as client:
                assert client.recv(64).startswith(b"a ")


def test_what_we_do_ourselves_is_no_reason_to_repair(controller: Controller, watch: LinkWatch) -> None:
    for number in range(2, 8):
        network = controller.create_network(f"n{number}", subnet=f"10.{number}.0.0/24")
        sandbox, endpoint = controller.create_sandbox(f"s{number}"), network.create_endpoint("b")
        endpoint.join(sandbox)
        endpoint.leave()
        endpoint.join(sandbox)
        sandbox.delete()
        endpoint.delete()
        network.delete()
    run(f"ip link set {controller.network('web').bridge} down")  # events come in order: ours were read before it
    until(lambda: watch.repairs > 0, "it was not noticed")
    assert watch.repairs == 1


def test_a_watch_ends_before_everything_is_taken_down(controller: Controller, watch: LinkWatch) -> None:
    bridge = controller.network("web").bridge
    controller.sandbox("a").delete()
    controller.take_down()
    assert watch.closed
    assert bridge not in {name for _, name in socket.if_nameindex()}
    controller.repair()
