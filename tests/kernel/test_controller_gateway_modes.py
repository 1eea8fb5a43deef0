"""Gateway modes from the options of a network to packets: what is published, listed, leased and reached."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.handles import Network, Sandbox
from pynet.netlib.kernel.rtnetlink import RouteInfo
from pynet.netlib.model import IpamConfig
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host, Lan

from support.netlib import call_in, inside_of
from support.ping import ping
from support.waiting import PATIENCE, SILENCE

OPTION = "com.docker.network.bridge.gateway_mode_ipv{}"


@pytest.fixture(params=["nftables", "iptables"])
def controller(request: pytest.FixtureRequest, start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(request.param)


def network(controller: Controller, lan: Lan, options: dict[str, str] | None = None, *, number: int = 1) -> Network:
    configs = [IpamConfig(subnet=f"10.{number}.0.0/24"), IpamConfig(subnet=f"fd00:{number}::/64")]
    lan.rtnl.add_route(RouteInfo(destination=configs[0].subnet, gateway=lan.host_address))
    lan.rtnl.add_route(RouteInfo(destination=configs[1].subnet, gateway=lan.host_address6))
    return controller.create_network(f"n{number}", ipam=configs, ipv6=True, options=options)


def joined(controller: Controller, network: Network, name: str = "a") -> Sandbox:
    sandbox = controller.create_sandbox(name)
    network.create_endpoint(name).join(sandbox)
    return sandbox


def serve(controller: Controller, sandbox: Sandbox, port: int = 80) -> socket.socket:
    server: socket.socket = call_in(
        controller,
        sandbox.path,
        lambda: socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True),
    )
    return server


def is_reached(lan: Lan, server: socket.socket, address: str, port: int = 80, *, timeout: float = PATIENCE) -> bool:
    server.settimeout(PATIENCE)
    try:
        client = lan.connect((address, port), timeout)
    except OSError:
        return False
    with client, server.accept()[0]:
        return True


def test_two_containers_of_a_routed_network_publish_the_same_port(controller: Controller, lan: Lan) -> None:
    routed = network(controller, lan, {OPTION.format(6): "routed"})
    sandboxes = [joined(controller, routed, name) for name in "ab"]
    sandboxes[0].publish(parse_publish("8080:80"))
    with pytest.raises(InvalidArgument, match="needs a host port, and the network of a is routed"):
        sandboxes[0].publish(parse_publish("[::]:8081:80,proxy-protocol=1"))
    both = sandboxes[1].publish([*parse_publish("[::]:8080:80"), *parse_publish("[::]:8081:80")])
    assert [(port.host_ip, port.host_port, port.container_port) for port in both] == [("::", 0, 80)]
    assert [port.host_port for port in sandboxes[0].ports if port.host_ip == "::"] == [0]
    assert sandboxes[1].publish(parse_publish("[::]:8080:80")) == (), "it is open already"
    (path,) = controller.core.plans.paths(controller.registry.room("b"))
    assert (path.path, path.target) == ("open", ("fd00:1::3", 80))
    with serve(controller, sandboxes[0]) as first, serve(controller, sandboxes[1]) as second:
        assert is_reached(lan, first, "fd00:1::2")
        assert is_reached(lan, second, "fd00:1::3")
        assert not is_reached(lan, first, lan.host_address6, 8080, timeout=SILENCE), "no host port leads there"
        assert is_reached(lan, first, lan.host_address, 8080), "IPv4 is NAT's"
        assert not is_reached(lan, first, "10.1.0.2", timeout=SILENCE)
        assert ping(lan, "fd00:1::2")
    assert controller.check() == []
    sandboxes[1].unpublish()
    with serve(controller, sandboxes[1]) as second:
        assert not is_reached(lan, second, "fd00:1::3", timeout=SILENCE)


def test_a_udp_flow_to_a_routed_port_ends_with_it(controller: Controller, lan: Lan) -> None:
    """An established flow would go on being let in: it is forgotten with the port, and nobody else's."""
    routed = network(controller, lan, {OPTION.format(version): "routed" for version in (4, 6)})
    sandbox = joined(controller, routed)
    sandbox.publish([*parse_publish("8080:80/udp"), *parse_publish("8081:81/udp")])
    with inside_of(controller, sandbox) as inside:
        for family, server_address in ((socket.AF_INET, "10.1.0.2"), (socket.AF_INET6, "fd00:1::2")):
            version = 4 if family == socket.AF_INET else 6
            with (
                inside.socket(family, socket.SOCK_DGRAM) as first,
                inside.socket(family, socket.SOCK_DGRAM) as second,
                lan.socket(family, socket.SOCK_DGRAM) as client,
            ):
                for server, port in ((first, 80), (second, 81)):
                    server.bind((server_address, port))
                    server.settimeout(PATIENCE)
                    client.sendto(b"one", (server_address, port))
                    _, peer = server.recvfrom(16)
                    server.sendto(b"answer", peer)
                    assert client.recv(16) == b"answer"
                gone = [p for p in sandbox.ports if p.container_port == 80 and (":" in p.host_ip) == (version == 6)]
                sandbox.unpublish(gone)
                for port in (80, 81):
                    client.sendto(b"two", (server_address, port))
                assert second.recv(16) == b"two"
                first.settimeout(SILENCE)
                with pytest.raises(TimeoutError):
                    first.recv(16)


