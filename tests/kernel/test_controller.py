"""The controller on a real kernel: networks, joins, published ports, failures half-way, crashes, repair."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.applier import Applier, StepFailed
from pynet.netlib.controller import Controller
from pynet.netlib.errors import (
    Conflict,
    Forbidden,
    InvalidArgument,
    NotFound,
    NotSupported,
    PortInUse,
    PynetError,
    RootBusy,
)
from pynet.netlib.handles import Endpoint, Network, Sandbox
from pynet.netlib.kernel.netlink import NetlinkError
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.model import IpamConfig
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host, Lan

from support.leaks import changes
from support.netlib import Watched
from support.waiting import PATIENCE


@pytest.fixture(params=["nftables", "iptables"])
def start(request: pytest.FixtureRequest, start_controller: Callable[..., Controller]) -> Callable[[], Controller]:
    """Starts controllers on one root; a second one is what follows a crash of the first."""
    return functools.partial(start_controller, request.param)


@pytest.fixture
def controller(start: Callable[[], Controller]) -> Controller:
    return start()


def crash(controller: Controller) -> None:
    """What the kernel does at kill -9: descriptors close, nothing is undone."""
    controller.close()


def joined(controller: Controller, network: Network, name: str, **options: Any) -> tuple[Sandbox, Endpoint]:
    sandbox = controller.create_sandbox(name)
    endpoint = network.create_endpoint(name, **options)
    endpoint.join(sandbox)
    return sandbox, endpoint


def call_in(controller: Controller, sandbox: Sandbox, function: Callable[..., Any], *arguments: Any) -> Any:
    fd = controller.tools.netns.open(sandbox.path)
    try:
        return controller.tools.netns.call(fd, function, *arguments)
    finally:
        os.close(fd)


def serve(controller: Controller, sandbox: Sandbox, port: int) -> socket.socket:
    """A listening socket inside a sandbox."""
    return call_in(controller, sandbox, lambda: socket.create_server(("", port)))  # type: ignore[no-any-return]


def dial(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=PATIENCE)


def exchange(client: socket.socket, server: socket.socket) -> tuple[str, int]:
    """Both ways through a fresh connection; the client's address as the server sees it."""
    with client:
        accepted, peer = server.accept()
        with accepted:
            client.sendall(b"ping")
            assert accepted.recv(4) == b"ping"
            accepted.sendall(b"pong")
            assert client.recv(4) == b"pong"
    return peer[0], peer[1]


# -- life ---------------------------------------------------------------------------------------------------------


def test_containers_of_a_network_reach_each_other_the_host_and_the_lan(controller: Controller, lan: Lan) -> None:
    web = controller.create_network("web", subnet="10.1.0.0/24")
    a, first = joined(controller, web, "a")
    b, second = joined(controller, web, "b")
    assert (first.address, second.address) == ("10.1.0.2/24", "10.1.0.3/24")
    with serve(controller, b, 80) as server:
        peer, _ = exchange(call_in(controller, a, dial, "10.1.0.3", 80), server)
        assert peer == "10.1.0.2"
    with lan.listen((lan.address, 7000)) as server:
        peer, _ = exchange(call_in(controller, a, dial, lan.address, 7000), server)
        assert peer == lan.host_address, "masqueraded"


def test_a_published_port_answers_the_lan_the_host_and_its_own_container(controller: Controller, lan: Lan) -> None:
    web = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = joined(controller, web, "a")
    ports = endpoint.publish(parse_publish("8080:80"))
    assert [(p.host_ip, p.host_port, p.container_port) for p in ports] == [("0.0.0.0", 8080, 80)]
    with serve(controller, sandbox, 80) as server:
        assert exchange(lan.connect((lan.host_address, 8080)), server)[0] == lan.address, "the client's address is kept"
        exchange(dial(lan.host_address, 8080), server)
        exchange(dial("127.0.0.1", 8080), server)
        exchange(call_in(controller, sandbox, dial, lan.host_address, 8080), server)
    endpoint.unpublish()
    with pytest.raises(ConnectionRefusedError):
        dial("127.0.0.1", 8080)
    with socket.create_server(("0.0.0.0", 8080)):
        pass  # the port is free again


