"""Many threads on one controller: whatever they do at the same moment, store and kernel agree at the end."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import pytest

from pynet.netlib.applier import Applier, StepFailed
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, Forbidden, NotFound
from pynet.netlib.handles import Endpoint, Network
from pynet.netlib.host_uses import HostUse, host_uses
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.ports.portspec import parse_publish

from support.netlib import Watched

PATIENCE = 30


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


class Slow(Watched):
    """Lets a test act while a step of somebody's plan is under way."""

    def __init__(self, inner: Applier, kind: str, *, fails: bool = False) -> None:
        super().__init__(inner, self._slowly)
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._slow_at, self._fails = kind, fails

    def _slowly(self, verb: str, resource: Resource) -> None:
        if type(resource).__name__ == self._slow_at and not self.reached.is_set():
            self.reached.set()
            assert self.go_on.wait(PATIENCE)
            if self._fails:
                raise OSError(5, "made to fail")


def in_the_middle(
    controller: Controller, kind: str, first: Callable[[], object], second: Callable[[], object], *, fails: bool = False
) -> list[BaseException | None]:
    """Start *second* while *first* is at its step of *kind*; what they raised."""
    slow = Slow(controller.core.applier, kind, fails=fails)
    controller.core.applier, before = slow, controller.core.applier
    try:
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(first)
            assert slow.reached.wait(PATIENCE)
            two = pool.submit(second)
            with pytest.raises(TimeoutError):
                two.result(0.05)  # waits for its turn
            slow.go_on.set()
            return [future.exception(PATIENCE) for future in (one, two)]
    finally:
        controller.core.applier = before


def test_threads_that_do_everything_at_once_end_consistent(controller: Controller) -> None:
    controller.create_network("n0", subnet="10.1.0.0/24")
    controller.create_sandbox("shared")
    expected = (Forbidden, Conflict, NotFound)
    done = [0]

    def life(seed: int) -> None:
        dice = random.Random(seed)
        sandbox = controller.create_sandbox(f"s{seed}")
        for step in range(8):
            try:
                number = dice.randrange(3)
                if number and dice.random() < 0.5:
                    controller.create_network(f"n{number}", subnet=f"10.{number + 1}.0.0/24")
                network = controller.network(f"n{number}")
                endpoint = network.create_endpoint(f"e{seed}-{step}")
                room = sandbox if dice.random() < 0.5 else controller.sandbox("shared")
                endpoint.join(room)
                endpoint.publish(parse_publish("80"))
                done[0] += 1
                what = dice.randrange(5)
                if what == 0:
                    endpoint.leave()
                elif what == 1:
                    endpoint.delete()
                elif what == 2:
                    endpoint.unpublish()
                elif what == 3:
                    room.delete()
                    again = controller.create_sandbox(room.id)
                    sandbox = again if room == sandbox else sandbox
                else:
                    network.delete()
            except expected:
                continue

    with ThreadPoolExecutor(12) as pool:
        for result in [pool.submit(life, seed) for seed in range(12)]:
            result.result(60)
    assert done[0] > 12, "most of it is not refused"
    assert controller.check() == []
    assert {e.network for e in controller.registry.endpoints.values()} <= set(controller.registry.networks)
    live = {port.id for sandbox in controller.sandboxes() for port in sandbox.ports}
    assert controller.tools.ports.ids == live, "a socket for each published port and no other"


def test_joins_side_by_side_are_not_slower_than_one_by_one(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24")

    def make(count: int, tag: str) -> list[tuple[Endpoint, str]]:
        return [(network.create_endpoint(f"{tag}{i}"), controller.create_sandbox(f"{tag}{i}").id) for i in range(count)]

    def join(pair: tuple[Endpoint, str]) -> None:
        pair[0].join(controller.sandbox(pair[1]))

    took: dict[str, float] = {}
    serial, parallel = make(25, "a"), make(25, "b")
    start = time.perf_counter()
    for pair in serial:
        join(pair)
    took["serial"] = time.perf_counter() - start
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(join, parallel))
    took["parallel"] = time.perf_counter() - start
    print(took)
    assert took["parallel"] < 3 * took["serial"] + 0.5, took
    assert controller.check() == []


def test_a_sandbox_that_is_deleted_while_an_endpoint_joins_stays_deleted(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    assert in_the_middle(controller, "Veth", lambda: endpoint.join(sandbox), sandbox.delete) == [None, None]
    assert controller.sandboxes() == []
    assert endpoint.record.sandbox == ""
    assert controller.check() == []


def test_a_port_that_is_published_while_the_only_endpoint_leaves_is_not_published(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    errors = in_the_middle(
        controller, "Veth", endpoint.leave, lambda: sandbox.publish(parse_publish("8080:80"))
    )  # fmt: skip
    assert errors == [None, None]
    assert sandbox.ports == ()
    with socket.create_server(("0.0.0.0", 8080)):
        pass


def test_an_endpoint_can_not_be_made_on_a_network_whose_creation_fails(controller: Controller) -> None:
    def endpoint() -> Endpoint:
        return controller.network("web").create_endpoint("a")

    def create() -> Network:
        return controller.create_network("web", subnet="10.1.0.0/24")

    first, second = in_the_middle(controller, "NetworkFirewall", create, endpoint, fails=True)
    assert isinstance(first, StepFailed)
    assert isinstance(second, NotFound)
    assert controller.registry.endpoints == {}
    assert controller.check() == []


def test_a_bridge_that_is_going_is_not_taken_for_the_new_networks(controller: Controller) -> None:
    def create() -> Network:
        return controller.create_network("web", options={"bridge": "br0"})

    network = create()
    assert in_the_middle(controller, "Bridge", network.delete, create) == [None, None]
    assert controller.check() == []
    assert controller.tools.rtnl.link("br0") is not None


def test_an_interface_outlives_the_clean_up_after_its_endpoints_last_sandbox(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    endpoint.join(sandbox)
    held = controller.tools.netns.open(sandbox.path)  # a process that is slow to die
    sandbox.delete()
    endpoint.join(controller.create_sandbox("b"))
    controller.tools.reaper.settle()  # what it does a little after the deletion
    assert controller.check() == []
    os.close(held)


def test_comparing_waits_for_what_is_being_made(controller: Controller) -> None:
    network = controller.create_network("web", subnet="10.1.0.0/24")
    sandbox, endpoint = controller.create_sandbox("a"), network.create_endpoint("a")
    found: list[object] = []
    in_the_middle(
        controller, "Veth", lambda: endpoint.join(sandbox), lambda: found.extend(controller.repair())
    )  # fmt: skip
    assert found == []


def test_nobody_waits_while_the_hosts_routes_are_read(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a hundred thousand of them, and a name server's file on a slow disk."""
    went_on: list[bool] = []
    others: list[threading.Thread] = []

    def with_others(version: int, but: Collection[str]) -> list[HostUse]:
        done = threading.Event()

        def go_on() -> None:
            assert controller.networks() == []
            controller.create_sandbox(f"s{version}")
            done.set()

        others.append(threading.Thread(target=go_on))
        others[-1].start()
        went_on.append(done.wait(PATIENCE))
        return host_uses(version, but)

    monkeypatch.setattr("pynet.netlib.host_uses.host_uses", with_others)
    network = controller.create_network("web", ipv6=True)
    for thread in others:
        thread.join()
    assert went_on == [True, True]
    network.delete()
    for version in (4, 6):
        controller.sandbox(f"s{version}").delete()
