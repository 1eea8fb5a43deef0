"""Rate limits of endpoints, by real TCP: what passed in a time is bounded by what the bucket held and what flowed in.  And what
endpoints and published ports count."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.firewall.nftables import render
from pynet.netlib.handles import Endpoint, Network, Sandbox
from pynet.netlib.instance import veth_name
from pynet.netlib.kernel.libnftables import Nft
from pynet.netlib.kernel.traffic import HANDLE, Bucket, LinkCounters
from pynet.netlib.kinds.shaper import Shaper
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Lan

from support.netlib import call_in
from support.waiting import PATIENCE

FLOOD = bytes(4 << 20)
"""What is sent; without a limit, a veth takes it in some milliseconds."""
WINDOW = 0.5
"""Seconds that the receiver reads."""
SLOW, BURST = 125_000, 32 << 10
"""1 mbit in bytes a second, and the bucket that it has by itself."""


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


def joined(controller: Controller, **options: str) -> tuple[Network, Sandbox, Endpoint]:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a", options=options)
    endpoint.join(sandbox)
    return network, sandbox, endpoint


def passed(controller: Controller, sandbox: Sandbox, *, inward: bool) -> tuple[int, float]:
    """Bytes that came through in a window, and its length in seconds; all of FLOOD ends it early."""
    server = call_in(controller, sandbox.path, socket.create_server, ("", 0))
    with server, socket.create_connection(("10.1.0.2", server.getsockname()[1]), timeout=PATIENCE) as client:
        accepted, _ = server.accept()
        with accepted:
            sender, receiver = (client, accepted) if inward else (accepted, client)
            began = time.monotonic()
            flood = threading.Thread(target=_send, args=(sender,))
            flood.start()
            try:
                got = 0
                receiver.settimeout(WINDOW)
                while got < len(FLOOD) and time.monotonic() - began < WINDOW:
                    try:
                        got += len(receiver.recv(1 << 16))
                    except TimeoutError:
                        break
                return got, time.monotonic() - began
            finally:
                sender.shutdown(socket.SHUT_RDWR)
                flood.join()


def _send(sock: socket.socket) -> None:
    try:
        sock.sendall(FLOOD)
    except OSError:
        pass  # the window has closed


def assert_limited(controller: Controller, sandbox: Sandbox, *, inward: bool) -> None:
    got, seconds = passed(controller, sandbox, inward=inward)
    assert 0 < got <= BURST + SLOW * seconds, f"{got} bytes in {seconds:.2f} s"


def assert_free(controller: Controller, sandbox: Sandbox, *, inward: bool) -> None:
    got, seconds = passed(controller, sandbox, inward=inward)
    assert got > BURST + SLOW * seconds, f"{got} bytes in {seconds:.2f} s"


@pytest.mark.parametrize("direction", ["in", "out"])
def test_one_direction_is_limited_and_the_other_is_not(controller: Controller, direction: str) -> None:
    _, sandbox, _ = joined(controller, **{f"rate_{direction}": "1mbit"})
    assert_limited(controller, sandbox, inward=direction == "in")
    assert_free(controller, sandbox, inward=direction != "in")
    assert controller.check() == []


def test_a_limit_is_changed_and_ended_while_a_container_runs(controller: Controller) -> None:
    _, sandbox, endpoint = joined(controller)
    assert_free(controller, sandbox, inward=False)
    endpoint.limit(rate_out="1mbit")
    assert_limited(controller, sandbox, inward=False)
    assert endpoint.limits.rate_out == SLOW
    endpoint.limit(rate_out="800mbit")
    assert_free(controller, sandbox, inward=False)
    assert controller.check() == []
    endpoint.limit(rate_out="0")
    assert not [resource for resource in endpoint.plan() if isinstance(resource, Shaper)]
    with controller.tools.inside(sandbox.path) as inside:
        assert {queue.kind for queue in inside.rtnl.queues().values()} & {"tbf"} == set()


def test_a_network_limits_each_of_its_endpoints_unless_they_say_otherwise(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24", options={"rate_in": "1mbit"})
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    assert_limited(controller, sandbox, inward=True)
    endpoint.limit(rate_in="0")
    assert_free(controller, sandbox, inward=True)
    endpoint.limit(rate_in="")
    assert endpoint.limits.rate_in == SLOW
    assert_limited(controller, sandbox, inward=True)


def test_a_limit_is_shown_before_it_is_made_and_known_after_a_restart(
    start_controller: Callable[..., Controller],
) -> None:
    controller = start_controller()
    _, sandbox, endpoint = joined(controller, rate_in="1mbit")
    steps = controller.planned(endpoint.limit, rate_in="2mbit")
    assert [str(step) for step in steps] == [
        f"alter rate limit of {veth_name(endpoint.id)}: 2000kbit, burst 32768 bytes"
    ]
    controller = start_controller()
    assert controller.check() == []
    assert controller.endpoint(endpoint.id).limits.rate_in == SLOW
    assert_limited(controller, controller.sandbox(sandbox.id), inward=True)


def test_a_limit_that_somebody_took_away_or_changed_is_seen_and_mended(controller: Controller) -> None:
    _, sandbox, endpoint = joined(controller, rate_in="1mbit", rate_out="1mbit")
    host = controller.tools.rtnl.index(veth_name(endpoint.id))
    controller.tools.rtnl.delete_bucket(host)
    with controller.tools.inside(sandbox.path) as inside:
        inside.rtnl.set_bucket(inside.rtnl.index("eth0"), Bucket(10**9, 10**6, 10**7))
    names = [f"missing qdisc {veth_name(endpoint.id)}", f"missing qdisc eth0 in {sandbox.path}"]
    assert sorted(map(str, controller.check())) == sorted(names)
    assert sorted(map(str, controller.repair())) == sorted(names)
    assert controller.check() == []
    assert_limited(controller, sandbox, inward=True)
    assert_limited(controller, sandbox, inward=False)


def test_a_limit_that_nobody_asked_for_is_a_stray(controller: Controller) -> None:
    _, sandbox, endpoint = joined(controller)
    bucket = Bucket(SLOW, BURST, BURST * 2)
    controller.tools.rtnl.set_bucket(controller.tools.rtnl.index(veth_name(endpoint.id)), bucket)
    with controller.tools.inside(sandbox.path) as inside:
        inside.rtnl.set_bucket(inside.rtnl.index("eth0"), bucket)
        names = sorted([f"stray qdisc {veth_name(endpoint.id)}", f"stray qdisc eth0 in {sandbox.path}"])
        assert sorted(map(str, controller.check())) == names
        controller.repair()
        assert controller.check() == []
        assert HANDLE not in {queue.handle for queue in inside.rtnl.queues().values()}


def test_what_is_refused_leaves_nothing(controller: Controller) -> None:
    with pytest.raises(InvalidArgument, match="rate_in"):
        controller.create_network("bad", subnet="10.9.0.0/24", options={"rate_in": "quick"})
    network, _, endpoint = joined(controller, rate_in="1mbit")
    with pytest.raises(InvalidArgument, match="rate_out"):
        network.create_endpoint("b", options={"rate_out": "quick"})
    with pytest.raises(InvalidArgument, match="unknown option speed"):
        network.create_endpoint("b", options={"speed": "1mbit"})
    for options in ({"rate_out": "quick"}, {"burst": "9"}, {"speed": ""}):
        with pytest.raises(InvalidArgument):
            endpoint.limit(**options)
    assert endpoint.limits.rate_in == SLOW
    assert [n.name for n in controller.networks()] == ["web"]
    assert [e.name for e in network.endpoints()] == ["a"]
    assert controller.check() == []


def test_limits_end_with_their_interface(controller: Controller) -> None:
    _, sandbox, endpoint = joined(controller, rate_in="1mbit", rate_out="1mbit")
    endpoint.leave()
    assert controller.check() == []
    endpoint.join(sandbox)
    assert_limited(controller, sandbox, inward=True)
    sandbox.delete()
    assert controller.check() == []


def test_what_passed_is_counted_as_the_container_sees_it(controller: Controller) -> None:
    _, sandbox, endpoint = joined(controller)
    got, _ = passed(controller, sandbox, inward=True)
    counted = endpoint.statistics()
    assert counted.rx_bytes > got > counted.tx_bytes
    assert counted.rx_packets
    assert counted.tx_packets
    with controller.tools.inside(sandbox.path) as inside:
        within = inside.rtnl.statistics(inside.rtnl.index("eth0"))
    assert within is not None
    assert (within.rx_packets, within.tx_packets) >= (counted.rx_packets, counted.tx_packets)
    endpoint.leave()
    assert endpoint.statistics() == LinkCounters()


@pytest.mark.parametrize("direction", ["in", "out"])
def test_what_a_limit_dropped_is_counted_as_dropped(controller: Controller, direction: str) -> None:
    _, sandbox, endpoint = joined(controller, **{f"rate_{direction}": "8kbit"})
    with (
        call_in(controller, sandbox.path, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as within,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as without,
    ):
        within.bind(("10.1.0.2", 0))
        without.sendto(b"", within.getsockname())
        _, home = within.recvfrom(1)  # both sides know each other's MAC now
        sender, address = (without, within.getsockname()) if direction == "in" else (within, home)
        for _ in range(100):
            sender.sendto(bytes(1400), address)
        dropped = {"in": endpoint.statistics().rx_dropped, "out": endpoint.statistics().tx_dropped}
    assert dropped[direction] >= 40  # 100 of 1442 bytes, where 64 KiB are let through or wait
    assert dropped["out" if direction == "in" else "in"] == 0


def test_connections_that_nat_led_to_a_port_are_counted(start_controller: Callable[..., Controller], lan: Lan) -> None:
    controller = start_controller()
    _, sandbox, _ = joined(controller)
    ports = sandbox.publish([*parse_publish("8080:80"), *parse_publish(f"{lan.host_address}:8081:80")])
    led = {port.id: port for port in ports if port.host_ip in ("0.0.0.0", lan.host_address)}
    assert controller.nat_connections() == dict.fromkeys(led, 0)
    with call_in(controller, sandbox.path, socket.create_server, ("", 80)) as server:
        for port, times in ((8080, 3), (8081, 2)):
            for _ in range(times):
                with lan.connect((lan.host_address, port)), server.accept()[0]:
                    pass
    counted = {"tcp/0.0.0.0/8080": 3, f"tcp/{lan.host_address}/8081": 2}
    assert controller.nat_connections() == counted
    controller = start_controller()
    assert controller.nat_connections() == counted, "another controller counts on"
    assert controller.check() == []
    controller.sandbox(sandbox.id).unpublish()
    assert controller.nat_connections() == {}


def test_a_table_that_counts_nothing_is_made_anew(start_controller: Callable[..., Controller]) -> None:
    """That of an older pynet, whose maps are declared otherwise."""
    controller = start_controller()
    _, sandbox, _ = joined(controller)
    sandbox.publish(parse_publish("127.0.0.1:8080:80"))
    table = render.table_name(controller.instance.suffix)
    nft = Nft()
    nft.run(render.destroy(table) + render.base(table).replace("; counter; }", "; }"))
    controller = start_controller()
    controller.repair()
    assert controller.check() == []
    assert all("stmt" in item["map"] for item in nft.list(f"list map inet {table} ports4") if "map" in item)
    nft.close()


def test_a_limit_comes_back_with_an_interface_that_was_deleted(controller: Controller) -> None:
    _, sandbox, endpoint = joined(controller, rate_in="1mbit", rate_out="1mbit")
    controller.tools.rtnl.delete_link(veth_name(endpoint.id))
    assert {difference.kind for difference in controller.check()} >= {"link", "qdisc"}
    controller.repair()
    assert controller.check() == []
    assert_limited(controller, sandbox, inward=True)
    assert_limited(controller, sandbox, inward=False)


def test_an_endpoint_without_a_pair_is_counted_inside(controller: Controller, lan: Lan) -> None:
    network = controller.create_network(
        "wire", driver="macvlan", subnet="192.0.2.0/24", options={"parent": lan.host_ifname}
    )
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a", ip="192.0.2.77")
    endpoint.join(sandbox)
    with (
        call_in(controller, sandbox.path, socket.create_server, ("", 80)) as server,
        lan.connect(("192.0.2.77", 80)) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(bytes(100_000))
        got = 0
        while got < 100_000:
            got += len(accepted.recv(1 << 16))
    counted = endpoint.statistics()
    assert counted.rx_bytes > 100_000 > counted.tx_bytes > 0
    with pytest.raises(InvalidArgument, match="rate_in is not supported by the macvlan driver"):
        endpoint.limit(rate_in="1mbit")
    sandbox.delete()
    endpoint.delete()
    network.delete()
