"""What a network and an endpoint were asked for, as the kernel has it: MTU, MAC, gateway, ranges, families."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.addressing import NoAddressLeft
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Forbidden, InvalidArgument
from pynet.netlib.handles import Sandbox
from pynet.netlib.kernel.rtnetlink import Rtnetlink
from pynet.netlib.model import IpamConfig
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Lan

from support.netlib import default_gateways
from support.waiting import PATIENCE


@pytest.fixture(params=["nftables", "iptables"])
def controller(request: pytest.FixtureRequest, start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(request.param)


def inside(controller: Controller, sandbox: Sandbox, function: Callable[..., Any], *arguments: Any) -> Any:
    fd = controller.tools.netns.open(sandbox.path)
    try:
        return controller.tools.netns.call(fd, function, *arguments)
    finally:
        os.close(fd)


def serve6(controller: Controller, sandbox: Sandbox) -> socket.socket:
    def listen() -> socket.socket:
        return socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)

    server: socket.socket = inside(controller, sandbox, listen)
    return server


def answers(client: socket.socket, server: socket.socket) -> str:
    """Both ways through the connection; the client's address as the server sees it."""
    server.settimeout(PATIENCE)
    with client, server.accept()[0] as accepted:
        accepted.sendall(b"pong")
        assert client.recv(4) == b"pong"
        return str(accepted.getpeername()[0])


