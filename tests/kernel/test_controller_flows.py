"""What publishing a port does to flows that are there: those to it are sent anew, everybody else's go on."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host, Lan


@pytest.mark.parametrize("where", ["", "192.0.2.1:"])
def test_publishing_a_udp_port_forgets_the_flows_to_it_alone(
    start_controller: Callable[..., Controller], host: Host, lan: Lan, where: str
) -> None:
    controller = start_controller()
    web = controller.create_network("web", subnet="10.1.0.0/24")
    endpoint = web.create_endpoint("a")
    endpoint.join(controller.create_sandbox())
    with (
        lan.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(type=socket.SOCK_DGRAM) as own,
    ):
        client.sendto(b"x", (lan.host_address, 5353))
        own.sendto(b"x", (lan.address, 5353))
        seen = {flow.destination for flow in controller.tools.conntrack.flows() if flow.destination_port == 5353}
        assert seen == {lan.host_address, lan.address}
        endpoint.publish(parse_publish(f"{where}5353:53/udp"))
        flows = [flow for flow in controller.tools.conntrack.flows() if flow.destination_port == 5353]
        assert [flow.destination for flow in flows] == [lan.address]
        client.sendto(b"x", (lan.host_address, 5353))
        (flow,) = (f for f in controller.tools.conntrack.flows() if f.destination == lan.host_address)
        assert flow.reply_source == endpoint.address.partition("/")[0]