def test_ipv6_beside_ipv4(controller: Controller) -> None:
    dual = controller.create_network(
        "dual", ipam=[IpamConfig(subnet="10.1.0.0/24"), IpamConfig(subnet="fd00:1::/64")], ipv6=True
    )
    a, _ = joined(controller, dual, "a")
    b, second = joined(controller, dual, "b")
    assert second.address6 == "fd00:1::3/64"
    with call_in(controller, b, lambda: socket.create_server(("::", 80), family=socket.AF_INET6)) as server:
        assert exchange(call_in(controller, a, dial, "fd00:1::3", 80), server)[0] == "fd00:1::2"


@pytest.mark.parametrize("br_netfilter", ["0", "1"])
def test_containers_of_a_network_without_icc_reach_the_host_but_not_each_other(
    controller: Controller, br_netfilter: str
) -> None:
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not switch.exists():
        pytest.skip("br_netfilter is not loaded")
    switch.write_text(br_netfilter)
    apart = controller.create_network("apart", subnet="10.1.0.0/24", options={"icc": "false"})
    a, _ = joined(controller, apart, "a")
    b, endpoint = joined(controller, apart, "b")
    endpoint.publish(parse_publish("8080:80"))
    with serve(controller, b, 80) as server:
        with pytest.raises(OSError):
            call_in(controller, a, lambda: socket.create_connection(("10.1.0.3", 80), timeout=0.5))
        exchange(dial("10.1.0.3", 80), server)
        exchange(call_in(controller, a, dial, "10.1.0.1", 8080), server)


def test_the_default_route_follows_priority_and_survives_leaving(controller: Controller) -> None:
    first = controller.create_network("a", subnet="10.1.0.0/24")
    second = controller.create_network("b", subnet="10.2.0.0/24")
    sandbox, endpoint = joined(controller, first, "x")

    def hop() -> str:
        def read() -> str:
            from pynet.netlib.kernel.rtnetlink import Rtnetlink

            with Rtnetlink() as inside:
                return next((r.gateway for r in inside.routes() if r.destination in ("", "default") and r.gateway), "")

        return str(call_in(controller, sandbox, read))

    assert hop() == "10.1.0.1"
    preferred = second.create_endpoint("x", gw_priority=10)
    preferred.join(sandbox)
    assert (preferred.ifname, hop()) == ("eth1", "10.2.0.1")
    preferred.leave()
    assert hop() == "10.1.0.1"
    preferred.join(sandbox)
    endpoint.leave()
    assert hop() == "10.2.0.1"
    endpoint.join(sandbox)
    assert endpoint.ifname == "eth0", "the lowest free name"


def test_an_address_of_a_static_endpoint_is_kept_while_it_is_not_joined(controller: Controller) -> None:
    web = controller.create_network("web", subnet="10.1.0.0/29")
    sandbox, endpoint = joined(controller, web, "a", ip="10.1.0.4")
    sandbox.delete()
    assert endpoint.record.sandbox == ""
    others = [web.create_endpoint(f"e{i}").address for i in range(4)]
    assert "10.1.0.4/29" not in others
    with pytest.raises(PynetError, match="no available IPv4 addresses on this network's address pools: web"):
        web.create_endpoint("one too many")
    endpoint.join(controller.create_sandbox("b"))
    assert endpoint.address == "10.1.0.4/29"


def test_an_endpoint_joins_again_while_its_last_sandbox_is_still_held(controller: Controller) -> None:
    """An orphaned process keeps the old namespace, and with it the old interface of the same name, alive."""
    web = controller.create_network("web", subnet="10.1.0.0/24")
    old, endpoint = joined(controller, web, "a")
    other, _ = joined(controller, web, "b")
    held = controller.tools.netns.open(old.path)
    old.delete()
    new = controller.create_sandbox("again")
    endpoint.join(new)
    with serve(controller, new, 80) as server:
        exchange(call_in(controller, other, dial, "10.1.0.2", 80), server)
    os.close(held)


