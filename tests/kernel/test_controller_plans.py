"""Every verb can be shown in place of being done: the steps, and nothing written, made or leased; failures during an undo."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pynet.ipam.driver import Lease, Wanted, load_ipam
from pynet.ipam.request import PoolRequest
from pynet.netlib import addressing
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, InternalError, PortInUse
from pynet.netlib.handles import Endpoint, Network, Sandbox
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.model import IpamConfig
from pynet.netlib.ports.portspec import parse_publish
from pynet.netlib.store.protocol import Delete, Put
from pynet.netlib.store.sqlite import StoreFailed
from pynet.plugins.testhost import Host

from support.leaks import lost_leases
from support.netlib import Watched


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


@pytest.fixture
def world(controller: Controller) -> tuple[Network, Sandbox, Endpoint]:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    sandbox.publish(parse_publish("8080:80"))
    return network, sandbox, endpoint


VERBS: dict[str, tuple[Callable[[Controller], Sequence[Any]], list[str]]] = {
    "create_network": (
        lambda c: [c.create_network, "db"],
        ["make sysctl", "make bridge", "make sysctl", "make sysctl", "make firewall rules"],
    ),
    "create_sandbox": (lambda c: [c.create_sandbox, "b"], ["make network namespace"]),
    "create_endpoint": (lambda c: [c.network("web").create_endpoint, "b"], []),
    "join": (
        lambda c: [c.network("other").endpoints()[0].join, c.sandbox("a")],
        ["make tracked flows", "make interface eth1", "alter default route", "alter NAT"],
    ),
    "leave": (
        lambda c: [c.network("web").endpoints()[0].leave],
        ["unmake NAT", "unmake listening", "unmake interface eth0", "unmake tracked flows"],
    ),
    "delete endpoint": (
        lambda c: [c.network("web").endpoints()[0].delete],
        ["unmake NAT", "unmake listening", "unmake interface eth0", "unmake tracked flows"],
    ),
    "publish": (lambda c: [c.sandbox("a").publish, parse_publish("9090:90")], ["alter listening", "alter NAT"]),
    "unpublish": (lambda c: [c.sandbox("a").unpublish], ["unmake NAT", "unmake listening"]),
    "delete sandbox": (
        lambda c: [c.sandbox("a").delete],
        ["unmake NAT", "unmake listening", "unmake tracked flows", "unmake network namespace"],
    ),
    "delete network": (
        lambda c: [c.network("empty").delete],
        ["unmake firewall rules", "unmake sysctl", "unmake sysctl", "unmake bridge", "unmake sysctl"],
    ),
}


def standing(host: Host) -> list[tuple[str, ...]]:
    """What verbs make (addresses and routes aside, which the kernel adds by itself a little later)."""
    sections = host.snapshot().sections
    return [sections[name] for name in ("links", "nftables", "mounts", "processes", "fds")]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("world")
def test_a_verb_is_shown_and_nothing_is_done(controller: Controller, host: Host, verb: str) -> None:
    controller.create_network("other", subnet="10.2.0.0/24").create_endpoint("a", gw_priority=5)
    controller.create_network("empty", subnet="10.3.0.0/24")
    kept = [
        controller.registry.networks.copy(),
        controller.registry.endpoints.copy(),
        controller.registry.sandboxes.copy(),
    ]
    before = standing(host)
    asked, expected = VERBS[verb]
    steps = [str(step) for step in controller.planned(*asked(controller))]
    assert [line for line, start in zip(steps, expected, strict=True) if not line.startswith(start)] == [], steps
    assert standing(host) == before
    assert kept == [controller.registry.networks, controller.registry.endpoints, controller.registry.sandboxes]
    assert lost_leases(controller) == []
    assert controller.check() == []


@pytest.mark.usefixtures("world")
def test_what_was_shown_is_what_is_done_and_errors_are_those_of_the_verb(controller: Controller) -> None:
    network = controller.network("web")
    controller.planned(network.create_endpoint, "b")
    assert network.create_endpoint("b").address == "10.1.0.3/24", "the choice goes on as if nothing had been shown"
    with pytest.raises(Conflict, match="network with name web already exists"):
        controller.planned(controller.create_network, "web")
    with pytest.raises(PortInUse):
        controller.planned(controller.sandbox("a").publish, parse_publish("8080:81"))


# -- the store fails during the undo -----------------------------------------------------------------------------------


def failing_later(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next commit works, and none after it."""
    commit, left = controller.store.commit, [1]

    def failing(puts: Sequence[Put], deletes: Sequence[Delete]) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise StoreFailed(controller.store.path, sqlite3.OperationalError("database or disk is full"))
        return commit(puts, deletes)

    monkeypatch.setattr(controller.store, "commit", failing)


