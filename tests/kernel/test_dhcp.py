"""Addresses from a DHCP server on the LAN: lease, renew, release; servers that are absent, deny, or hand out what is taken."""

from __future__ import annotations

import logging
import queue
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pynet.ipam.dhcp import client
from pynet.ipam.dhcp.driver import DhcpIpam
from pynet.ipam.dhcp.message import REBINDING_TIME, RENEWAL_TIME
from pynet.ipam.driver import Lease
from pynet.netlib import renewal
from pynet.netlib.controller import Controller
from pynet.netlib.errors import Conflict, InvalidArgument, PynetError, Unavailable
from pynet.netlib.handles import Endpoint, Network
from pynet.netlib.model import EndpointRecord, IpamConfig, Record
from pynet.netlib.renewal import Renewing
from pynet.plugins.testhost import Host, Lan

from support.dhcp import DhcpServer, as_tlv
from support.netlib import call_in, default_gateways
from support.waiting import PATIENCE

POOL = [f"192.0.2.{n}" for n in range(100, 110)]


@pytest.fixture
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


@pytest.fixture
def server(lan: Lan) -> Iterator[DhcpServer]:
    with DhcpServer(lan, list(POOL)) as serving:
        yield serving


@pytest.fixture(autouse=True)
def probing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Says how long a client listens for who has an address already; nobody has, in most of these tests."""

    def listen_for(seconds: float) -> None:
        monkeypatch.setattr(client, "PROBE_PAUSE", seconds)

    listen_for(0.02)
    return listen_for


def office(
    controller: Controller, *, name: str = "office", timeout: int = 20, subnet: str = "", **options: str
) -> Network:
    return controller.create_network(
        name,
        driver="macvlan",
        subnet=subnet,
        ipam_driver="dhcp",
        ipam_options={"timeout": str(timeout)},
        options={"parent": "eth0", **options},
    )


def met(controller: Controller, path: str, connect: Callable[[tuple[str, int]], socket.socket]) -> str:
    """Who connects to a container that listens at 192.0.2.100, as the container sees it."""
    with call_in(controller, path, socket.create_server, ("192.0.2.100", 80)) as listener:
        listener.settimeout(PATIENCE)
        with connect(("192.0.2.100", 80)):
            accepted, (peer, _) = listener.accept()
            accepted.close()
    return str(peer)


def test_the_server_gives_the_address_and_is_told_at_the_end(
    controller: Controller, lan: Lan, server: DhcpServer
) -> None:
    network = office(controller)
    assert network.record.ipam == ()
    endpoint, sandbox = network.create_endpoint("web_1"), controller.create_sandbox("a")
    endpoint.join(sandbox)
    asked = server.next("discover")
    assert (asked.mac, asked.hostname, asked.source) == (endpoint.mac, "web-1", "0.0.0.0")
    assert endpoint.address == "192.0.2.100/24"
    assert server.lent == {endpoint.mac: "192.0.2.100"}
    assert default_gateways(controller, sandbox.path) == {lan.address}
    assert met(controller, sandbox.path, lan.connect) == lan.address
    assert controller.check() == []
    mac = endpoint.mac
    endpoint.delete()
    assert server.next("release").client == "192.0.2.100"
    assert server.lent == {}
    assert network.create_endpoint("web_1").mac == mac, "a container that starts again is known again"


def test_two_containers_have_two_addresses_and_one_may_be_asked_for(controller: Controller, server: DhcpServer) -> None:
    network = office(controller)
    a, b = network.create_endpoint("a"), network.create_endpoint("b", ip="192.0.2.105", mac="02:00:00:00:00:09")
    assert (a.address, b.address, b.mac) == ("192.0.2.100/24", "192.0.2.105/24", "02:00:00:00:00:09")
    hasty = office(controller, name="hasty", timeout=1)  # another server may offer it, until the time is over
    with pytest.raises(Conflict, match=r"offers 192\.0\.2\.101 and not 192\.0\.2\.77"):
        hasty.create_endpoint("c", ip="192.0.2.77")
    assert hasty.endpoints() == []


def test_without_a_server_it_fails_in_time_and_leaves_nothing(controller: Controller, lan: Lan) -> None:
    network = office(controller, timeout=1)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"^no DHCP server answered on eth0 within 1 s$"):
        network.create_endpoint("a")
    assert 1 <= time.monotonic() - begun < PATIENCE
    assert network.endpoints() == []


def test_a_server_that_denies_is_quoted(controller: Controller, server: DhcpServer) -> None:
    server.nak = True
    with pytest.raises(Conflict, match=r"^the DHCP server on eth0 does not give 192\.0\.2\.100: busy$"):
        office(controller).create_endpoint("a")


def test_an_address_that_is_taken_is_declined_and_another_one_asked_for(
    controller: Controller, lan: Lan, server: DhcpServer, probing: Callable[[float], None]
) -> None:
    probing(1.0)
    lan.rtnl.add_address(lan.rtnl.index("eth0"), "192.0.2.100", 32)
    endpoint = office(controller).create_endpoint("a")
    assert server.next("decline").requested == "192.0.2.100"
    assert endpoint.address == "192.0.2.101/24"


def test_a_server_that_has_nothing_but_taken_addresses_is_told_of(
    controller: Controller, lan: Lan, server: DhcpServer, probing: Callable[[float], None]
) -> None:
    probing(1.0)
    for address in POOL[:3]:
        lan.rtnl.add_address(lan.rtnl.index("eth0"), address, 32)
    network = office(controller)
    with pytest.raises(Conflict, match=r"hands out addresses that are taken: 192\.0\.2\.100 \(\w\w:.* has it\), "):
        network.create_endpoint("a")
    assert server.lent == {}
    assert network.endpoints() == []


def renewed(server: DhcpServer, endpoint: Endpoint) -> None:
    """Asks twice: what is asked the second time follows from what was saved the first."""
    before = endpoint.record.lease["expires"]
    for _ in range(2):
        while server.next("request").mac != endpoint.mac:
            pass
    assert float(endpoint.record.lease["expires"]) > float(before)


def test_a_lease_is_renewed_by_the_server_that_gave_it(
    start_controller: Callable[..., Controller], server: DhcpServer
) -> None:
    """Of an endpoint that is joined, of one that is not yet, and by the controller that comes after the one that asked."""
    server.options = as_tlv(RENEWAL_TIME, struct.pack("!I", 1))  # long before it may ask another server
    controller = start_controller()
    network = office(controller)
    a, b = network.create_endpoint("a"), network.create_endpoint("b")
    a.join(controller.create_sandbox("a"))
    for _ in (a, b):
        server.next("request")
    for _ in range(2):
        asked = server.next("request")
        assert (asked.source, asked.requested) == (asked.client, ""), "unicast, from the address itself"
        assert server.lent[asked.mac] == asked.client
    controller = start_controller()
    again = controller.network("office").endpoints()
    assert {endpoint.address for endpoint in again} == {"192.0.2.100/24", "192.0.2.101/24"}
    for endpoint in again:
        renewed(server, endpoint)
    assert controller.check() == []


def test_after_the_first_server_fell_silent_any_may_go_on(controller: Controller, server: DhcpServer) -> None:
    server.seconds = 60
    server.options = as_tlv(RENEWAL_TIME, struct.pack("!I", 1)) + as_tlv(REBINDING_TIME, struct.pack("!I", 3))
    endpoint = office(controller, timeout=3).create_endpoint("a")
    endpoint.join(controller.create_sandbox("a"))
    server.next("request")
    server.silent = {"request"}
    assert server.next("request").source == "192.0.2.100"
    while server.next("request").source != "192.0.2.100" or time.time() < float(endpoint.record.lease["rebind"]):
        pass
    server.silent = set()
    renewed(server, endpoint)


def test_a_lease_that_ended_meanwhile_is_asked_for_again(
    controller: Controller, lan: Lan, server: DhcpServer, probing: Callable[[float], None]
) -> None:
    """Nobody was there to renew it: pynetd was down for longer."""
    network = office(controller)
    endpoint = network.create_endpoint("a")
    endpoint.join(controller.create_sandbox("a"))
    lease = Lease(endpoint.address, "", endpoint.record.lease)
    later = DhcpIpam(controller.tools.wire, now=lambda: float(lease.data["expires"]) + 60)
    server.next("discover")
    renewed = later.renew(network.id, lease)
    assert server.next("discover").requested == "192.0.2.100"
    assert renewed.address == lease.address
    assert float(renewed.data["due"]) > float(lease.data["expires"])
    # somebody else has it now
    probing(1.0)
    lan.rtnl.add_address(lan.rtnl.index("eth0"), "192.0.2.100", 32)
    with pytest.raises(Conflict, match=r"hands out addresses that are taken: 192\.0\.2\.100"):
        later.renew(network.id, lease)


@dataclass
class Lapsing:
    """An endpoint whose server is about to let its lease end: what is seen of it, as it is saved."""

    controller: Controller
    endpoint: Endpoint
    seen: queue.Queue[EndpointRecord]

    def until(self, lapsed: bool) -> EndpointRecord:
        """The first record that says so."""
        while True:
            record = self.seen.get(timeout=20)
            if bool(record.lapsed) == lapsed:
                return record


@pytest.fixture
def lapsing(controller: Controller, server: DhcpServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lapsing]:
    """Asked for again every half second, and not every minute."""
    monkeypatch.setattr(renewal, "AGAIN", 0.5)
    server.seconds = 4
    endpoint = office(controller, timeout=1).create_endpoint("a")
    endpoint.join(controller.create_sandbox("a"))
    lapsing = Lapsing(controller, endpoint, queue.Queue())
    save = controller.registry.save

    def watched(*records: Record, forget: tuple[Record, ...] = ()) -> None:
        save(*records, forget=forget)
        for record in records:
            if isinstance(record, EndpointRecord):
                lapsing.seen.put(record)

    monkeypatch.setattr(controller.registry, "save", watched)
    yield lapsing
    controller.core.renewal.close()


def addresses_in(controller: Controller, endpoint: Endpoint) -> set[str]:
    with controller.tools.inside(controller.sandbox("a").path) as inside:
        index = inside.rtnl.index("eth0")
        return {f"{a.address}/{a.prefix}" for a in inside.rtnl.addresses(index) if ":" not in a.address}


@pytest.mark.parametrize("how", ["silent", "nak"])
def test_an_address_whose_lease_is_over_leaves_the_interface_and_comes_back_when_it_is_leased_again(
    lan: Lan, server: DhcpServer, lapsing: Lapsing, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    controller, endpoint = lapsing.controller, lapsing.endpoint
    sandbox = controller.sandbox("a")
    assert default_gateways(controller, sandbox.path) == {lan.address}
    server.nak = how == "nak"
    server.silent = {"request", "discover"} if how == "silent" else set()
    with caplog.at_level(logging.ERROR, "pynet.netlib"):
        assert lapsing.until(lapsed=True).lapsed == "192.0.2.100/24"
        with controller.turns.alone():
            assert (endpoint.address, endpoint.gateway, endpoint.record.addresses) == ("", "", ())
            assert addresses_in(controller, endpoint) == set()
            assert default_gateways(controller, sandbox.path) == set()
            assert [str(d) for d in controller.check()] == ["missing lease 192.0.2.100/24 of endpoint a"]
    why = "does not give 192.0.2.100: busy" if how == "nak" else "nobody renewed it in time"
    assert "the lease of 192.0.2.100 is over, and endpoint a has it no more: " in caplog.text and why in caplog.text
    server.nak, server.silent, server.seconds = False, set(), 3600
    while not lapsing.until(lapsed=False).gateway:
        pass
    with controller.turns.alone():
        assert endpoint.address == "192.0.2.100/24"
        assert default_gateways(controller, sandbox.path) == {lan.address}
        assert controller.check() == []
    assert met(controller, sandbox.path, lan.connect) == lan.address


def test_an_address_that_a_killed_process_left_on_the_interface_is_a_difference(
    start_controller: Callable[..., Controller], server: DhcpServer
) -> None:
    """The store is ahead: the lease has lapsed there, and nobody took the address away."""
    controller = start_controller()
    network = office(controller)
    endpoint = network.create_endpoint("a")
    endpoint.join(controller.create_sandbox("a"))
    server.silent = {"request", "discover"}
    record = endpoint.record
    controller.registry.save(replace(record, address="", lapsed=record.address, gateway=""))
    controller = start_controller()
    assert "missing link eth0 in " in "".join(map(str, controller.check()))
    controller.repair()
    assert addresses_in(controller, endpoint) == set()
    controller.sandbox("a").delete()
    controller.endpoint(endpoint.id).delete()
    assert list(server.lent.values()) == ["192.0.2.100"], "what is not ours is not given back"


def test_an_endpoint_without_its_lease_joins_without_an_address(controller: Controller, server: DhcpServer) -> None:
    endpoint = office(controller).create_endpoint("a")
    record = endpoint.record
    controller.registry.save(replace(record, address="", lapsed=record.address))
    endpoint.join(controller.create_sandbox("a"))
    assert (endpoint.gateway, addresses_in(controller, endpoint)) == ("", set())


def test_a_renewal_that_brings_another_prefix_or_router_is_followed(
    controller: Controller, lan: Lan, server: DhcpServer, lapsing: Lapsing
) -> None:
    lan.rtnl.add_address(lan.rtnl.index("eth0"), "192.0.2.3", 24)
    server.router, server.mask = "192.0.2.3", 25
    while lapsing.seen.get(timeout=20).gateway != "192.0.2.3":
        pass
    with controller.turns.alone():
        assert addresses_in(controller, lapsing.endpoint) == {"192.0.2.100/25"}
        assert default_gateways(controller, controller.sandbox("a").path) == {"192.0.2.3"}
        assert controller.check() == []


def test_a_server_that_hands_out_what_this_host_has_is_declined(
    controller: Controller, host: Host, server: DhcpServer
) -> None:
    """Who stands on the same interface does not hear the probes: the host itself, and our own containers."""
    network = office(controller)
    network.create_endpoint("a", ip="192.0.2.101").join(controller.create_sandbox("a"))
    server.lent.clear()
    host.rtnl.add_address(host.rtnl.index("eth0"), "192.0.2.100", 32)
    endpoint = network.create_endpoint("b")
    assert [server.next("decline").requested for _ in range(2)] == ["192.0.2.100", "192.0.2.101"]
    assert endpoint.address == "192.0.2.102/24"


def test_a_renewal_hears_the_server_that_gave_the_lease_alone(controller: Controller, server: DhcpServer) -> None:
    """Another one on the LAN may say no as loud as it likes, until any is asked (rebinding)."""
    server.options = as_tlv(58, (1).to_bytes(4, "big"))
    endpoint = office(controller).create_endpoint("a")
    before = endpoint.record.lease
    server.next("request")
    server.server, server.nak = "192.0.2.9", True
    for _ in range(2):  # said again, for nobody answered who was asked
        server.next("request")
    controller.core.renewal.close()
    assert endpoint.address == "192.0.2.100/24"
    assert endpoint.record.lease["expires"] == before["expires"]


def test_a_lease_of_a_second_is_renewed_before_it_ends(controller: Controller, server: DhcpServer) -> None:
    server.seconds = 1
    endpoint = office(controller).create_endpoint("a")
    lease = endpoint.record.lease
    assert float(lease["due"]) < float(lease["expires"])


def test_a_plan_leaves_no_lease(controller: Controller, server: DhcpServer) -> None:
    network = office(controller)
    controller.planned(network.create_endpoint, "a")
    assert server.next("release").client == "192.0.2.100"
    assert (network.endpoints(), server.lent) == ([], {})


def test_close_ends_the_renewal(start_controller: Callable[..., Controller], server: DhcpServer) -> None:
    server.seconds = 2
    office(start_controller()).create_endpoint("a")
    start_controller()
    assert [thread.name for thread in threading.enumerate()].count("pynet-renewal") == 1, "the second's"


def test_a_lease_without_an_end_is_not_renewed(controller: Controller, server: DhcpServer) -> None:
    server.seconds = 0xFFFFFFFF
    endpoint = office(controller).create_endpoint("a")
    assert "due" not in endpoint.record.lease
    assert "pynet-renewal" not in {thread.name for thread in threading.enumerate()}


def test_an_address_outside_the_networks_subnet_is_given_back(controller: Controller, server: DhcpServer) -> None:
    network = office(controller, subnet="10.9.0.0/24")
    with pytest.raises(Conflict, match=r"^the DHCP server gave 192\.0\.2\.100, which is not in 10\.9\.0\.0/24$"):
        network.create_endpoint("a")
    assert server.next("release").client == "192.0.2.100"


def test_the_host_reaches_a_container_with_a_lease(controller: Controller, host: Host, server: DhcpServer) -> None:
    network = controller.create_network(
        "office",
        driver="macvlan",
        ipam_driver="dhcp",
        ipam=[IpamConfig("192.0.2.0/24", aux={"host": "192.0.2.50"})],
        options={"parent": "eth0", "host_access": "true"},
    )
    endpoint, sandbox = network.create_endpoint("a"), controller.create_sandbox("a")
    endpoint.join(sandbox)
    assert met(controller, sandbox.path, host.connect) == "192.0.2.50"


def test_the_parent_is_left_as_it_was_found(controller: Controller, host: Host, server: DhcpServer) -> None:
    before = host.rtnl.link("eth0")
    office(controller).create_endpoint("a").delete()
    assert host.rtnl.link("eth0") == before, "not promiscuous, and nothing else"


def test_a_parent_that_goes_fails_the_lease_and_frees_what_there_was(
    controller: Controller, host: Host, server: DhcpServer
) -> None:
    network = office(controller)
    endpoint = network.create_endpoint("a")
    host.rtnl.set_link(host.rtnl.index("eth0"), up=False)
    with pytest.raises(PynetError, match=r"can not lease an address for b: .*Network is down"):
        network.create_endpoint("b")
    endpoint.delete()
    assert network.endpoints() == []


def without(code: int) -> Callable[[bytes], bytes]:
    """Answers without an option that a client can not do without."""

    def mangle(message: bytes) -> bytes:
        at = 240
        while message[at] != code:
            at += 2 + message[at + 1]
        return message[:at] + message[at + 2 + message[at + 1] :]

    return mangle


MANGLED: dict[str, Callable[[bytes], bytes]] = {
    "short": lambda message: message[:200],
    "cookie": lambda message: message[:236] + b"BOOT" + message[240:],
    "cut off": lambda message: message[:240] + bytes([53, 200, 2]),
    "xid": lambda message: message[:4] + bytes(4) + message[8:],
    "mac": lambda message: message[:28] + bytes(6) + message[34:],
    "multicast": lambda message: message[:16] + bytes([224, 0, 0, 1]) + message[20:],
    "broadcast": lambda message: message[:16] + bytes([192, 0, 2, 255]) + message[20:],
    "request": lambda message: b"\x01" + message[1:],
    "empty": lambda message: b"",
    "mask": without(1),
    "time": without(51),
    "server": without(54),
}


@pytest.mark.parametrize("mangle", MANGLED.values(), ids=MANGLED)
def test_an_answer_that_makes_no_sense_is_passed_over(
    controller: Controller, server: DhcpServer, mangle: Callable[[bytes], bytes]
) -> None:
    """It offers another address, and comes first."""
    other = socket.inet_aton("192.0.2.66")
    server.ahead = lambda message: mangle(message[:16] + other + message[20:])
    assert office(controller).create_endpoint("a").address == "192.0.2.100/24"


def test_a_server_whose_answers_make_no_sense_is_none(controller: Controller, server: DhcpServer) -> None:
    server.mangle = MANGLED["xid"]
    network = office(controller, timeout=1)
    with pytest.raises(Unavailable, match="no DHCP server answered"):
        network.create_endpoint("a")
    assert network.endpoints() == []
    server.mangle = bytes
    assert network.create_endpoint("a").address == "192.0.2.100/24"


def test_a_router_outside_the_subnet_is_no_gateway(controller: Controller, server: DhcpServer) -> None:
    server.router = "10.0.0.1"
    endpoint, sandbox = office(controller).create_endpoint("a"), controller.create_sandbox("a")
    endpoint.join(sandbox)
    assert endpoint.gateway == ""
    assert default_gateways(controller, sandbox.path) == set()


UDHCPD = """\
start 192.0.2.150
end 192.0.2.160
interface eth0
lease_file {directory}/leases
pidfile {directory}/pid
option subnet 255.255.255.0
option router 192.0.2.2
option lease 600
"""


def test_busyboxs_server_gives_addresses_too(controller: Controller, lan: Lan, tmp_path: Path) -> None:
    """udhcpd, which nobody here wrote; it probes what it gives by ARP itself."""
    busybox = shutil.which("busybox")
    if busybox is None or "udhcpd" not in subprocess.run([busybox], capture_output=True, text=True, check=False).stdout:
        pytest.skip("busybox has no udhcpd here")
    (tmp_path / "leases").touch()
    (tmp_path / "udhcpd.conf").write_text(UDHCPD.format(directory=tmp_path))
    server = lan.popen([busybox, "udhcpd", "-f", "-a", "100", str(tmp_path / "udhcpd.conf")], stderr=subprocess.PIPE)
    assert server.stderr is not None
    server.stderr.readline()  # "started"
    network = office(controller)
    a = network.create_endpoint("a")
    assert a.address.startswith("192.0.2.15") or a.address == "192.0.2.160/24"
    wanted = "192.0.2.155" if a.record.ip != "192.0.2.155" else "192.0.2.156"  # it gives any of the eleven
    b = network.create_endpoint("b", ip=wanted)
    assert b.address == f"{wanted}/24"
    lease = a.record.lease
    assert 590 < float(lease["expires"]) - time.time() <= 600
    assert lease["com.docker.network.gateway"] == "192.0.2.2"
    a.join(controller.create_sandbox("a"))
    again = controller.core.addressing.driver("dhcp")
    assert isinstance(again, Renewing)
    renewed = again.renew(network.id, Lease(a.record.address, "", lease))
    assert float(renewed.data["expires"]) > float(lease["expires"])
    address = a.address
    a.delete()
    assert network.create_endpoint("a").address == address


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"driver": "bridge"}, "the IPAM driver dhcp needs a network on the wire of an interface"),
        ({"options": {}}, "the IPAM driver dhcp needs a network on the wire of an interface"),
        ({"ipv6": True}, "the IPAM driver dhcp gives IPv4 addresses alone"),
        ({"ipam": [IpamConfig("192.0.2.0/24", ip_range="192.0.2.0/25")]}, "the server chooses the addresses"),
        ({"options": {"parent": "eth0", "host_access": "1"}}, "host_access needs an address of the host's"),
        ({"ipam_options": {"timeout": "0"}}, "invalid value '0' for option timeout: not between 1 and 120 seconds"),
        ({"ipam_options": {"timeot": "1"}}, "unknown option timeot for the IPAM driver dhcp"),
    ],
)
def test_what_makes_no_sense_is_refused(controller: Controller, lan: Lan, asked: dict[str, object], text: str) -> None:
    arguments = {"driver": "macvlan", "ipam_driver": "dhcp", "options": {"parent": "eth0"}, **asked}
    if asked.get("driver") == "bridge":
        del arguments["options"]
    with pytest.raises(InvalidArgument, match=text):
        controller.create_network("x", **arguments)  # type: ignore[arg-type]
    assert controller.networks() == []


def test_a_wire_of_an_interface_that_is_not_there(controller: Controller) -> None:
    with pytest.raises(OSError, match="No such device: 'eth7'"):
        controller.tools.wire("eth7", "02:00:00:00:00:01")