def test_links_have_the_mtu_and_the_mac_that_were_asked_for(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24", options={"mtu": "1400"})
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a", mac="02-00-00-00-AB-01")
    endpoint.join(sandbox)

    def look() -> tuple[int, str]:
        with Rtnetlink() as rtnl:
            link = rtnl.link("eth0")
            assert link is not None
            return link.mtu, link.mac

    assert inside(controller, sandbox, look) == (1400, "02:00:00:00:ab:01")
    bridge = controller.tools.rtnl.link(network.bridge)
    veth = controller.tools.rtnl.link(f"pv{endpoint.id[:12]}")
    assert bridge is not None
    assert veth is not None
    assert (bridge.mtu, veth.mtu) == (1400, 1400)


def test_a_proxy_protocol_without_a_proxy_is_refused_and_leaves_nothing(controller: Controller) -> None:
    endpoint = controller.create_network("web", subnet="10.1.0.0/24").create_endpoint("a")
    endpoint.join(controller.create_sandbox("a"))
    with pytest.raises(InvalidArgument, match="needs the userland proxy") as caught:
        endpoint.publish([*parse_publish("8080:80"), *parse_publish("8081:80,proxy-protocol=1")])
    assert "proxy=ForwarderClient" in caught.value.hint
    assert endpoint.ports == ()
    assert controller.check() == []
    with socket.create_server(("0.0.0.0", 8080)):
        pass


def test_a_publish_policy_that_can_not_be_is_refused(start_controller: Callable[..., Controller]) -> None:
    with pytest.raises(InvalidArgument, match="unknown publish policy 'input'"):
        start_controller(publish_policy="input")
    with pytest.raises(InvalidArgument, match="host-input needs the userland proxy") as caught:
        start_controller(publish_policy="host-input")
    assert "proxy=ForwarderClient" in caught.value.hint
    start_controller()


@pytest.mark.parametrize("option", ["com.docker.network.container_iface_prefix", "ifname_prefix"])
def test_interfaces_inside_are_named_as_the_network_says(controller: Controller, option: str) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24", options={option: "web"})
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    names = inside(controller, sandbox, lambda: {name for _, name in socket.if_nameindex()})
    assert names == {"lo", "web0"}


def test_a_gateway_of_choice_is_the_bridges_address_and_the_next_hop(controller: Controller) -> None:
    config = IpamConfig(
        subnet="10.1.0.0/24", ip_range="10.1.0.64/30", gateway="10.1.0.254", aux={"printer": "10.1.0.65"}
    )
    network = controller.create_network("web", ipam=[config])
    endpoints = [network.create_endpoint(name) for name in "abc"]
    assert [e.address for e in endpoints] == ["10.1.0.64/24", "10.1.0.66/24", "10.1.0.67/24"], "less the auxiliary one"
    with pytest.raises(NoAddressLeft, match="no available IPv4 addresses"):
        network.create_endpoint("d")
    outside = network.create_endpoint("e", ip="10.1.0.200")
    sandbox = controller.create_sandbox("e")
    outside.join(sandbox)
    assert default_gateways(controller, sandbox.path) == {"10.1.0.254"}
    with socket.create_server(("10.1.0.254", 7000)) as server:
        assert answers(inside(controller, sandbox, socket.create_connection, ("10.1.0.254", 7000), 5), server) == (
            "10.1.0.200"
        )


@pytest.mark.parametrize("inhibit", ["true", "false"])
def test_the_next_hop_may_be_somebody_else_than_the_bridge(controller: Controller, inhibit: str) -> None:
    """Per family; the address is kept for that one, and the bridge has its own, or none."""
    network = controller.create_network(
        "web",
        ipv6=True,
        ipam=[
            IpamConfig("10.1.0.0/24", gateway="10.1.0.9", aux={"DefaultGatewayIPv4": "10.1.0.1"}),
            IpamConfig("fd00:1::/64", aux={"DefaultGatewayIPv6": "fd00:1::fe"}),
        ],
        options={"inhibit_ipv4": inhibit},
    )
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    assert endpoint.address == "10.1.0.2/24"
    assert default_gateways(controller, sandbox.path) == {"10.1.0.1", "fd00:1::fe"}
    bridge = controller.tools.rtnl.link(network.bridge)
    assert bridge is not None
    own = {a.address for a in controller.tools.rtnl.addresses(bridge.index) if not a.address.startswith("fe80")}
    assert own == {"fd00:1::1"} | ({"10.1.0.9"} if inhibit == "false" else set())
    with pytest.raises(Forbidden, match="Address already in use"):
        network.create_endpoint("b", ip="10.1.0.1")
    assert controller.check() == []


@pytest.mark.parametrize("families", ["dual", "v6 only"])
def test_a_published_port_answers_over_ipv6_as_over_ipv4(controller: Controller, lan: Lan, families: str) -> None:
    subnets = [IpamConfig(subnet="fd00:1::/64")]
    if families == "dual":
        subnets.append(IpamConfig(subnet="10.1.0.0/24"))
    network = controller.create_network("web", ipam=subnets, ipv4=families == "dual", ipv6=True)
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    assert bool(endpoint.address) == (families == "dual")
    ports = endpoint.publish(parse_publish("8080:80"))
    assert {p.host_ip for p in ports} == ({"0.0.0.0", "::"} if families == "dual" else {"::"})
    with serve6(controller, sandbox) as server:
        assert answers(lan.connect((lan.host_address6, 8080)), server) == lan.address6, "the client's address is kept"
        answers(socket.create_connection((lan.host_address6, 8080), 5), server)
        answers(inside(controller, sandbox, socket.create_connection, (lan.host_address6, 8080), 5), server)
        if families == "dual":
            assert answers(lan.connect((lan.host_address, 8080)), server) == f"::ffff:{lan.address}"
    with lan.listen((lan.address6, 7000)) as server:
        client = inside(controller, sandbox, socket.create_connection, (lan.address6, 7000), 5)
        assert answers(client, server) == lan.host_address6, "masqueraded"


@pytest.mark.parametrize("scope", ["all", "default"])
def test_a_host_with_ipv6_switched_off_has_ipv4_networks(controller: Controller, scope: str) -> None:
    """As with ipv6.disable_ipv6=1 on the kernel's command line, or the sysctl."""
    switch = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
    switch.write_text("1")
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    endpoint.publish(parse_publish("8080:80"))
    with inside(controller, sandbox, socket.create_server, ("", 80)) as server:
        answers(socket.create_connection(("127.0.0.1", 8080), 5), server)
    assert controller.check() == []
    switch.write_text("0")  # gives the loopback interface its address back


def test_a_network_with_ipv6_works_where_new_interfaces_have_it_off(controller: Controller) -> None:
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    network = controller.create_network(
        "web", ipam=[IpamConfig(subnet="10.1.0.0/24"), IpamConfig(subnet="fd00:1::/64")], ipv6=True
    )
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    assert controller.check() == []
    with serve6(controller, sandbox) as server:
        answers(socket.create_connection(("fd00:1::2", 80), 5), server)
