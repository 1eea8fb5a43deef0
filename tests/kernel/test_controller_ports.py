"""Published ports are the sandbox's: they survive every change of its networks, without a moment in which they are shut."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pynet.netlib.applier import StepFailed
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, InvalidArgument, PortInUse
from pynet.netlib.handles import Endpoint, Sandbox
from pynet.netlib.model import IpamConfig
from pynet.netlib.ports.portspec import parse_publish
from pynet.netlib.proxying import Listening, ServedPort
from pynet.netlib.reaper import put_away
from pynet.plugins.testhost import Lan

from support.netlib import call_in
from support.waiting import PATIENCE


@pytest.fixture(params=["nftables", "iptables"])
def controller(request: pytest.FixtureRequest, start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(request.param)


def serve(controller: Controller, sandbox: Sandbox) -> socket.socket:
    server: socket.socket = call_in(controller, sandbox.path, lambda: socket.create_server(("", 80)))
    return server


def reaches(lan: Lan, server: socket.socket) -> str:
    """The address at which a client of the LAN reached the server through the port."""
    server.settimeout(PATIENCE)
    with lan.connect((lan.host_address, 8080)), server.accept()[0] as accepted:
        return str(accepted.getsockname()[0])


def two_networks(controller: Controller) -> tuple[Sandbox, Endpoint, Endpoint]:
    sandbox = controller.create_sandbox("a")
    first = controller.create_network("first", subnet="10.1.0.0/24").create_endpoint("a")
    second = controller.create_network("second", subnet="10.2.0.0/24").create_endpoint("a", gw_priority=10)
    first.join(sandbox)
    sandbox.publish(parse_publish("8080:80"))
    return sandbox, first, second


def test_a_port_follows_the_default_route_and_waits_where_there_is_none(controller: Controller, lan: Lan) -> None:
    sandbox, first, second = two_networks(controller)
    with serve(controller, sandbox) as server:
        assert reaches(lan, server) == "10.1.0.2"
        second.join(sandbox)
        assert reaches(lan, server) == "10.2.0.2"
        assert (len(first.ports), len(second.ports)) == (0, 1)
        second.leave()
        assert reaches(lan, server) == "10.1.0.2"
        first.leave()
        assert [port.host_port for port in sandbox.ports] == [8080]
        assert controller.check() == []
        with pytest.raises(ConnectionRefusedError):
            lan.connect((lan.host_address, 8080))
        with pytest.raises(OSError):
            socket.create_server(("0.0.0.0", 8080))  # nobody else gets it meanwhile
        second.join(sandbox)
        assert reaches(lan, server) == "10.2.0.2"
    assert controller.check() == []


def test_a_port_that_moves_is_never_shut(controller: Controller, lan: Lan) -> None:
    """Connections are made all the while; before, each move withdrew the port and asked for it again."""
    sandbox, _, second = two_networks(controller)
    done = threading.Event()
    refused: list[str] = []
    made = 0

    def dial() -> None:
        nonlocal made
        while not done.is_set():
            try:
                lan.connect((lan.host_address, 8080), timeout=0.5).close()
                made += 1
            except ConnectionRefusedError as error:
                refused.append(str(error))
            except TimeoutError:
                pass  # it was under way through the endpoint that left

    with serve(controller, sandbox):
        client = threading.Thread(target=dial)
        client.start()
        try:
            rounds, enough = 0, time.monotonic() + 20
            while rounds < 5 or (made <= 5 and time.monotonic() < enough):
                second.join(sandbox)
                second.leave()
                rounds += 1
        finally:
            done.set()
            client.join()
    assert not refused
    assert made > 5


def test_a_network_change_that_fails_leaves_the_port_where_it_was(controller: Controller, lan: Lan) -> None:
    sandbox, _, second = two_networks(controller)
    with serve(controller, sandbox) as server:
        with controller.tools.inside(sandbox.path) as inside:
            inside.rtnl.add_bridge("taken", mac="02:00:00:00:00:01", mtu=1500, group=0, up=False)
        with pytest.raises(StepFailed, match="can not make interface"):
            second.join(sandbox, ifname="taken")  # two interfaces can not have one name
        assert second.record.sandbox == ""
        assert reaches(lan, server) == "10.1.0.2"
        assert controller.check() == []
        second.join(sandbox)
        assert reaches(lan, server) == "10.2.0.2"


def test_a_name_that_an_interface_of_the_sandbox_has_is_refused_before_anything_is_made(controller: Controller) -> None:
    sandbox, first, second = two_networks(controller)
    for name, error in ((first.ifname, Conflict), ("lo", InvalidArgument), ("a/b", InvalidArgument)):
        with pytest.raises(error):
            second.join(sandbox, ifname=name)
        assert (second.record.sandbox, controller.check()) == ("", [])


def test_a_second_sandbox_does_not_get_a_port_that_waits(controller: Controller) -> None:
    _, first, _ = two_networks(controller)
    first.delete()
    other = controller.create_sandbox("b")
    controller.network("first").create_endpoint("b").join(other)
    with pytest.raises(PortInUse):
        other.publish(parse_publish("8080:80"))


@dataclass
class Ledger:
    """A proxy that writes down what it is told."""

    told: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    ports: dict[str, ServedPort] = field(default_factory=dict[str, ServedPort])

    def listen(self, ports: Iterable[ServedPort]) -> None:
        for port in ports:
            self.told.append(("listen", port.id, port.target_ip))
            self.ports[port.id] = port

    def retarget(self, targets: Iterable[tuple[str, str, int]]) -> None:
        for id, ip, port in targets:
            self.told.append(("retarget", id, ip))
            self.ports[id] = replace(self.ports[id], target_ip=ip, target_port=port)

    def withdraw(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.told.append(("withdraw", id))
            self.ports.pop(id, None)

    def fetch(self) -> Sequence[Listening]:
        return ()

    def stats(self) -> dict[str, Any]:
        return {"ports": dict.fromkeys(self.ports)}


def test_the_proxy_is_retargeted_and_never_told_to_withdraw(start_controller: Callable[..., Controller]) -> None:
    proxy = Ledger()
    controller = start_controller(proxy=proxy)
    sandbox, _, second = two_networks(controller)
    proxy.told.clear()
    second.join(sandbox)
    second.leave()
    ids = ["tcp/0.0.0.0/8080", "tcp/::/8080"]
    assert proxy.told == [("retarget", id, ip) for ip in ("10.2.0.2", "10.1.0.2") for id in ids]


def test_an_ipv4_host_port_leads_to_a_container_that_has_only_ipv6(start_controller: Callable[..., Controller]) -> None:
    proxy = Ledger()
    controller = start_controller(proxy=proxy)
    network = controller.create_network("six", ipam=[IpamConfig(subnet="fd00:6::/64")], ipv4=False, ipv6=True)
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    sandbox.publish(parse_publish("127.0.0.1:8080:80"))
    assert proxy.told == [("listen", "tcp/127.0.0.1/8080", "fd00:6::2")]
    assert len(endpoint.ports) == 1


def test_sockets_that_a_proxy_kept_and_nobody_needs_are_closed(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    sandbox = two_networks(controller)[0]

    @dataclass
    class Kept:
        id: str
        sock: socket.socket

    kept = socket.create_server(("127.0.0.1", 0))
    stray, address = kept.dup(), kept.getsockname()
    kept.close()

    class Old(Ledger):
        def fetch(self) -> Sequence[Listening]:
            return [Kept("tcp/127.0.0.1/1", stray)]

    controller = start_controller(proxy=Old())
    assert len(controller.sandbox(sandbox.id).ports) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=PATIENCE)


def test_a_rule_that_can_not_be_finished_leaves_nothing(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule is in the kernel when the flows to it can not be forgotten."""
    sandbox = two_networks(controller)[0]

    def refuse(*_: object, **__: object) -> int:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as context:
        context.setattr(controller.tools.conntrack, "flush_ports", refuse)
        with pytest.raises(StepFailed, match="can not make NAT"):
            sandbox.publish(parse_publish("5353:53/udp"))
    assert [port.host_port for port in sandbox.ports] == [8080]
    assert controller.check() == []


