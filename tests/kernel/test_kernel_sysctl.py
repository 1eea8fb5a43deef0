"""sysctl: values of the calling thread's namespace, and names that can not lead elsewhere."""

from __future__ import annotations

import pytest

from pynet.netlib.errors import InvalidArgument
from pynet.netlib.kernel import sysctl
from pynet.plugins.testhost import Host


def test_ensure_tells_what_to_restore(host: Host) -> None:
    assert sysctl.read("net.ipv4.ip_forward") == "0"
    assert sysctl.ensure("net.ipv4.ip_forward", 1) == "0"
    assert sysctl.ensure("net.ipv4.ip_forward", "1") is None
    assert sysctl.read("net.ipv4.ip_forward") == "1"


def test_values_of_several_numbers(host: Host) -> None:
    old = sysctl.ensure("net.ipv4.ip_local_port_range", "40000 50000")
    assert old is not None and len(old.split()) == 2
    assert sysctl.read("net.ipv4.ip_local_port_range") == "40000 50000"
    assert sysctl.ensure("net.ipv4.ip_local_port_range", "40000\t50000") is None


def test_an_interface_with_a_dot_in_its_name(host: Host) -> None:
    index = host.rtnl.add_bridge("br0.100")
    name = ("net", "ipv4", "conf", "br0.100", "route_localnet")
    assert sysctl.ensure(name, 1) == "0"
    assert sysctl.read(name) == "1"
    host.rtnl.delete_link(index)


def test_other_namespaces_by_the_namespace_thread(host: Host) -> None:
    other = host.namespace()
    other.call(sysctl.write, "net.ipv4.ip_forward", 1)
    assert other.call(sysctl.read, "net.ipv4.ip_forward") == "1"
    assert sysctl.read("net.ipv4.ip_forward") == "0"
    other.close()


@pytest.mark.parametrize("name", ["", "net..x", ("net", ".."), ("net", "a/b"), ("net", "a\0"), (), ".", ("",)])
def test_names_that_lead_elsewhere(name: sysctl.Name) -> None:
    with pytest.raises(InvalidArgument, match="invalid sysctl name"):
        sysctl.read(name)


def test_errors_carry_the_path(host: Host) -> None:
    with pytest.raises(FileNotFoundError, match="net/ipv4/no_such"):
        sysctl.read("net.ipv4.no_such")
    with pytest.raises(OSError, match=r"value 'x'.*/proc/sys/net/ipv4/ip_forward"):
        sysctl.write("net.ipv4.ip_forward", "x")


def test_a_value_is_compared_by_what_the_kernel_makes_of_it(host: Host) -> None:
    name = ("net", "ipv6", "conf", "default", "hop_limit")
    for written in ("0x40", "0100", "64"):
        sysctl.write(name, written)
        assert sysctl.read(name) == "64" and sysctl.same("64", written)
    assert sysctl.ensure(name, "0x40") is None
    assert not sysctl.same("64", "100") and not sysctl.same("64", "6_4") and not sysctl.same("1 2", "1")


def test_what_was_never_set_can_be(host: Host) -> None:
    """Until it was written, reading it is an error of input and output."""
    name = ("net", "ipv6", "conf", "default", "stable_secret")
    assert sysctl.read(name) == ""
    assert sysctl.ensure(name, "fd00::1") == ""
    assert sysctl.ensure(name, "fd00::1") is None
