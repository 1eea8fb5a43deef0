"""A macvlan network on the wire of the LAN client, its containers, and who reaches whom."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pynet.netlib.controller import Controller
from pynet.netlib.handles import Endpoint, Network
from pynet.netlib.kernel.rtnl_links import LinkInfo
from pynet.netlib.model import IpamConfig
from pynet.plugins.testhost import Lan

from support.netlib import call_in
from support.waiting import PATIENCE

LAN4 = IpamConfig("192.0.2.0/24", ip_range="192.0.2.128/26", gateway="192.0.2.2")
LAN6 = IpamConfig("2001:db8::/64", ip_range="2001:db8::100/120", gateway="2001:db8::2")


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
        listener.settimeout(PATIENCE)
        with client((address, port)) as near:
            far, peer = listener.accept()
            with far:
                far.sendall(b"hello")
                near.settimeout(PATIENCE)
                assert near.recv(5) == b"hello"
    return str(peer[0])


def connecting(controller: Controller, endpoint: Endpoint) -> Callable[[tuple[str, int]], socket.socket]:
    def connect(address: tuple[str, int]) -> socket.socket:
        made: socket.socket = call_in(
            controller, path(controller, endpoint), socket.create_connection, address, PATIENCE
        )
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
