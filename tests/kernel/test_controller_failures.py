"""What fails on the way out, a proxy that is away, ports that were lost, and what a controller leaves that can not start."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pynet.engine.container.attachment import ContainerNetworks
from pynet.engine.container.endpoints import endpoint_settings
from pynet.engine.container.record import Container
from pynet.netlib.applier import Applier, StepFailed
from pynet.netlib.controller import Controller
from pynet.netlib.errors import MultipleErrors, PortInUse, PynetError, Unavailable
from pynet.netlib.handles import Endpoint
from pynet.netlib.kinds.bridge import Bridge
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.kinds.route import Route
from pynet.netlib.kinds.rules import NetworkFirewall, PortForwards
from pynet.netlib.kinds.veth import Veth
from pynet.netlib.ports.portspec import parse_publish
from pynet.netlib.ports.told import Stats
from pynet.netlib.proxying import Listening, ServedPort
from pynet.netlib.store.sqlite import StoreLost
from pynet.plugins.testhost import Host
from pynet.proxy.dataplane.counters import Counters

from support.netlib import Watched, default_gateways


@dataclass
class KeptInHand:
    """A proxy that serves nobody, and can be away."""

    away: bool = False
    ports: dict[str, ServedPort] = field(default_factory=dict)

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("the forwarder is away")

    def listen(self, ports: Iterable[ServedPort]) -> None:
        self._reach()
        self.ports.update({port.id: port for port in ports})

    def retarget(self, targets: Iterable[tuple[str, str, int]]) -> None:
        self._reach()
        for id, ip, port in targets:
            self.ports[id] = replace(self.ports[id], target_ip=ip, target_port=port)

    def withdraw(self, ids: Iterable[str]) -> None:
        self._reach()
        for id in ids:
            self.ports.pop(id, None)

    def fetch(self) -> Sequence[Listening]:
        self._reach()
        return ()

    def stats(self) -> Stats:
        self._reach()
        counted = Counters().told("tcp")
        return {"pid": 1, "processes": [1], "workers": [], "ports": dict.fromkeys(self.ports, counted)}


@pytest.fixture
def proxy() -> KeptInHand:
    return KeptInHand()


@pytest.fixture
def controller(start_controller: Callable[..., Controller], proxy: KeptInHand) -> Controller:
    return start_controller(proxy=proxy)


@pytest.fixture
def endpoint(controller: Controller) -> Endpoint:
    endpoint = controller.create_network("web", subnet="10.1.0.0/24").create_endpoint("a")
    endpoint.join(controller.create_sandbox("a"))
    return endpoint


class Refusing(Watched):
    """The kernel refuses to make or unmake these."""

    def __init__(self, inner: Applier, *kinds: type) -> None:
        super().__init__(inner, self._refuse)
        self._kinds = kinds

    def _refuse(self, verb: str, resource: Resource) -> None:
        if isinstance(resource, self._kinds):
            raise OSError(16, "Device or resource busy")


def test_publishing_while_the_proxy_is_away_fails_and_leaves_nothing(
    controller: Controller, proxy: KeptInHand, endpoint: Endpoint
) -> None:
    proxy.away = True
    with pytest.raises(Unavailable):
        endpoint.publish(parse_publish("8080:80"))
    proxy.away = False
    assert endpoint.ports == ()
    assert controller.check() == []
    with socket.create_server(("0.0.0.0", 8080)):
        pass


@pytest.mark.parametrize("how", ["unpublish", "leave", "delete", "sandbox"])
def test_what_ends_while_the_proxy_is_away_ends_all_the_same(
    controller: Controller, proxy: KeptInHand, endpoint: Endpoint, how: str
) -> None:
    endpoint.publish(parse_publish("8080:80"))
    proxy.away = True
    with pytest.raises(Unavailable):
        controller.sandbox("a").delete() if how == "sandbox" else getattr(endpoint, how)()
    proxy.away = False
    assert (how == "delete") == (endpoint.id not in controller.registry.endpoints)
    kept = {"tcp/0.0.0.0/8080", "tcp/::/8080"} if how in ("leave", "delete") else set[str]()
    assert controller.tools.ports.ids == kept, "the sandbox has them, and they wait for another network"
    assert {str(difference) for difference in controller.check()} == {
        "stray port tcp/0.0.0.0/8080",
        "stray port tcp/::/8080",
    }
    controller.repair()
    assert proxy.ports == {}
    assert controller.check() == []


def test_a_container_that_ends_while_the_proxy_is_away_gives_its_addresses_back(
    controller: Controller, proxy: KeptInHand
) -> None:
    controller.create_network("web", subnet="10.1.0.0/30")  # one address beside the gateway's
    networks = ContainerNetworks(controller)
    first, second = (container(name, network="web") for name in ("first", "second"))
    networks.attach(first, list(parse_publish("8080:80")))
    proxy.away = True
    with pytest.raises(Unavailable):
        networks.detach(first)
    networks.attach(second, [])
    proxy.away = False
    networks.detach(second)
    controller.repair()
    assert controller.check() == []
    assert controller.registry.endpoints == {}


def test_an_endpoint_that_an_end_could_not_delete_is_in_no_starts_way(controller: Controller) -> None:
    """The store is away between the sandbox's removal and the endpoint's."""
    controller.create_network("web", subnet="10.1.0.0/24")
    networks, box = ContainerNetworks(controller), container("box", network="web")
    networks.attach(box, [])
    controller.sandbox(box.id).delete()
    path, away = controller.instance.root / "pynet.db", controller.instance.root / "away"
    path.rename(away)
    with pytest.raises(StoreLost):
        networks.rest(box)
    away.rename(path)
    networks.attach(box, [])
    networks.detach(box)
    assert controller.registry.endpoints == {}


def container(name: str, *, network: str) -> Container:
    return Container(
        id=name,
        name=name,
        created=0.0,
        image_id="",
        config={"Hostname": name},
        host_config={"NetworkMode": network},
        rootfs={},
        mounts=[],
        networks={network: {"settings": endpoint_settings(None)}},
    )


def test_a_leave_whose_undo_fails_still_moves_the_default_route(controller: Controller, endpoint: Endpoint) -> None:
    sandbox = controller.sandbox("a")
    second = controller.create_network("other", subnet="10.2.0.0/24").create_endpoint("a", gw_priority=1)
    second.join(sandbox)
    controller.core.applier, working = Refusing(controller.core.applier, Veth), controller.core.applier
    with pytest.raises(StepFailed, match=r"can not remove interface eth1 in .*: .*busy") as caught:
        second.leave()
    controller.core.applier = working
    assert "pynet repair" in caught.value.hint
    assert default_gateways(controller, sandbox.path) == {"10.1.0.1"}
    assert [str(d) for d in controller.check()] == [f"stray link pv{second.id[:12]}"]
    controller.repair()
    assert controller.check() == []


def test_a_delete_whose_undo_fails_gives_the_addresses_back(controller: Controller, endpoint: Endpoint) -> None:
    endpoint.publish(parse_publish("8080:80"))
    controller.core.applier, working = Refusing(controller.core.applier, Veth, PortForwards), controller.core.applier
    with pytest.raises(MultipleErrors, match=r"endpoint a: .*NAT of the published ports.*; .*interface eth0") as caught:
        endpoint.delete()
    controller.core.applier = working
    assert len(caught.value.errors) == 2
    assert "pynet repair" in caught.value.hint
    again = controller.network("web").create_endpoint("b", ip="10.1.0.2")
    controller.repair()
    assert again.address == "10.1.0.2/24"


def test_a_network_whose_undo_fails_is_gone_and_repair_removes_the_rest(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    bridge = network.bridge
    controller.core.applier, working = (
        Refusing(controller.core.applier, Bridge, NetworkFirewall),
        controller.core.applier,
    )
    with pytest.raises(MultipleErrors, match=rf"can not remove firewall rules of {bridge}.*; can not remove bridge"):
        network.delete()
    controller.core.applier = working
    assert controller.networks() == []
    assert {str(d) for d in controller.check()} == {f"stray link {bridge}", f"stray rule {bridge}"}
    controller.repair()
    assert controller.check() == []
    controller.create_network("web", subnet="10.1.0.0/24")


def test_a_join_whose_undo_fails_tells_both(controller: Controller, endpoint: Endpoint) -> None:
    second = controller.create_network("other", subnet="10.2.0.0/24").create_endpoint("a", gw_priority=1)
    working = controller.core.applier

    def refuse(verb: str, resource: Resource) -> None:
        if isinstance(resource, Route) or (isinstance(resource, Veth) and verb == "remove"):
            raise OSError(16, "Device or resource busy")

    controller.core.applier = Watched(working, refuse)
    with pytest.raises(StepFailed, match="can not make default route") as caught:
        second.join(controller.sandbox("a"))
    controller.core.applier = working
    assert any("while undoing: can not remove interface eth1" in note for note in caught.value.__notes__)
    assert second.record.sandbox == ""
    assert default_gateways(controller, controller.sandbox("a").path) == {"10.1.0.1"}
    assert [str(d) for d in controller.check()] == [f"stray link pv{second.id[:12]}"]
    controller.repair()
    assert controller.check() == []


def test_a_port_that_was_taken_meanwhile_is_told_and_comes_back_when_it_is_free(tmp_path: Path, host: Host) -> None:
    def start() -> Controller:
        return Controller(tmp_path / "root", tmp_path / "run", firewall="nftables")

    with start() as controller:
        endpoint = controller.create_network("web", subnet="10.1.0.0/24").create_endpoint("a")
        endpoint.join(controller.create_sandbox("a"))
        endpoint.publish(parse_publish("8080:80"))
    thief = socket.create_server(("0.0.0.0", 8080))
    with start() as controller:
        assert [str(d) for d in controller.check()] == ["missing port tcp/0.0.0.0/8080"]
        with pytest.raises(PortInUse):
            controller.repair()
        thief.close()
        assert [str(d) for d in controller.repair()] == ["missing port tcp/0.0.0.0/8080"]
        assert controller.lost_ports == []
        assert controller.check() == []
        with pytest.raises(OSError):
            socket.create_server(("0.0.0.0", 8080))
        controller.sandbox("a").delete()
        endpoint = controller.network("web").endpoints()[0]
        endpoint.delete()
        controller.network("web").delete()
        controller.tools.firewall.destroy()


def test_a_port_in_use_names_the_endpoint_that_holds_it(controller: Controller, endpoint: Endpoint) -> None:
    endpoint.publish(parse_publish("8080:80"))
    with pytest.raises(PortInUse) as caught:
        endpoint.publish(parse_publish("8080:81"))
    assert caught.value.hint.startswith("endpoint a of network web holds it; ")


def test_a_controller_that_can_not_start_leaves_no_thread_and_no_descriptor(
    tmp_path: Path, host: Host, controller: Controller, proxy: KeptInHand, endpoint: Endpoint
) -> None:
    root = tmp_path / "second"
    with Controller(root, tmp_path / "run2", firewall="nftables", proxy=proxy) as other:
        a = other.create_network("n", subnet="10.9.0.0/24").create_endpoint("a")
        a.join(other.create_sandbox("x"))
        a.publish(parse_publish("9000:80"))
    proxy.away = True
    before, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for _ in range(3):
        with pytest.raises(Unavailable):
            Controller(root, tmp_path / "run2", firewall="nftables", proxy=proxy)
    proxy.away = False
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == (before, threads)
    with Controller(root, tmp_path / "run2", firewall="nftables", proxy=proxy) as other:
        other.sandbox("x").delete()
        for each in other.network("n").endpoints():
            each.delete()
        other.network("n").delete()
        other.tools.firewall.destroy()


def test_directories_that_can_not_be_made_are_an_error_of_the_tree(tmp_path: Path, host: Host) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PynetError, match=r"can not make directory .*file/root: .*Not a directory"):
        Controller(tmp_path / "file" / "root", tmp_path / "run")
