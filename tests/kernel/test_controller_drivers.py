"""A driver from somebody else's package, found through its entry point, from creation to removal; plans that are shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.driver import load_driver
from pynet.netlib.errors import InternalError, InvalidArgument, NotFound, NotSupported
from pynet.netlib.kinds.resource import Resource
from pynet.netlib.ports.portspec import parse_publish

PAGE = Path(__file__).parents[2] / "docs" / "drivers.md"


@dataclass(frozen=True)
class Unknown(Resource):
    """Of a kind that nobody registered."""

    @property
    def title(self) -> str:
        return "a link of another kind"


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
    bridge = controller.tools.rtnl.link(network.bridge)
    assert bridge is not None
    assert bridge.alias == "pynet network web"
    controller.tools.rtnl.set_link(bridge.index, alias="")
    assert [str(difference) for difference in controller.check()] == [f"missing alias {network.bridge}"]
    assert [str(difference) for difference in controller.repair()] == [f"missing alias {network.bridge}"]
    controller.tools.rtnl.delete_link(network.bridge)
    controller.repair()
    assert controller.check() == []


@pytest.mark.usefixtures("package")
def test_a_strangers_kind_is_undone_with_the_rest(controller: Controller) -> None:
    bridge = controller.tools.rtnl.add_bridge("br7")
    network = controller.create_network("web", driver="quiet", subnet="10.1.0.0/24", options={"bridge": "br7"})
    network.delete()
    link = controller.tools.rtnl.link("br7")
    assert link is not None
    assert link.alias == ""
    controller.tools.rtnl.delete_link(bridge)


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
        assert controller.tools.rtnl.link(quiet) is not None, "only its driver knows what it has made"
        assert controller.tools.rtnl.link(web) is None
    controller = start_controller()
    controller.repair()
    assert controller.check() == []


@pytest.mark.usefixtures("package")
def test_a_driver_that_can_not_be_loaded_is_told() -> None:
    with pytest.raises(NotSupported, match=r"the driver odd \(nowhere:Driver\) can not be loaded: No module named"):
        load_driver("odd")
    with pytest.raises(NotFound) as caught:
        load_driver("nosuch")
    # the metadata of a tree that was installed long ago may have old names beside these
    assert caught.value.hint.startswith("drivers here: bridge, host, ipvlan, macvlan, ")
    assert caught.value.hint.endswith("null, odd, quiet")


def test_a_resource_that_nobody_can_make_is_an_error_and_leaves_nothing(controller: Controller) -> None:
    with pytest.raises(InternalError, match="no way to make a Unknown"):
        controller.core.applier.make(Unknown())