def test_predefined_networks(controller: Controller) -> None:
    controller.ensure_predefined()
    controller.ensure_predefined()
    assert [network.name for network in controller.networks()] == ["bridge", "host", "none"]
    with pytest.raises(Forbidden, match='only one instance of "host" network is allowed'):
        controller.create_network("host2", driver="host")
    none = controller.network("none").create_endpoint("x")
    none.join(controller.create_sandbox("x"))
    shared = controller.network("host").create_endpoint("y")
    shared.join(controller.create_sandbox("y", host=True))
    assert (none.address, shared.address, shared.ifname) == ("", "", "")


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": ""}, InvalidArgument, "name is empty"),
        ({"name": "a/b"}, InvalidArgument, "only \\[a-zA-Z0-9\\]"),
        ({"name": "web"}, Conflict, "network with name web already exists"),
        ({"name": "n", "driver": "nosuch"}, NotFound, "could not find plugin nosuch"),
        ({"name": "n", "subnet": "10.1.0.0/16"}, Forbidden, "Pool overlaps"),
        ({"name": "n", "subnet": "10.9.0.1/24"}, InvalidArgument, "it should be 10.9.0.0/24"),
        ({"name": "n", "subnet": "10.9.0.0/33"}, InvalidArgument, "invalid subnet"),
        ({"name": "n", "ipam": [IpamConfig("10.9.0.0/24", gateway="10.8.0.1")]}, InvalidArgument, "gateway"),
        ({"name": "n", "options": {"colour": "red"}}, InvalidArgument, "unknown option colour"),
        ({"name": "n", "options": {"mtu": "12"}}, InvalidArgument, "invalid value '12' for option mtu"),
        ({"name": "n", "options": {"com.docker.network.bridge.name": "a" * 16}}, InvalidArgument, "not an interface"),
        ({"name": "n", "options": {"com.docker.network.bridge.name": "lo"}}, InvalidArgument, "lo is not a bridge"),
        ({"name": "n", "ipv4": False}, InvalidArgument, "IPv4 or IPv6 must be enabled"),
    ],
)
def test_a_network_that_can_not_be_is_refused_and_leaves_nothing(
    controller: Controller, host: Host, arguments: dict[str, Any], error: type[PynetError], text: str
) -> None:
    controller.create_network("web", subnet="10.1.0.0/24")
    before = host.snapshot()
    with pytest.raises(error, match=text):
        controller.create_network(**arguments)
    assert changes(host, before) == []
    assert [network.name for network in controller.networks()] == ["web"]
    assert controller.check() == []


def test_an_endpoint_makes_way_for_one_that_says_so(controller: Controller) -> None:
    web = controller.create_network("web", subnet="10.1.0.0/24")
    idle = web.create_endpoint("idle", ip="10.1.0.9")
    with pytest.raises(Forbidden, match="Address already in use") as refused:
        web.create_endpoint("b", ip="10.1.0.9")
    assert str(refused.value.hint).startswith("idle has it, and keeps it while it is stopped")
    controller.planned(web.create_endpoint, "b", ip="10.1.0.9", over=[idle.id])
    with pytest.raises(InvalidArgument):  # the second address can not be had: the first is given back
        web.create_endpoint("b", ip="10.1.0.9", ip6="fd00::1", over=[idle.id])
    with pytest.raises(Forbidden, match="Address already in use"):
        web.create_endpoint("b", ip="10.1.0.9")
    assert idle.address == "10.1.0.9/24"
    endpoint = web.create_endpoint("b", ip="10.1.0.9", over=[idle.id])
    assert [one.id for one in web.endpoints()] == [endpoint.id]
    endpoint.join(controller.create_sandbox("a"))
    with pytest.raises(Forbidden, match="Address already in use") as refused:
        web.create_endpoint("c", ip="10.1.0.9", over=[endpoint.id])
    assert str(refused.value.hint).startswith("b has it; ")


