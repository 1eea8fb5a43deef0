"""What all tests share: the process lives in namespaces of its own, ``host`` and ``lan`` are the plugin's fixtures, and
controllers end with store and kernel in agreement.

Tests below kernel/ and system/ are marked so, and skipped by name where namespaces are forbidden.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pynet.netlib.controller import Controller
from pynet.netlib.errors import NotSupported
from pynet.plugins.pytest_plugin import isolate
from pynet.plugins.testhost import Host, Lan

from support.engine import Bed, Daemon, playing
from support.leaks import Look, lost_leases, mark
from support.runtime import Lab, running_lab

pytest_plugins = ["support.firewall"]
_HERE = Path(__file__).parent

# how fast a machine makes or tries an example says nothing about the code: a test must not fail on a slow day
settings.register_profile("pynet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pynet")


def pytest_configure(config: pytest.Config) -> None:
    # a shell without job control starts what is in its background with SIGINT ignored, and programs of tests would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    isolate(config)
    mark()
    os.environ["PYNET_CONFIG_FILE"] = os.devnull  # this machine's is not meant for the engines of tests


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two a processor: half of their time tests wait, for programs, for the kernel, for a clock."""
    return 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    from support.scheduling import ByModule

    return ByModule(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = isolate(config)
    for item in items:
        room = item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""
        if room in ("kernel", "system"):
            item.add_marker(room)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every kernel and system test ends as it began, whatever it does: tests/support/leaks.py has what is looked at."""
    if request.node.get_closest_marker("kernel") is None and request.node.get_closest_marker("system") is None:
        yield
        return
    before = Look.take()
    yield
    directories = [str(tmp_path_factory.getbasetemp()), *(str(daemon.root.parent) for daemon in Daemon.all)]
    if left := before.settled(directories):
        pytest.fail("\n".join(["the test left something behind:", *left]), pytrace=False)


@pytest.fixture
def host(pynet_host: Host) -> Host:
    """The namespace that the test runs in; it must end as it began."""
    return pynet_host


@pytest.fixture
def lan(pynet_lan: Lan) -> Lan:
    """A client on the host's LAN."""
    return pynet_lan


@pytest.fixture
def start_controller(tmp_path: Path, host: Host) -> Iterator[Callable[..., Controller]]:
    """Starts controllers on one root, one after the other (a new one is a restart); skips where the firewall is missing."""
    running: list[Controller] = []

    def start(firewall: str = "nftables", **options: Any) -> Controller:
        for controller in running:
            controller.close()
        controller = Controller(tmp_path / "root", tmp_path / "run", firewall=firewall, **options)
        running.append(controller)
        try:
            controller.tools.firewall_state(needed=True)
        except NotSupported as error:
            pytest.skip(str(error))
        return controller

    yield start
    if running:
        _empty(running[-1])


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    """One with nftables; modules that try both firewalls have their own."""
    return start_controller()


@pytest.fixture
def daemon(host: Host) -> Iterator[Daemon]:
    """A pynetd with the busybox image, in the namespace that plays the host."""
    with Daemon.running() as daemon:
        daemon.bootstrap()
        yield daemon


@pytest.fixture(scope="module")
def shared_bed() -> Iterator[Bed]:
    """What a module's tests share that need no pynetd of their own."""
    with playing() as bed:
        yield bed


@pytest.fixture
def bed(shared_bed: Bed) -> Iterator[Bed]:
    """The module's; every test ends with no container, network and volume of its own."""
    yield shared_bed
    shared_bed.daemon.clear()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A supervisor that a module's tests share."""
    with running_lab(tmp_path_factory.mktemp("rt")) as lab:
        yield lab


def _empty(controller: Controller) -> None:
    try:
        assert lost_leases(controller) == []
        for sandbox in controller.sandboxes():
            sandbox.delete()
        for network in controller.networks():
            for endpoint in network.endpoints():
                endpoint.delete()
            network.delete()
        assert controller.check() == []
        assert lost_leases(controller) == []
        if controller.tools.has_firewall:
            controller.tools.firewall.destroy()
    finally:
        controller.close()