def test_what_is_open_is_open_after_a_restart_and_after_a_repair(
    controller: Controller, lan: Lan, start_controller: Callable[..., Controller]
) -> None:
    routed = network(controller, lan, {OPTION.format(4): "routed", OPTION.format(6): "routed"})
    sandbox = joined(controller, routed)
    sandbox.publish(parse_publish("8080:80"))
    other = joined(controller, routed, "b")
    other.publish(parse_publish("8080:80"))
    restarted = start_controller(controller.tools.firewall.name)
    assert restarted.check() == []
    assert restarted.lost_ports == []
    restarted.tools.firewall.destroy()
    missing = {difference.name for difference in restarted.check() if difference.kind == "rule"}
    assert {"10.1.0.2:80/tcp", "[fd00:1::2]:80/tcp"} <= missing
    restarted.repair()
    with serve(restarted, restarted.sandbox("a")) as server:
        assert is_reached(lan, server, "10.1.0.2")
        assert is_reached(lan, server, "fd00:1::2")


def test_a_routed_second_network_is_open_beside_the_first_ones_nat(controller: Controller, lan: Lan) -> None:
    sandbox = joined(controller, network(controller, lan))
    sandbox.publish(parse_publish("8080:80"))
    routed = network(controller, lan, {OPTION.format(4): "routed"}, number=2)
    endpoint = routed.create_endpoint("a", gw_priority=-1)
    endpoint.join(sandbox)
    server_routes = [RouteInfo(destination=f"{lan.address}/32", gateway="10.2.0.1")]
    with serve(controller, sandbox) as server:
        assert is_reached(lan, server, lan.host_address, 8080)
        with controller.tools.inside(sandbox.path) as inside:
            inside.rtnl.add_route(server_routes[0])
        assert is_reached(lan, server, "10.2.0.2"), "published, though the default route is elsewhere"
        assert not is_reached(lan, server, "10.1.0.2", timeout=SILENCE)
        endpoint.leave()
        assert not is_reached(lan, server, "10.2.0.2", timeout=SILENCE)
    assert controller.check() == []


def test_a_port_bound_to_loopback_is_open_to_a_trusted_interface_alone(controller: Controller, lan: Lan) -> None:
    trusting = network(controller, lan, {"trusted": "eth9:eth0"})
    sandbox = joined(controller, trusting)
    sandbox.publish(parse_publish("127.0.0.1:8080:80"))
    stranger = joined(controller, network(controller, lan, number=2), "b")
    stranger.publish(parse_publish("127.0.0.1:8081:80"))
    with serve(controller, sandbox) as server, serve(controller, stranger) as other:
        assert is_reached(lan, server, "10.1.0.2")
        assert not is_reached(lan, server, "fd00:1::2", timeout=SILENCE), "published for IPv4"
        assert not is_reached(lan, server, lan.host_address, 8080, timeout=SILENCE)
        assert not is_reached(lan, other, "10.2.0.2", timeout=SILENCE)
    assert controller.check() == []


