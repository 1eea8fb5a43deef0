"""Macvlan networks for real: packets between containers, the LAN and the host; parents; what is left and what is repaired."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.handles import Endpoint, Network
from pynet.netlib.kernel.rtnl_messages import LinkInfo
from pynet.netlib.model import IpamConfig
from pynet.plugins.testhost import Host, Lan

from support.netlib import call_in, default_gateways

LAN4 = IpamConfig("192.0.2.0/24", ip_range="192.0.2.128/26", gateway="192.0.2.2")
LAN6 = IpamConfig("2001:db8::/64", ip_range="2001:db8::100/120", gateway="2001:db8::2")


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


def lan_network(controller: Controller, name: str = "lan", *, ipv6: bool = False, **options: str) -> Network:
    """A network on the wire of the LAN client, who is its router too."""
    ipam = [LAN4, LAN6] if ipv6 else [LAN4]
    return controller.create_network(
        name, driver="macvlan", ipam=ipam, ipv6=ipv6, options={"parent": Lan.host_ifname, **options}
    )


def joined(controller: Controller, network: Network, name: str, *, mac: str = "") -> Endpoint:
    endpoint = network.create_endpoint(name, mac=mac or None)
    endpoint.join(controller.create_sandbox(name))
    return endpoint


def path(controller: Controller, endpoint: Endpoint) -> str:
    return controller.sandbox(endpoint.record.sandbox).path


def reach(
    client: Callable[..., socket.socket], server: Callable[..., socket.socket], address: str, *, port: int = 8000
) -> str:
    """Connect and be answered; the address that the client had at the server."""
    with server((address, port)) as listener:
        listener.settimeout(5)
        with client((address, port)) as near:
            far, peer = listener.accept()
            with far:
                far.sendall(b"hello")
                near.settimeout(5)
                assert near.recv(5) == b"hello"
    return str(peer[0])


def connecting(controller: Controller, endpoint: Endpoint) -> Callable[[tuple[str, int]], socket.socket]:
    def connect(address: tuple[str, int]) -> socket.socket:
        made: socket.socket = call_in(controller, path(controller, endpoint), socket.create_connection, address, 5)
        return made

    return connect


def listening(controller: Controller, endpoint: Endpoint) -> Callable[[tuple[str, int]], socket.socket]:
    def listen(address: tuple[str, int]) -> socket.socket:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made: socket.socket = call_in(
            controller, path(controller, endpoint), lambda: socket.create_server(address, family=family)
        )
        return made

    return listen


def link_of(controller: Controller, endpoint: Endpoint) -> LinkInfo:
    with controller.tools.inside(path(controller, endpoint)) as inside:
        link = inside.rtnl.link(endpoint.ifname)
    assert link is not None
    return link


# -- packets -----------------------------------------------------------------------------------------------------------


def test_containers_and_the_lan_reach_one_another(controller: Controller, lan: Lan) -> None:
    network = lan_network(controller, ipv6=True)
    a, b = joined(controller, network, "a"), joined(controller, network, "b")
    assert (a.address, a.address6, a.ifname) == ("192.0.2.128/24", "2001:db8::100/64", "eth0")
    for source, target in ((a.record.ip, b.record.ip), (a.record.ip6, b.record.ip6)):
        assert reach(connecting(controller, a), listening(controller, b), target) == source
        assert reach(lan.connect, listening(controller, b), target) == (lan.address6 if ":" in target else lan.address)
    assert reach(connecting(controller, a), lan.listen, lan.address) == a.record.ip
    assert reach(connecting(controller, a), lan.listen, lan.address6) == a.record.ip6
    assert default_gateways(controller, path(controller, a)) == {lan.address, lan.address6}
    assert link_of(controller, a).mac == a.mac == "02:42:c0:00:02:80"
    assert controller.check() == []


def test_without_host_access_the_host_is_kept_from_its_containers(controller: Controller, lan: Lan) -> None:
    """The kernel's rule, that host_access is for."""
    a = joined(controller, lan_network(controller), "a")
    with listening(controller, a)((a.record.ip, 8000)), pytest.raises(OSError):
        socket.create_connection((a.record.ip, 8000), 0.3)


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "dual"])
def test_with_host_access_the_host_and_its_containers_reach_one_another(
    controller: Controller, host: Host, lan: Lan, ipv6: bool
) -> None:
    network = lan_network(controller, ipv6=ipv6, host_access="true")
    own = [config.aux["host"] for config in network.record.ipam]
    a, b = joined(controller, network, "a"), joined(controller, network, "b")
    for address, source in zip((a.record.ip, a.record.ip6), own):
        assert reach(host.connect, listening(controller, a), address) == source
    for address, source in zip(own, (a.record.ip, a.record.ip6)):
        assert reach(connecting(controller, a), host.listen, address) == source
    # as before: the LAN, the containers, and the host's own address on the wire
    assert reach(lan.connect, listening(controller, a), a.record.ip) == lan.address
    assert reach(connecting(controller, b), listening(controller, a), a.record.ip) == b.record.ip
    assert reach(lan.connect, host.listen, lan.host_address) == lan.address
    assert reach(connecting(controller, a), host.listen, lan.host_address) == a.record.ip
    assert controller.check() == []
    destinations = {route.destination for route in host.rtnl.routes()}
    assert {f"{a.record.ip}/32", f"{b.record.ip}/32"} <= destinations
    a.leave()
    destinations = {route.destination for route in host.rtnl.routes()}
    assert f"{a.record.ip}/32" not in destinations
    assert f"{b.record.ip}/32" in destinations
    assert controller.check() == []
