"""Configuration-only networks by the library: nothing in the kernel, no pool taken, the same after a restart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pynet.netlib.configuration import ConfigurationInUse, ConfigurationNotFound
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, Forbidden
from pynet.netlib.model import IpamConfig

CONFIG = [IpamConfig("10.1.0.0/24", ip_range="10.1.0.64/26")]


def test_a_configuration_outlives_a_restart_and_holds_no_subnet(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    office = controller.create_network("office", config_only=True, ipam=CONFIG, options={"mtu": "1400"})
    assert office.plan() == []
    controller = start_controller()
    other = controller.create_network("other", subnet="10.1.0.0/24")
    with pytest.raises(Forbidden, match="Pool overlaps"):
        controller.create_network("web", config_from="office")
    other.delete()
    web = controller.create_network("web", config_from=office.id)
    assert (web.record.config_from, web.record.options) == ("office", {"mtu": "1400"})
    assert web.create_endpoint("a").address == "10.1.0.64/24"
    controller = start_controller()
    office = controller.network("office")
    with pytest.raises(ConfigurationInUse) as caught:
        office.delete()
    assert caught.value.hint == "remove what was made from it first: web"
    with pytest.raises(Forbidden, match="cannot create endpoint on configuration-only network"):
        office.create_endpoint("b")
    with pytest.raises(Conflict):
        controller.create_network("office", config_only=True)
    for endpoint in controller.network("web").endpoints():
        endpoint.delete()
    controller.network("web").delete()


def test_all_that_a_configuration_says_is_the_networks(start_controller: Callable[..., Controller]) -> None:
    serial = {"com.docker.network.ipam.serial": "false"}
    controller = start_controller()
    office = controller.create_network("office", config_only=True, ipam=CONFIG, ipam_options=serial, labels={"a": "b"})
    web = controller.create_network("web", config_from="office")
    assert (web.record.ipam_options, web.record.labels) == (serial, {"a": "b"})
    endpoint = web.create_endpoint("a")
    assert endpoint.address == "10.1.0.64/24"
    endpoint.delete()
    assert web.create_endpoint("a").address == "10.1.0.64/24", "the first that is free, as asked"
    web.endpoints()[0].delete()
    web.delete()
    office.delete()


def test_what_would_be_made_is_shown_and_nothing_is_made(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    assert controller.planned(controller.create_network, "office", config_only=True, ipam=CONFIG) == ()
    with pytest.raises(ConfigurationNotFound):
        controller.planned(controller.create_network, "web", config_from="office")
    controller.create_network("office", config_only=True, ipam=CONFIG)
    steps = controller.planned(controller.create_network, "web", config_from="office")
    assert any("10.1.0.1/24" in str(step) for step in steps)
    assert [network.name for network in controller.networks()] == ["office"]
    controller.create_network("web", config_from="office").delete()


def test_an_ordinary_network_is_no_configuration(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    controller.create_network("plain")
    with pytest.raises(ConfigurationNotFound, match='configuration network "plain" does not exist'):
        controller.create_network("web", config_from="plain")
    controller.create_network("office", config_only=True)
    controller.ensure_predefined()
    assert controller.network("none").record.driver == "null", "configurations are of its driver, and do not count"