def test_a_networks_own_host_address_is_where_its_ports_answer_and_nowhere_else(
    controller: Controller, lan: Lan, host: Host
) -> None:
    """host_binding_ipv4; and who routes straight to the container's address is not let in by what is bound elsewhere."""
    eth0 = controller.tools.rtnl.link("eth0")
    assert eth0 is not None
    for address in ("192.0.2.8", "192.0.2.9"):
        controller.tools.rtnl.add_address(eth0.index, address, 32)
    bound = network(controller, lan, {"com.docker.network.bridge.host_binding_ipv4": "192.0.2.9"})
    sandbox = joined(controller, bound)
    ports = sandbox.publish([*parse_publish("8080:80"), *parse_publish("192.0.2.8:8081:80")])
    assert [(port.host_ip, port.host_port) for port in ports] == [("192.0.2.9", 8080), ("192.0.2.8", 8081)]
    with serve(controller, sandbox) as server:
        assert is_reached(lan, server, "192.0.2.9", 8080)
        assert is_reached(lan, server, "192.0.2.8", 8081)
        for address, port in ((lan.host_address, 8080), ("192.0.2.8", 8080), ("192.0.2.9", 8081), ("10.1.0.2", 80)):
            assert not is_reached(lan, server, address, port, timeout=SILENCE), (address, port)
        assert not is_reached(lan, server, "fd00:1::2", timeout=SILENCE)
    assert controller.check() == []


@pytest.mark.parametrize("option", ["com.docker.network.host_ipv{}", "source"])
def test_a_networks_own_source_address_is_what_the_lan_sees(controller: Controller, lan: Lan, option: str) -> None:
    eth0 = controller.tools.rtnl.link("eth0")
    assert eth0 is not None
    controller.tools.rtnl.add_address(eth0.index, "192.0.2.9", 24)
    controller.tools.rtnl.add_address(eth0.index, "2001:db8::9", 64)
    names = ("source", "source6") if option == "source" else (option.format(4), option.format(6))
    leaving = network(controller, lan, {names[0]: "192.0.2.9", names[1]: "2001:db8::9"})
    sandbox = joined(controller, leaving)
    for address, seen in ((lan.address, "192.0.2.9"), (lan.address6, "2001:db8::9")):
        with (
            lan.listen((address, 7000)) as server,
            call_in(controller, sandbox.path, socket.create_connection, (address, 7000), PATIENCE),
        ):
            server.settimeout(PATIENCE)
            accepted, client = server.accept()
            accepted.close()
            assert client[0] == seen


def test_an_inhibited_bridge_has_no_ipv4_address_and_its_containers_another_gateway(
    controller: Controller, lan: Lan
) -> None:
    """The gateway is a machine on the wire: here one of the containers."""
    config = IpamConfig(subnet="10.1.0.0/24", gateway="10.1.0.9")
    options = {"com.docker.network.bridge.inhibit_ipv4": "true"}
    inhibited = controller.create_network("n", ipam=[config], options=options)
    bridge = controller.tools.rtnl.link(inhibited.bridge)
    assert bridge is not None
    assert [a for a in controller.tools.rtnl.addresses(bridge.index) if ":" not in a.address] == []
    router, client = (joined(controller, inhibited, name) for name in ("router", "client"))
    with controller.tools.inside(router.path) as inside:
        eth0 = inside.rtnl.link("eth0")
        assert eth0 is not None
        inside.rtnl.add_address(eth0.index, "10.1.0.9", 24)
        inside.rtnl.add_address(1, "198.51.100.7", 32)
    with (
        serve(controller, router, 7000) as server,
        call_in(controller, client.path, socket.create_connection, ("198.51.100.7", 7000), PATIENCE),
    ):
        server.settimeout(PATIENCE)
        server.accept()[0].close()
    with pytest.raises(OSError):
        socket.create_connection(("10.1.0.2", 7000), SILENCE)  # the host has no way there
    assert controller.check() == []


def test_an_isolated_network_has_its_containers_and_nobody_else(controller: Controller, lan: Lan) -> None:
    with pytest.raises(InvalidArgument, match="can only be used for an internal network"):
        controller.create_network("n", options={OPTION.format(4): "isolated"})
    isolated = controller.create_network(
        "n",
        ipam=[IpamConfig(subnet="10.1.0.0/24"), IpamConfig(subnet="fd00:1::/64")],
        ipv6=True,
        internal=True,
        options={OPTION.format(version): "isolated" for version in (4, 6)},
    )
    first, second = (joined(controller, isolated, name) for name in "ab")
    bridge = controller.tools.rtnl.link(isolated.bridge)
    assert bridge is not None
    assert list(controller.tools.rtnl.addresses(bridge.index)) == []
    with serve(controller, second) as server:
        for address in ("10.1.0.2", "fd00:1::2"):  # the first of each subnet is no gateway's
            with call_in(controller, first.path, socket.create_connection, (address, 80), PATIENCE), server.accept()[0]:
                pass
        with pytest.raises(OSError):
            socket.create_connection(("10.1.0.2", 80), SILENCE)
    assert controller.check() == []