def test_endpoints_and_joins_that_can_not_be(controller: Controller) -> None:
    web = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = joined(controller, web, "a")
    for options, text in (
        ({"ip": "10.2.0.1"}, "no configured subnet contains IP address 10.2.0.1"),
        ({"ip": "10.1.0.2"}, "Address already in use"),
        ({"ip": "10.1.0.1"}, "Address already in use"),
        ({"ip": "x"}, "invalid IP address"),
        ({"mac": "01:00:5e:00:00:01"}, "multicast"),
        ({"mac": "zz"}, "invalid MAC"),
    ):
        with pytest.raises(PynetError, match=text):
            web.create_endpoint("b", **options)  # type: ignore[arg-type]
    with pytest.raises(Forbidden, match="endpoint with name a already exists in network web"):
        web.create_endpoint("a")
    with pytest.raises(Forbidden, match="another container is attached to the same network endpoint"):
        endpoint.join(sandbox)
    with pytest.raises(Forbidden, match="already connected"):
        web.create_endpoint("b", ip="10.1.0.9").join(sandbox)
    with pytest.raises(Forbidden, match=r'network web has active endpoints \(name:"a" id:"'):
        web.delete()
    for last in range(4, 9):
        web.create_endpoint(f"c{last}", ip=f"10.1.0.{last}")  # refused requests kept no address


def test_a_port_in_use_is_an_error_that_names_the_holder_and_leaves_nothing(controller: Controller, host: Host) -> None:
    web = controller.create_network("web", subnet="10.1.0.0/24")
    _, a = joined(controller, web, "a")
    _, b = joined(controller, web, "b")
    a.publish(parse_publish("8080:80"))
    before = host.snapshot()
    with pytest.raises(PortInUse, match=r"Bind for 0.0.0.0:8080 failed: port is already allocated"):
        b.publish([*parse_publish("8090:80"), *parse_publish("8080:80")])
    with socket.create_server(("127.0.0.1", 8081)), pytest.raises(PortInUse, match="address already in use"):
        b.publish([*parse_publish("8090:80"), *parse_publish("8081:80")])
    with pytest.raises(PynetError, match=r"192.0.2.77:80/tcp: cannot assign requested address"):
        b.publish(parse_publish("192.0.2.77:80:80"))
    assert changes(host, before) == []
    assert b.ports == ()
    with socket.create_server(("127.0.0.1", 9001)):
        assert [p.host_port for p in b.publish(parse_publish("9001-9002:80"))] == [9002], "the next of the range"


def test_an_sctp_port_is_published_where_the_kernel_has_sctp(controller: Controller) -> None:
    _, endpoint = joined(controller, controller.create_network("web", subnet="10.1.0.0/24"), "a")
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        with pytest.raises(NotSupported, match="can not publish sctp ports: this kernel has no SCTP"):
            endpoint.publish([*parse_publish("8080:80"), *parse_publish("9000:9000/sctp")])
        assert endpoint.ports == ()
        assert controller.check() == []
        with socket.create_server(("0.0.0.0", 8080)):
            pass  # what came before it in the same call is free again
        return
    endpoint.publish(parse_publish("9000:9000/sctp"))
    with pytest.raises(PortInUse):
        endpoint.publish(parse_publish("9000:9001/sctp"))
    endpoint.publish(parse_publish("9000:80/tcp"))
    assert {(p.proto, p.host_port) for p in endpoint.ports} == {("sctp", 9000), ("tcp", 9000)}


# -- failures and crashes ---------------------------------------------------------------------------------------------


class FailingApplier(Watched):
    """Fails at the n-th resource that it is to make."""

    def __init__(self, inner: Applier, failing_at: int) -> None:
        super().__init__(inner, self._count)
        self.left = failing_at

    def _count(self, verb: str, resource: Resource) -> None:
        if verb == "make":
            self.left -= 1
            if self.left == -1:
                raise NetlinkError(5, f"make {resource.key}")


STEPS = 13


