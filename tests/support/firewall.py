"""A world for firewall back ends: a host with two networks, three containers with servers, and a LAN.

    lan 192.0.2.2 ---- eth0 host ---- pba 10.77.1.1/24 ---- a1 .2  a2 .3
        2001:db8::2              |        fd77:1::1/64          ::2    ::3
                                 '--- pbb 10.77.2.1/24 ---- b1 .2
                                          fd77:2::1/64          ::2

A server tells its name and whom it answers to, so a test sees both ends of the translation.  A plugin of conftest.py: its
fixtures are ``world``, ``make`` and ``firewall``.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pynet.netlib.errors import NotSupported
from pynet.netlib.firewall.choice import select_backend
from pynet.netlib.firewall.intents import FirewallBackend, NetworkRules, PortRule
from pynet.netlib.kernel import sysctl
from pynet.netlib.kernel.rtnetlink import RouteInfo
from pynet.plugins.snapshot import Snapshot
from pynet.plugins.testhost import Host, Lan, Namespace

from support.answering import Servers
from support.waiting import PATIENCE, SILENCE

SERVED = 80
NUMBERS = {"a": 1, "b": 2}
HOST = {4: Lan.host_address, 6: Lan.host_address6}
LAN = {4: Lan.address, 6: Lan.address6}


def gateway(network: str, version: int) -> str:
    return f"10.77.{NUMBERS[network]}.1" if version == 4 else f"fd77:{NUMBERS[network]}::1"


def rules(network: str, **changes: object) -> NetworkRules:
    number = NUMBERS[network]
    values = {"bridge": f"pb{network}", "subnets": (f"10.77.{number}.0/24", f"fd77:{number}::/64"), **changes}
    return NetworkRules(**values)  # type: ignore[arg-type]


class World:
    def __init__(self, host: Host, lan: Lan, servers: Servers, containers: dict[str, Namespace]) -> None:
        self.host, self.lan, self.servers, self.containers = host, lan, servers, containers

    @staticmethod
    def ask(who: Namespace, proto: str, address: str, port: int, *, silent: bool = False) -> str:
        """What the server at *address* answers to *who*; "" if nothing.  *silent* expects just that, and waits less."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with who.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM) as sock:
            sock.settimeout(SILENCE if silent else PATIENCE)
            try:
                sock.connect((address, port))
                if proto == "udp":
                    sock.send(b"?")
                return sock.recv(64).decode()
            except OSError:
                return ""

    @staticmethod
    def address(name: str, version: int) -> str:
        number, last = NUMBERS[name[0]], int(name[1:]) + 1
        return f"10.77.{number}.{last}" if version == 4 else f"fd77:{number}::{last}"

    def port(self, proto: str, name: str, version: int, host_port: int, host_ip: str = "") -> PortRule:
        return PortRule(proto, host_ip, host_port, self.address(name, version), SERVED, f"pb{name[0]}")

    def route_lan_to_containers(self) -> None:
        """Let the LAN send to container addresses by way of the host, as an attacker on the same wire would."""
        for number in NUMBERS.values():
            self.lan.rtnl.add_route(RouteInfo(destination=f"10.77.{number}.0/24", gateway=HOST[4]))
            self.lan.rtnl.add_route(RouteInfo(destination=f"fd77:{number}::/64", gateway=HOST[6]))


@contextmanager
def building_world(host: Host, lan: Lan) -> Generator[World]:
    sysctl.write(("net", "ipv4", "ip_forward"), 1)
    sysctl.write(("net", "ipv6", "conf", "all", "forwarding"), 1)
    # a bridge asks for neighbours once its own link-local address is known to be unique: one to two seconds
    sysctl.write(("net", "ipv6", "conf", "default", "accept_dad"), 0)
    with ExitStack() as stack:
        servers = Servers()
        stack.callback(servers.close)
        containers: dict[str, Namespace] = {}
        links: list[int] = []
        # not left to the end of their namespaces, which the kernel takes apart in its own time
        stack.callback(lambda: host.rtnl.delete_links(links))
        for network, names in (("a", ("a1", "a2")), ("b", ("b1",))):
            bridge = host.rtnl.add_bridge(f"pb{network}", mac=f"02:00:00:00:00:0{NUMBERS[network]}")
            links.append(bridge)
            for version, prefix in ((4, 24), (6, 64)):
                host.rtnl.add_address(bridge, gateway(network, version), prefix)
            for name in names:
                container = containers[name] = host.namespace()
                stack.callback(container.close)
                index, peer = host.rtnl.add_veth(
                    f"pv{name}", "eth0", netns_fd=container.fd, master=bridge, hairpin=True
                )  # fmt: skip
                links.append(index)
                container.rtnl.configure(
                    peer,
                    addresses=[(World.address(name, 4), 24), (World.address(name, 6), 64)],
                    routes=[RouteInfo(gateway=gateway(network, version)) for version in (4, 6)],
                )
                host.rtnl.wait_up(index)
                servers.serve(name, container, SERVED)
        yield World(host, lan, servers, containers)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def tables() -> dict[str, tuple[str, ...]]:
    """All rules of both kinds in the calling thread's namespace."""
    sections = Snapshot.take().sections
    without_counters = [re.sub(r" \[\d+:\d+\]$", "", line) for line in sections["iptables"]]
    return {"nftables": sections["nftables"], "iptables": tuple(without_counters)}


def same(found: tuple[list[NetworkRules], list[PortRule]], networks: list[NetworkRules], ports: list[PortRule]) -> bool:
    return (sorted(found[0], key=str), sorted(found[1], key=str)) == (sorted(networks, key=str), sorted(ports, key=str))


def open_port(proto: str, name: str, version: int, port: int = SERVED) -> PortRule:
    return PortRule(proto, "", 0, World.address(name, version), port, f"pb{name[0]}")


@pytest.fixture
def world(host: Host, lan: Lan) -> Iterator[World]:
    with building_world(host, lan) as world:
        yield world


@pytest.fixture(params=["nftables", "iptables"])
def make(request: pytest.FixtureRequest, host: Host) -> Iterator[Callable[..., FirewallBackend]]:
    """Makes back ends of one kind; all are closed at the end, and what they made is removed."""
    made: list[tuple[FirewallBackend, str]] = []

    def make(instance: str = "") -> FirewallBackend:
        try:
            backend = select_backend(request.param, instance)
        except NotSupported as error:
            pytest.skip(str(error))
        made.append((backend, instance))
        return backend

    yield make
    for backend, _ in made:
        backend.destroy()
        backend.close()


@pytest.fixture
def firewall(make: Callable[..., FirewallBackend], world: World) -> FirewallBackend:
    """A back end that knows both networks."""
    backend = make()
    backend.replace([rules("a"), rules("b")], [])
    return backend
