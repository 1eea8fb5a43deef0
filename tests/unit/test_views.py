"""What a sandbox may resolve, from its records."""

from __future__ import annotations

import pytest

from pynet.netlib.decisions import decide_naming
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.model import EndpointRecord, Member, Naming, NetworkRecord, Room, SandboxRecord
from pynet.netlib.naming import Names, View
from pynet.netlib.views import names_of, view_of


def member(
    network: str,
    *,
    internal: bool = False,
    address: str = "",
    address6: str = "",
    priority: int = 0,
    joined: bool = True,
) -> Member:
    return Member(
        EndpointRecord(
            f"e-{network}",
            "box",
            f"n-{network}",
            address=address,
            address6=address6,
            gw_priority=priority,
            ifname="eth0" if joined else "",
        ),
        NetworkRecord(f"n-{network}", network, "bridge", 0.0, internal=internal),
    )


def room(*members: Member, gateway: str = "") -> Room:
    return Room(SandboxRecord("s", "/run/s", gateway=gateway), members)


def networks(*members: Member, gateway: str = "") -> tuple[str, ...]:
    return view_of(room(*members, gateway=gateway), Naming()).networks


def test_the_network_of_the_default_route_is_asked_first() -> None:
    a, b, c = member("a"), member("b", internal=True), member("c", priority=5)
    assert networks(a, b, c, gateway="e-a") == ("n-a", "n-c", "n-b")
    assert networks(c, b, a) == ("n-c", "n-a", "n-b")


def test_who_is_on_internal_networks_alone_or_on_none_may_ask_nobody_outside() -> None:
    inner, outer = member("inner", internal=True), member("outer")
    assert not view_of(room(), Naming()).outside
    assert not view_of(room(inner), Naming()).outside
    assert view_of(room(inner, outer), Naming()).outside


def test_its_own_names_mean_its_addresses_unless_its_user_said_otherwise() -> None:
    naming = Naming(
        own=("box", "box.corp", "db"), hosts=(("db", "192.0.2.1"), ("db", "192.0.2.2"), ("db", "192.0.2.1"))
    )
    dual = member("a", address="10.1.0.2/24", address6="fd00::2/64")
    assert dict(view_of(room(dual), naming).hosts) == {
        "db": ("192.0.2.1", "192.0.2.2"),
        "box": ("10.1.0.2", "fd00::2"),
        "box.corp": ("10.1.0.2", "fd00::2"),
    }
    assert dict(view_of(room(), naming).hosts) == {"db": ("192.0.2.1", "192.0.2.2")}


def test_an_endpoint_without_an_interface_has_no_names() -> None:
    assert names_of(room(member("host", joined=False))) == ()
    assert view_of(room(member("host", joined=False)), Naming()) == View("s", outside=False)
    (names,) = names_of(room(member("a", address="10.1.0.2/24")))
    assert names == Names("e-a", "n-a", "a", ("box",), ("10.1.0.2",))


def test_records_of_an_older_pynet_say_nothing_of_names() -> None:
    sandbox = SandboxRecord.from_body({"id": "s", "path": "/run/s"})
    assert sandbox.naming is None
    named = SandboxRecord("s", "/run/s", naming=Naming(("a",), (("db", "192.0.2.1"),), ("192.0.2.53",), ("corp",), 1))
    assert SandboxRecord.from_body(named.to_body()) == named
    endpoint = EndpointRecord("e", "web", "n", aliases=("www", "web"), other_names=("0123", "www"))
    assert EndpointRecord.from_body(endpoint.to_body()) == endpoint
    assert endpoint.names == ("web", "www", "0123")
    assert EndpointRecord.from_body({"id": "e", "name": "web", "network": "n"}).names == ("web",)


@pytest.mark.parametrize(
    ("naming", "text"),
    [
        (Naming(hosts=(("db", "here"),)), "'here' is not an IP address"),
        (Naming(servers=("dns.example",)), "'dns.example' is not an IP address"),
        (Naming(own=(".",)), "the name of a host is empty"),
        (Naming(ndots=-1), "ndots can not be -1"),
    ],
)
def test_what_makes_no_sense_is_refused(naming: Naming, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        decide_naming(naming)