@pytest.mark.parametrize("failing_at", range(STEPS + 1))
def test_a_change_that_fails_half_way_leaves_nothing(controller: Controller, host: Host, failing_at: int) -> None:
    """Every step of every plan of a life is made to fail in turn."""
    working = controller.core.applier
    sandbox, endpoint = joined(
        controller, controller.create_network("first"), "first"
    )  # what starts once (a thread, a socket) has
    sandbox.delete()
    endpoint.delete()
    controller.network("first").delete()
    controller.tools.reaper.settle()
    controller.tools.conntrack.count()
    controller.tools.firewall.destroy()
    clean = host.snapshot()

    def life() -> None:
        web = controller.create_network(
            "web", ipam=[IpamConfig(subnet="10.1.0.0/24"), IpamConfig(subnet="fd00:1::/64")], ipv6=True
        )
        sandbox = controller.create_sandbox("a")
        endpoint = web.create_endpoint("a")
        endpoint.join(sandbox)
        endpoint.publish([*parse_publish("8080:80"), *parse_publish("5353:53/udp")])

    controller.core.applier = FailingApplier(working, failing_at)
    if failing_at < STEPS:
        with pytest.raises(StepFailed, match=r"can not make .*: make .*Input/output error") as caught:
            life()
        assert isinstance(caught.value.__cause__, NetlinkError)
    else:
        life()
        assert controller.core.applier.left == 0, "STEPS is the number of resources in this life"
    controller.core.applier = working
    assert controller.check() == [], "store and kernel agree after a failure"
    for sandbox in controller.sandboxes():
        sandbox.delete()
    for network in controller.networks():
        for endpoint in network.endpoints():
            endpoint.delete()
        network.delete()
    controller.tools.reaper.settle()  # links on their way out go behind the answer
    controller.tools.firewall.destroy()
    left = clean.difference(host.settled(clean))
    assert not left, left
    life()
    assert controller.check() == []


def test_repair_brings_back_what_others_removed_and_removes_strays(start: Callable[[], Controller], host: Host) -> None:
    controller = start()
    web = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = joined(controller, web, "a")
    endpoint.publish(parse_publish("8080:80"))
    controller.tools.firewall.destroy()
    controller.tools.rtnl.delete_link(web.bridge)
    group = controller.instance.link_group
    controller.tools.rtnl.add_bridge("pbstray", group=group)
    (controller.instance.netns_dir / "stray").touch()
    found = {str(difference) for difference in controller.check()}
    assert f"missing link {web.bridge}" in found
    assert f"missing rule {web.bridge}" in found
    assert "missing rule :8080/tcp" in found
    assert "stray link pbstray" in found
    assert f"stray netns {controller.instance.netns_dir / 'stray'}" in found
    assert {str(difference) for difference in controller.repair()} == found
    assert controller.check() == []
    with serve(controller, sandbox, 80) as server:
        exchange(dial("127.0.0.1", 8080), server)


def test_a_crashed_controller_is_followed_by_one_that_knows_everything(start: Callable[[], Controller]) -> None:
    controller = start()
    web = controller.create_network("web", subnet="10.1.0.0/24", labels={"a": "b"})
    _sandbox, endpoint = joined(controller, web, "a")
    endpoint.publish(parse_publish("8080:80"))
    with pytest.raises(RootBusy, match="in use by another process"):
        Controller(controller.instance.root, controller.instance.run)
    crash(controller)
    again = start()
    assert again.network("web").record == web.record
    assert again.check() == []
    assert again.repair() == []
    adopted = again.network("web").endpoints()[0]
    assert adopted.record == endpoint.record
    assert again.network("web").create_endpoint("b").address == "10.1.0.3/24"
    with pytest.raises(PortInUse, match="already allocated"):
        adopted.publish(parse_publish("8080:81"))


def test_a_lost_namespace_is_made_again(start: Callable[[], Controller]) -> None:
    """As after a reboot: the store knows all of it, the kernel nothing."""
    controller = start()
    web = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = joined(controller, web, "a")
    endpoint.publish(parse_publish("8080:80"))
    controller.tools.netns.delete(sandbox.path)
    controller.tools.rtnl.delete_link(web.bridge)
    controller.repair()
    assert controller.check() == []
    with serve(controller, sandbox, 80) as server:
        exchange(dial("127.0.0.1", 8080), server)


def test_a_freed_address_rests_across_a_restart(start: Callable[[], Controller]) -> None:
    """Neighbours may remember whom it led to."""
    controller = start()
    web = controller.create_network(
        "web", ipam=[IpamConfig(subnet="10.1.0.0/24"), IpamConfig(subnet="fd00:1::/64")], ipv6=True
    )
    web.create_endpoint("a").delete()
    web.create_endpoint("static", ip="10.1.0.77")
    crash(controller)
    again = start().network("web").create_endpoint("b")
    assert (again.address, again.address6) == ("10.1.0.3/24", "fd00:1::4/64")