@pytest.mark.parametrize("how", ["leave", "delete", "sandbox"])
def test_an_address_does_not_inherit_the_connections_of_its_last_owner(controller: Controller, how: str) -> None:
    sandbox, first, _ = two_networks(controller)

    def talk() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("10.1.0.1", 7777))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("10.1.0.1", 7777))
        server.settimeout(PATIENCE)
        call_in(controller, sandbox.path, talk)
        assert server.recv(1) == b"x"
    assert [flow.source for flow in controller.tools.conntrack.flows() if flow.destination_port == 7777] == ["10.1.0.2"]
    sandbox.delete() if how == "sandbox" else getattr(first, how)()
    assert not [flow for flow in controller.tools.conntrack.flows() if flow.source == "10.1.0.2"]


def test_a_network_and_an_endpoint_are_made_again_at_once(controller: Controller) -> None:
    """Their links are still there, dying, when the next ones of the same names and addresses are made."""
    for _ in range(3):
        network = controller.create_network("web", subnet="10.1.0.0/24", options={"bridge": "br7"})
        sandbox = controller.create_sandbox("a")
        endpoint = network.create_endpoint("a", ip="10.1.0.7")
        for _ in range(2):
            endpoint.join(sandbox)
            assert endpoint.ifname == "eth0"
            endpoint.leave()
        endpoint.delete()
        network.delete()
        sandbox.delete()
    dying = controller.tools.rtnl.links(group=controller.instance.dying_group)
    assert all(not link.up and link.master == 0 for link in dying)
    controller.tools.reaper.settle()
    assert controller.tools.rtnl.links(group=controller.instance.dying_group) == []
    assert controller.check() == []


def test_what_a_killed_process_put_away_is_found_and_removed(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    network = controller.create_network("web", subnet="10.1.0.0/24")
    link = controller.tools.rtnl.link(network.bridge)
    assert link is not None
    put_away(controller.tools.rtnl, link.index, controller.instance.dying_group)
    assert {str(d) for d in controller.check()} >= {f"stray link pd{link.index}", f"missing link {network.bridge}"}
    controller.repair()
    assert controller.check() == []
    assert controller.tools.rtnl.link(f"pd{link.index}") is None
