"""Macvlan networks: what is found missing or stray and repaired, and what is in the way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, Forbidden
from pynet.netlib.model import IpamConfig
from pynet.plugins.testhost import Host, Lan

from support.macvlan import connecting, joined, lan_network, listening, path, reach
from support.netlib import call_in


def test_what_is_deleted_by_hand_is_found_and_repaired(controller: Controller, host: Host, lan: Lan) -> None:
    network = lan_network(controller, ipv6=True, host_access="true")
    a = joined(controller, network, "a")
    sandbox = path(controller, a)
    (link,) = (link for link in host.rtnl.links() if link.name.startswith("ph"))

    def differences() -> list[str]:
        found = [str(difference) for difference in controller.check()]
        controller.repair()
        assert controller.check() == []
        assert reach(host.connect, listening(controller, a), a.record.ip)
        assert reach(connecting(controller, a), lan.listen, lan.address6) == a.record.ip6
        return found

    host.rtnl.delete_link(link.index)
    assert differences() == [
        f"missing link {link.name}",
        f"missing route {a.record.ip}",
        f"missing route {a.record.ip6}",
    ]
    with controller.tools.inside(sandbox) as inside:
        inside.rtnl.delete_link("eth0")
    assert f"missing link eth0 in {sandbox}" in differences()
    with controller.tools.inside(sandbox) as inside:
        inside.rtnl.delete_address(inside.rtnl.index("eth0"), a.record.ip, 24)
        before = inside.rtnl.index("eth0")
    assert f"missing link eth0 in {sandbox}" in differences()
    with controller.tools.inside(sandbox) as inside:
        assert inside.rtnl.index("eth0") == before, "it is mended, and not made anew: connections live on"
    for route in host.rtnl.routes(4):
        if route.destination == f"{a.record.ip}/32":
            host.rtnl.delete_route(route)
    assert differences() == [f"missing route {a.record.ip}"]


def test_what_nobody_asked_for_is_found_and_removed(
    start_controller: Callable[..., Controller], host: Host, lan: Lan
) -> None:
    """A process was killed after the store had forgotten an endpoint."""
    controller = start_controller()
    network = lan_network(controller, host_access="true")
    a = joined(controller, network, "a")
    sandbox, ip = path(controller, a), a.record.ip
    controller.registry.save(forget=(a.record,))
    controller = start_controller()
    assert [str(difference) for difference in controller.check()] == [
        f"stray link eth0 in {sandbox}",
        f"stray route {ip}/32",
    ]
    controller.repair()
    assert controller.check() == []
    with controller.tools.inside(sandbox) as inside:
        assert [link.name for link in inside.rtnl.links()] == ["lo"]
    assert f"{ip}/32" not in {route.destination for route in host.rtnl.routes()}


def test_a_lost_pin_is_set_again_on_the_namespace_that_lives(
    start_controller: Callable[..., Controller], host: Host, lan: Lan
) -> None:
    controller = start_controller()
    endpoint = joined(controller, lan_network(controller), "a")
    pin = path(controller, endpoint)
    sleeper = call_in(controller, pin, subprocess.Popen, ["sleep", "60"])
    try:
        inode = os.stat(pin).st_ino
        controller.tools.netns.delete(pin)
        controller.repair()
        assert os.stat(pin).st_ino == inode
        assert controller.check() == []
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_route_of_somebody_else_to_the_address_is_a_conflict(controller: Controller, host: Host, lan: Lan) -> None:
    network = lan_network(controller, host_access="true")
    endpoint = network.create_endpoint("a", ip="192.0.2.99")
    theirs = next(route for route in host.rtnl.routes() if route.destination == "192.0.2.0/24")
    mine = type(theirs)(destination="192.0.2.99/32", device=theirs.device)
    host.rtnl.add_route(mine)
    with pytest.raises(Conflict, match=r"the host has another route to 192\.0\.2\.99"):
        endpoint.join(controller.create_sandbox("a"))
    assert "192.0.2.99/32" in {route.destination for route in host.rtnl.routes()}
    host.rtnl.delete_route(mine)


def test_the_hosts_address_can_be_chosen_and_is_remembered(
    start_controller: Callable[..., Controller], host: Host, lan: Lan
) -> None:
    chosen = IpamConfig("192.0.2.0/24", ip_range="192.0.2.128/26", aux={"host": "192.0.2.77"})
    controller = start_controller()
    network = controller.create_network(
        "lan", driver="macvlan", ipam=[chosen], options={"parent": "eth0", "host_access": "true"}
    )
    a = joined(controller, network, "a")
    controller = start_controller()
    assert controller.check() == []
    assert reach(host.connect, listening(controller, a), a.record.ip) == "192.0.2.77"
    network = controller.network("lan")
    assert network.record.ipam[0].gateway == ""
    assert network.create_endpoint("b").address == "192.0.2.129/24", "leases and the host's address are taken again"
    with pytest.raises(Forbidden, match="Address already in use"):
        network.create_endpoint("c", ip="192.0.2.77")


def test_a_plan_shows_what_would_be_made(controller: Controller, lan: Lan) -> None:
    steps = controller.planned(lan_network, controller, host_access="true")
    assert [str(step).partition(":")[0] for step in steps] == [
        "make parent interface eth0",
        f"make the host's interface {steps[1].resource.key[1]!s}",
    ]
    network = lan_network(controller, host_access="true")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    shown = [str(step) for step in controller.planned(endpoint.join, sandbox)]
    assert any("interface eth0 in" in line and "macvlan bridge on eth0" in line for line in shown)
    assert any(line.startswith(f"make the host's route to {endpoint.record.ip}: ph") for line in shown)
