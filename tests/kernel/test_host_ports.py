"""Host ports that other programs have: the next of a range is taken, and nothing is kept of what could not be had as a whole."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pynet.netlib.errors import PortInUse, PynetError
from pynet.netlib.kernel import sysctl
from pynet.netlib.model import PublishedPort
from pynet.netlib.ports.hostports import HostPorts
from pynet.netlib.ports.leases import AllPortsAllocated
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Host

BOTH = ("0.0.0.0", "::")


@pytest.fixture
def ports(host: Host) -> Iterator[HostPorts]:
    ports = HostPorts(has_proxy=False)
    yield ports
    ports.close()


def lease(ports: HostPorts, word: str, addresses: tuple[str, ...] = BOTH) -> tuple[PublishedPort, ...]:
    (binding,) = parse_publish(word)
    return ports.lease("box", [(binding, addresses)])


def test_the_next_of_a_range_is_taken_and_nothing_is_kept_of_the_one_before(ports: HostPorts) -> None:
    with socket.create_server(("::", 9001), family=socket.AF_INET6):
        assert [(port.host_ip, port.host_port) for port in lease(ports, "9001-9002:80")] == [
            ("0.0.0.0", 9002), ("::", 9002),
        ]  # fmt: skip
        with socket.create_server(("0.0.0.0", 9001)):
            pass  # its socket for the first address was closed
    assert [port.host_port for port in lease(ports, "9001:80")] == [9001, 9001], "and so was its lease given back"


def test_a_port_without_another_one_is_an_error_that_says_so(ports: HostPorts) -> None:
    with socket.create_server(("::", 9001), family=socket.AF_INET6):
        with pytest.raises(PortInUse, match="address already in use"):
            lease(ports, "9001:80")
        with pytest.raises(PortInUse):
            lease(ports, "9001-9001:80")
    assert ports.ids == frozenset()
    assert [port.host_port for port in lease(ports, "9001:80")] == [9001, 9001]


def test_an_ephemeral_port_of_another_program_is_passed_over(ports: HostPorts) -> None:
    sysctl.write(("net", "ipv4", "ip_local_port_range"), "40000 40001")
    with socket.create_server(("0.0.0.0", 40000)):
        assert [port.host_port for port in lease(ports, "80")] == [40001, 40001]
        with pytest.raises(AllPortsAllocated):
            lease(ports, "81")


def test_what_is_no_matter_of_the_port_is_not_tried_with_the_next(ports: HostPorts) -> None:
    with pytest.raises(PynetError, match="cannot assign requested address") as caught:
        lease(ports, "198.51.100.7:9001-9002:80", ("198.51.100.7",))
    assert not isinstance(caught.value, PortInUse)
    assert ports.ids == frozenset()
