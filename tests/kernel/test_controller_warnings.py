"""What the controller says about the host, and what it does where the host's firewall does not see bridged packets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.instance import veth_name
from pynet.netlib.kernel import sysctl
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host

CALLS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")


@pytest.fixture(params=["nftables", "iptables"])
def controller(start_controller: Callable[..., Controller], request: pytest.FixtureRequest) -> Controller:
    return start_controller(request.param)


@pytest.fixture
def bridge_filter(host: Host) -> Iterator[None]:
    try:
        before = {name: sysctl.read(("net", "bridge", name)) for name in CALLS}
    except FileNotFoundError:
        pytest.skip("no br_netfilter")
    yield
    for name, value in before.items():
        sysctl.write(("net", "bridge", name), value)


def test_what_stands_in_the_way_is_said(controller: Controller) -> None:
    assert controller.warnings() == []
    web = controller.create_network("web", subnet="10.1.0.0/24")
    endpoint = web.create_endpoint("a")
    endpoint.join(controller.create_sandbox())
    endpoint.publish(parse_publish("8080:80"))
    assert controller.warnings() == []
    sysctl.write("net.ipv4.ip_forward", 0)
    nft = "add table ip others; add chain ip others p { type nat hook prerouting priority -100; }; "
    subprocess.run(["nft", nft + "add rule ip others p tcp dport 8080 redirect to :1"], check=True)
    forwarding, taken = controller.warnings()
    assert "net.ipv4.ip_forward=1" in forwarding
    assert "ip others p translates tcp port 8080 too" in taken
    sysctl.write("net.ipv4.ip_forward", 1)
    subprocess.run(["nft", "delete table ip others"], check=True)
    assert controller.warnings() == []


@pytest.mark.parametrize("unseen", [(), ("bridge-nf-call-ip6tables",), ("bridge-nf-call-iptables",), CALLS])
def test_the_bridge_keeps_apart_what_the_firewall_does_not_see(
    start_controller: Callable[..., Controller], bridge_filter: None, unseen: tuple[str, ...]
) -> None:
    """Of either family: rules for IPv4 alone would leave IPv6 open."""
    controller = start_controller()
    for name in CALLS:
        sysctl.write(("net", "bridge", name), 0 if name in unseen else 1)
    apart = controller.create_network("apart", ipv6=True, options={"icc": "false"})
    endpoint = apart.create_endpoint("a")
    endpoint.join(controller.create_sandbox())
    link = controller.tools.rtnl.link(veth_name(endpoint.id))
    assert link is not None and link.isolated == bool(unseen)
    assert controller.warnings() == []
