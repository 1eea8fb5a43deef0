"""A driver from somebody else's package, found through its entry point, from creation to removal; plans that are shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.driver import load_driver
from pynet.netlib.errors import Conflict, InternalError, InvalidArgument, NotFound, NotSupported
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host

PAGE = Path(__file__).parents[2] / "docs" / "drivers.md"


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip leaves of a package: the module of docs/drivers.md, and the metadata with its entry points."""
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (entries,) = re.findall(r"^```toml\n\[.*\]\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    site = tmp_path / "site"
    metadata = site / "pynet_quiet-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "pynet_quiet.py").write_text(source)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pynet-quiet\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[pynet.drivers]\n" + entries.replace('"', "") + "odd = nowhere:Driver\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "pynet_quiet", raising=False)
    return site


@pytest.mark.usefixtures("package")
def test_a_strangers_driver_works_from_end_to_end(controller: Controller) -> None:
    with pytest.raises(InvalidArgument, match="quiet networks have IPv4 alone"):
        controller.create_network("web", driver="quiet", ipv6=True)
    network = controller.create_network("web", driver="quiet", subnet="10.1.0.0/24")
    assert Path(f"/proc/sys/net/ipv4/conf/{network.bridge}/arp_ignore").read_text() == "1\n"
    endpoint = network.create_endpoint("a")
    endpoint.join(controller.create_sandbox("a"))
    assert [port.host_port for port in endpoint.publish(parse_publish("8080:80"))] == [8080]
    assert controller.check() == []
    controller.actions.rtnl.delete_link(network.bridge)
    controller.repair()
    assert controller.check() == []


def test_everything_is_taken_down_beside_a_driver_that_is_gone(
    start_controller: Callable[..., Controller], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = start_controller()
    quiet, web = (controller.create_network(driver, driver=driver).bridge for driver in ("quiet", "bridge"))
    with monkeypatch.context() as context:
        context.setattr(sys, "path", [entry for entry in sys.path if entry != str(package)])
        controller = start_controller()
        with pytest.raises(NotFound, match="could not find plugin quiet"):
            controller.take_down()
        assert controller.actions.rtnl.link(quiet) is not None, "only its driver knows what it has made"
        assert controller.actions.rtnl.link(web) is None
    controller = start_controller()
    controller.repair()
    assert controller.check() == []


@pytest.mark.usefixtures("package")
def test_a_driver_that_can_not_be_loaded_is_told() -> None:
    with pytest.raises(NotSupported, match=r"the driver odd \(nowhere:Driver\) can not be loaded: No module named"):
        load_driver("odd")
    with pytest.raises(NotFound) as caught:
        load_driver("nosuch")
    assert caught.value.hint == "drivers here: bridge, host, none, odd, quiet"


def test_a_resource_that_nobody_can_make_is_an_error_and_leaves_nothing(controller: Controller) -> None:
    with pytest.raises(InternalError, match="no way to make a str"):
        controller.applier.apply(["a link of another kind"])  # type: ignore[list-item]


def test_plans_are_shown_as_lines_and_make_nothing(controller: Controller, host: Host) -> None:
    before = host.snapshot()
    lines = [
        str(resource) for resource in controller.plan_network("web", subnet="10.1.0.0/24", options={"bridge": "br0"})
    ]
    assert host.snapshot() == before
    assert lines[0] == "sysctl net.ipv4.ip_forward: 1"
    assert re.fullmatch(r"bridge br0: 10.1.0.1/24, 02:[0-9a-f:]{14}, MTU 1500", lines[1])
    assert lines[2:] == ["sysctl net.ipv6.conf.br0.accept_ra: 0", "firewall rules of br0: 10.1.0.0/24, masquerade"]
    network = controller.create_network("web", subnet="10.1.0.0/24", options={"bridge": "br0"})
    assert [str(resource).partition(":")[0] for resource in network.plan()] == [
        line.partition(":")[0] for line in lines
    ]
    with pytest.raises(Conflict, match="network with name web already exists"):
        controller.plan_network("web")
    endpoint = network.create_endpoint("a")
    assert endpoint.plan() == []
    sandbox = controller.create_sandbox("a")
    endpoint.join(sandbox)
    endpoint.publish(parse_publish("8080:80"))
    assert [str(resource) for resource in endpoint.plan()] == [
        f"interface eth0 in {sandbox.path}: 10.1.0.2/24, {endpoint.mac}, MTU 1500, pv{endpoint.id[:12]} on br0, "
        "default route through 10.1.0.1",
        f"NAT of the published ports of endpoint {endpoint.id[:12]}: :8080/tcp -> 10.1.0.2:80",
    ]
