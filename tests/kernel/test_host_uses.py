"""What the host uses of the address space is read once, and again when a route came or went that is not a network's own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from pynet.ipam.prefix import Prefix
from pynet.netlib import host_uses
from pynet.netlib.controller import Controller
from pynet.netlib.errors import InvalidArgument
from pynet.plugins.testhost import Host


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The IP versions of the times that the host's routes were read."""
    read: list[int] = []
    real = host_uses.host_uses

    def counted(version: int, but: object) -> list[host_uses.HostUse]:
        read.append(version)
        return real(version, but)  # type: ignore[arg-type]

    monkeypatch.setattr(host_uses, "host_uses", counted)
    return read


@pytest.fixture
def uplink(host: Host) -> Iterator[str]:
    ip("link add up1 type veth peer up2")
    for name in ("up1", "up2"):
        ip(f"link set {name} up")
    yield "up1"
    ip("link del up1")


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def test_networks_do_not_make_the_routes_be_read_again(
    start_controller: Callable[..., Controller], reads: list[int]
) -> None:
    controller = start_controller()
    for number in range(4):
        controller.create_network(f"n{number}", ipv6=True)
    assert reads == [4, 6]


@pytest.mark.parametrize(
    ("route", "first", "second"),
    [("172.16.0.0/12", "172.17.0.0/16", "192.168.0.0/24"), ("172.18.9.0/24", "172.17.0.0/16", "172.19.0.0/16")],
)
def test_a_route_that_comes_and_goes_is_heeded(
    start_controller: Callable[..., Controller], uplink: str, route: str, first: str, second: str
) -> None:
    controller = start_controller()
    assert controller.create_network("a").record.ipam[0].subnet == first
    ip(f"route add {route} dev {uplink}")
    assert controller.create_network("b").record.ipam[0].subnet == second
    ip(f"route del {route} dev {uplink}")
    assert controller.create_network("c").record.ipam[0].subnet == "172.18.0.0/16"


def test_an_unreachable_block_is_heeded(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    controller.create_network("a")
    ip("route add unreachable 172.18.0.0/16")
    assert controller.create_network("b").record.ipam[0].subnet == "172.19.0.0/16"
    ip("route del unreachable 172.18.0.0/16")


def test_a_route_into_a_network_that_went_is_heeded(start_controller: Callable[..., Controller], uplink: str) -> None:
    """While the network is there the route is in its own subnet, and tells nothing."""
    controller = start_controller()
    network = controller.create_network("a")
    controller.create_network("b")
    ip(f"route add 172.17.5.0/24 dev {uplink}")
    controller.create_network("c")
    network.delete()
    assert controller.create_network("d").record.ipam[0].subnet == "172.20.0.0/24"


def test_a_route_into_the_ula_block_is_heeded(start_controller: Callable[..., Controller], uplink: str) -> None:
    controller = start_controller()
    ula = [controller.create_network("a", ipv4=False, ipv6=True).record.ipam[0].subnet]
    follower = f"{ula[0].removesuffix(':/64').removesuffix(':')}:1::/64"
    ip(f"-6 route add {follower} dev {uplink}")
    ula.append(controller.create_network("b", ipv4=False, ipv6=True).record.ipam[0].subnet)
    assert ula[1] == follower.replace(":1::/64", ":2::/64")


def test_more_changes_than_the_socket_holds_are_a_reason_to_read_again(host: Host, uplink: str) -> None:
    uses = host_uses.HostUses()
    try:
        assert uses.look(4, lambda prefix: False, tuple) == host_uses.host_uses(4)
        subprocess.run(
            ["ip", "-batch", "-"],
            input="".join(f"route add 10.{n // 250}.{n % 250}.0/24 dev {uplink}\n" for n in range(2500)),
            text=True,
            check=True,
        )
        found = uses.look(4, lambda prefix: True, tuple)
        assert len([use for use in found if use.interface == uplink]) == 2500
    finally:
        uses.close()


def test_a_name_server_is_heeded_as_soon_as_it_is_the_hosts(
    start_controller: Callable[..., Controller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """resolv.conf tells nobody when it changes: it is read each time."""
    servers: list[str] = []
    monkeypatch.setattr(host_uses, "_name_servers", lambda: servers)
    controller = start_controller()
    assert controller.create_network("a").record.ipam[0].subnet == "172.17.0.0/16"
    servers.append("172.18.0.9")
    assert controller.create_network("b").record.ipam[0].subnet == "172.19.0.0/16"


def test_when_all_is_used_up_the_hint_says_by_whom(start_controller: Callable[..., Controller], uplink: str) -> None:
    controller = start_controller(default_pools=[("10.50.0.0/23", 24)])
    controller.create_network("web")
    ip(f"route add 10.50.1.0/25 dev {uplink}")
    with pytest.raises(InvalidArgument, match="all predefined address pools have been fully subnetted") as caught:
        controller.create_network("x")
    assert "1 networks (web), the host's route 10.50.1.0/25 through up1" in caught.value.hint
    assert "network prune" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 64, bytes(28), b"\x1c\0\0\0\x18\0" + bytes(22)])
def test_messages_of_any_form_are_read_to_their_end(data: bytes) -> None:
    assert all(isinstance(prefix, Prefix) for prefix in host_uses._told(data))


def test_an_interface_may_be_called_anything(start_controller: Callable[..., Controller]) -> None:
    """The kernel takes any bytes but blanks, "/" and ":"."""
    subprocess.run([b"ip", b"link", b"add", b"\xff\x1cx", b"type", b"veth", b"peer", b"name", b"other"], check=True)
    subprocess.run([b"ip", b"link", b"set", b"\xff\x1cx", b"up"], check=True)
    subprocess.run([b"ip", b"route", b"add", b"172.17.0.0/16", b"dev", b"\xff\x1cx"], check=True)
    subprocess.run([b"ip", b"route", b"add", b"fd00:9::/64", b"dev", b"\xff\x1cx"], check=True)
    controller = start_controller()
    assert controller.create_network("n", ipv6=True).record.ipam[0].subnet == "172.18.0.0/16"
    ip("link del other")