def test_leases_are_given_back_when_the_store_fails_during_an_undo(
    controller: Controller, world: tuple[Network, Sandbox, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sandbox, _ = world

    def refuse(verb: str, resource: Resource) -> None:
        if verb == "make":
            raise OSError(5, "made to fail")

    working = controller.core.applier
    with monkeypatch.context() as context:
        failing_later(controller, context)
        controller.core.applier = Watched(working, refuse)
        with pytest.raises(InternalError) as caught:
            sandbox.publish(parse_publish("9090:90"))
    controller.core.applier = working
    assert any("disk is full" in note for note in caught.value.__notes__)
    assert {port.host_port for port in sandbox.ports} == {8080, 9090}, "the store says so, and repair follows it"
    assert "tcp/0.0.0.0/9090" not in controller.tools.ports.ids, "its socket is closed all the same"
    controller.repair()
    sandbox.unpublish()


def test_an_undo_unmakes_what_was_made_and_nothing_else(
    controller: Controller, world: tuple[Network, Sandbox, Endpoint]
) -> None:
    """The step that failed made nothing; what stands in its way is somebody else's."""
    network, sandbox, _ = world
    second = controller.create_network("other", subnet="10.2.0.0/24").create_endpoint("a")
    blocker = controller.tools.rtnl.add_bridge(f"pv{second.id[:12]}")
    with pytest.raises(InternalError, match="can not make interface"):
        second.join(sandbox)
    link = controller.tools.rtnl.link(f"pv{second.id[:12]}")
    assert link is not None
    assert (link.index, link.kind) == (blocker, "bridge")
    controller.tools.rtnl.delete_link(blocker)
    assert network.record.name == "web"


# -- IPAM by somebody else ---------------------------------------------------------------------------------------------


class Counting:
    """An IPAM driver as a DHCP client or a remote one would be: it gives what it likes, and wants its data back."""

    name = "counting"
    released: list[Lease] = []

    def open(
        self, network: str, requests: Sequence[PoolRequest], avoid: object, options: Mapping[str, str]
    ) -> tuple[PoolRequest, ...]:
        assert options == {"site": "attic"}
        return (PoolRequest(4, "10.77.0.0/24", None, "10.77.0.1"),)

    def restore(self, network: str, pools: object, leases: Any, last: object, options: Mapping[str, str]) -> None:
        assert options == {"site": "attic"}
        self.restored = list(leases)

    def close(self, network: str) -> None: ...

    def lease(self, network: str, wanted: Wanted) -> Lease:
        return Lease("10.77.0.42/24", data={"server": "10.77.0.1", "owner": wanted.owner})

    def release(self, network: str, lease: Lease, last: object = ()) -> None:
        self.released.append(lease)


def test_an_ipam_driver_of_another_package_gives_and_gets_back_its_leases(
    start_controller: Callable[..., Controller], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Counting:
        return {"counting": Counting}[name]()

    monkeypatch.setattr(addressing, "load_ipam", load)
    controller = start_controller()
    network = controller.create_network("web", ipam_driver="counting", ipam_options={"site": "attic"})
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    assert (endpoint.address, endpoint.gateway) == ("10.77.0.42/24", "10.77.0.1")
    assert network.record.ipam == (IpamConfig("10.77.0.0/24", gateway="10.77.0.1"),)
    with monkeypatch.context() as context:
        context.setattr(addressing, "load_ipam", load_ipam)
        assert start_controller().check() == [], "a controller starts beside an IPAM driver that is away"
    controller = start_controller()
    assert controller.check() == []
    again = controller.endpoint(endpoint.id)
    again.delete()
    controller.sandbox("a").delete()
    controller.network("web").delete()
    assert Counting.released == [Lease("10.77.0.42/24", data={"server": "10.77.0.1", "owner": endpoint.id})]
