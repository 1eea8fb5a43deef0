"""Pools: which addresses are leased, in which order, and what is refused."""

from __future__ import annotations

import inspect
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pynet.ipam.driver import SERIAL, DefaultIpam, Wanted
from pynet.ipam.errors import AddressInUse, AddressOutOfRange, InvalidAddress, NoAvailableAddresses
from pynet.ipam.leases import CHUNK, Bitmap, Sparse, leases_for
from pynet.ipam.pool import Pool
from pynet.ipam.prefix import format_address, parse_address, parse_loose
from pynet.ipam.request import PoolRequest
from pynet.ipam.space import AddressSpace


def pool(subnet: str, ip_range: str | None = None) -> Pool:
    return Pool(parse_loose(subnet)[0], parse_loose(ip_range)[0] if ip_range else None)


def drain(p: Pool) -> list[str]:
    """Lease until the pool is full."""
    got: list[str] = []
    with pytest.raises(NoAvailableAddresses) as full:
        while True:
            got.append(p.allocate())
    assert full.value.status == 503, "Docker's"
    return got


@pytest.mark.parametrize(
    ("subnet", "leasable"),
    [
        ("10.0.0.0/29", [f"10.0.0.{n}" for n in range(1, 7)]),
        ("10.0.0.8/30", ["10.0.0.9", "10.0.0.10"]),
        ("10.0.0.2/31", ["10.0.0.2", "10.0.0.3"]),
        ("10.0.0.5/32", ["10.0.0.5"]),
        ("255.255.255.252/30", ["255.255.255.253", "255.255.255.254"]),
        ("fd00::/126", ["fd00::1", "fd00::2", "fd00::3"]),
        ("fd00::2/127", ["fd00::2", "fd00::3"]),
        ("fd00::7/128", ["fd00::7"]),
    ],
)
def test_every_usable_address_is_leased_once_and_no_reserved_one(subnet: str, leasable: list[str]) -> None:
    p = pool(subnet)
    assert (p.capacity, p.free, p.used) == (len(leasable), len(leasable), 0)
    assert p.gateway_candidate() == leasable[0]
    assert drain(p) == leasable
    assert (p.free, p.used) == (0, len(leasable))


@pytest.mark.parametrize("reserved", ["10.0.0.0", "10.0.0.255"])
def test_reserved_addresses_of_ipv4_are_in_use(reserved: str) -> None:
    with pytest.raises(AddressInUse, match=r"^Address already in use$") as caught:
        pool("10.0.0.0/24").allocate(reserved)
    assert caught.value.status == 403
    assert caught.value.reserved


def test_ipv6_reserves_the_router_anycast_address_only() -> None:
    p = pool("fd00::/64")
    with pytest.raises(AddressInUse):
        p.allocate("fd00::")
    assert p.allocate("fd00::ffff:ffff:ffff:ffff") == "fd00::ffff:ffff:ffff:ffff"
    assert p.allocate() == "fd00::1"
    assert p.free == 2**64 - 3


def test_a_freed_address_rests_until_the_lap_is_over() -> None:
    p = pool("10.0.0.0/29")
    first = p.allocate()
    p.release(first)
    assert [p.allocate() for _ in range(6)] == [f"10.0.0.{n}" for n in (2, 3, 4, 5, 6, 1)]


def test_an_explicit_address_does_not_move_the_order() -> None:
    p = pool("10.0.0.0/24")
    assert p.allocate("10.0.0.200") == "10.0.0.200"
    assert p.allocate() == "10.0.0.1"


def test_taken_twice_is_refused_and_released_twice_is_not() -> None:
    p = pool("10.0.0.0/24")
    p.allocate("10.0.0.9")
    for again in (p.allocate, p.reserve):
        with pytest.raises(AddressInUse, match=r"^Address already in use$"):
            again("10.0.0.9")
    p.release("10.0.0.9")
    p.release("10.0.0.9")
    p.release("10.0.0.77")
    p.release("192.0.2.1")
    assert (p.used, p.free) == (0, 254)
    assert p.reserve("10.0.0.9") == "10.0.0.9"


@pytest.mark.parametrize("outside", ["10.0.1.1", "9.255.255.255", "fd00::1", "0.0.0.0"])
def test_an_address_of_another_subnet_is_out_of_range(outside: str) -> None:
    with pytest.raises(AddressOutOfRange, match=r"^requested address is out of range$") as caught:
        pool("10.0.0.0/24").allocate(outside)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "junk", ["", "x", "10.0.0", "10.0.0.01", "10.0.0.256", "10.0.0.1/24", "fe80::1%eth0", "1", "\0"]
)
def test_junk_is_no_address(junk: str) -> None:
    p = pool("10.0.0.0/24")
    for verb in (p.allocate, p.reserve, p.release, p.resume_after):
        with pytest.raises(InvalidAddress):
            verb(junk)


def test_a_range_confines_the_choice_and_nothing_else() -> None:
    p = pool("10.0.0.0/24", "10.0.0.64/30")
    assert str(p.ip_range) == "10.0.0.64/30"
    assert p.gateway_candidate() == "10.0.0.1"
    assert p.reserve("10.0.0.1") == "10.0.0.1"
    assert p.allocate("10.0.0.65") == "10.0.0.65"
    assert drain(p) == ["10.0.0.64", "10.0.0.66", "10.0.0.67"]
    assert p.allocate("10.0.0.200") == "10.0.0.200"
    with pytest.raises(AddressInUse):
        p.allocate("10.0.0.200")
    with pytest.raises(AddressInUse):
        p.allocate("10.0.0.255")
    assert (p.used, p.free, p.capacity) == (6, 0, 254)
    p.release("10.0.0.200")
    p.release("10.0.0.66")
    assert (p.used, p.free) == (4, 1)
    assert p.allocate() == "10.0.0.66"


def test_a_range_at_the_edge_leaves_the_reserved_addresses_out() -> None:
    assert drain(pool("10.0.0.0/24", "10.0.0.0/30")) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert drain(pool("10.0.0.0/24", "10.0.0.252/30")) == ["10.0.0.252", "10.0.0.253", "10.0.0.254"]
    assert drain(pool("10.0.0.0/24", "10.0.0.255/32")) == []


def test_a_small_range_of_a_vast_subnet_is_used_to_the_last_address() -> None:
    p = pool("fd00::/64", "fd00::1:0/120")
    assert len(drain(p)) == 256
    assert p.reserve("fd00::2:0") == "fd00::2:0"


def test_the_gateway_is_the_first_address_that_is_not_taken() -> None:
    p = pool("10.0.0.0/24", "10.0.0.0/30")
    for taken in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"):
        p.reserve(taken)
    assert p.gateway_candidate() == "10.0.0.5"
    full = pool("10.0.0.0/30")
    drain(full)
    with pytest.raises(NoAvailableAddresses, match=r"^no available addresses on this pool$"):
        full.gateway_candidate()


def test_a_pool_is_restored_from_its_leases() -> None:
    before = pool("10.0.0.0/24")
    leased = [before.allocate() for _ in range(5)]
    before.release(leased[1])
    after = pool("10.0.0.0/24")
    for address in leased[:1] + leased[2:]:
        after.reserve(address)
    after.resume_after(leased[-1])
    after.resume_after("192.0.2.1")
    assert after.used == before.used
    assert after.allocate() == before.allocate() == "10.0.0.6"


def test_after_the_last_address_the_choice_wraps() -> None:
    p = pool("10.0.0.0/29")
    p.resume_after("10.0.0.6")
    assert p.allocate() == "10.0.0.1"


def test_leased_addresses_can_be_asked_for() -> None:
    p = pool("10.0.0.0/24", "10.0.0.64/30")
    p.reserve("10.0.0.1")
    p.reserve("10.0.0.65")
    leased = ("10.0.0.1", "10.0.0.65", "10.0.0.66", "10.0.0.2", "192.0.2.1")
    assert [address in p for address in leased] == [True, True, False, False, False]


def test_an_untouched_slash_8_costs_nothing_and_a_full_chunk_is_skipped() -> None:
    leases = Bitmap(2**24)
    assert sum(map(len, leases._chunks.values())) == 0
    for number in range(CHUNK):
        assert leases.take(number)
    assert leases.next_free(0) == CHUNK
    assert len(leases._chunks) == 1
    for number in range(CHUNK):
        assert leases.free(number)
    assert not leases._chunks and not leases._full and leases.used == 0


def test_the_representation_follows_the_size() -> None:
    assert isinstance(leases_for(2**32, 4), Bitmap)
    assert isinstance(leases_for(2**24, 6), Bitmap)
    assert isinstance(leases_for(2**24 + 1, 6), Sparse)


def lines_run(p: Pool) -> int:
    """Lines of Python that one allocation executes in our modules: a collection of garbage may call others' meanwhile."""
    lines = 0
    ours = str(Path(inspect.getfile(Pool)).parent)

    def trace(frame: FrameType, event: str, argument: object) -> object:
        nonlocal lines
        lines += event == "line" and frame.f_code.co_filename.startswith(ours)
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        p.allocate()
    finally:
        sys.settrace(outer)
    return lines


@pytest.mark.parametrize("subnet", ["10.0.0.0/8", "fd00::/64"])
def test_an_allocation_costs_the_same_whatever_is_leased(subnet: str) -> None:
    """C-level work is bounded by two chunks; what could grow are loops in Python, and their lines are counted here."""
    p = pool(subnet)
    for _ in range(10):
        p.allocate()
    few = lines_run(p)
    for _ in range(200_000):
        p.allocate()
    assert lines_run(p) == few


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("10.0.0.1", "10.0.0.1"), ("FD00:0:0::A", "fd00::a"), ("::", "::"), ("::ffff:10.0.0.1", "::ffff:10.0.0.1")],
)
def test_addresses_have_one_canonical_text(text: str, canonical: str) -> None:
    assert format_address(*parse_address(text)) == canonical


def test_threads_never_share_an_address() -> None:
    p = pool("10.0.0.0/21")
    got: list[str] = []

    def work() -> None:
        for _ in range(500):
            address = p.allocate()
            p.release(address)
            got.append(p.allocate())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == len(got) == p.used == 2000


@pytest.mark.parametrize(
    ("options", "released", "restarted"),
    [
        ({}, ["10.0.0.5/24", "10.0.0.6/24"], "10.0.0.7/24"),
        ({SERIAL: "true"}, ["10.0.0.5/24", "10.0.0.6/24"], "10.0.0.7/24"),
        ({SERIAL: "false"}, ["10.0.0.3/24", "10.0.0.5/24"], "10.0.0.6/24"),
    ],
)
def test_a_freed_address_rests_unless_the_lowest_is_asked_for(
    options: dict[str, str], released: list[str], restarted: str
) -> None:
    driver = DefaultIpam(AddressSpace())
    pools = driver.open("n", [PoolRequest(subnet="10.0.0.0/24")], lambda version: (), options)
    first, second, third = (driver.lease("n", Wanted(owner)) for owner in "abc")
    assert [one.address for one in (first, second, third)] == ["10.0.0.2/24", "10.0.0.3/24", "10.0.0.4/24"]
    driver.release("n", second)
    again = [driver.lease("n", Wanted(owner)) for owner in "de"]
    assert [one.address for one in again] == released

    later = DefaultIpam(AddressSpace())
    later.restore("n", pools, [first, third, *again], again[-1].addresses, options)
    assert later.lease("n", Wanted("f")).address == restarted


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({"shared_wire": True}, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]),
        ({"shared_wire": True, "auxiliary": (("host", ""),)}, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]),
        ({"shared_wire": True, "gateway": "10.0.0.6"}, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]),
        ({"shared_wire": True, "ip_range": "10.0.0.0/29"}, [f"10.0.0.{n}" for n in range(1, 7)]),
        ({"shared_wire": True, "subnet": "10.0.0.0/31"}, ["10.0.0.0", "10.0.0.1"]),
        ({}, [f"10.0.0.{n}" for n in range(1, 7)]),
    ],
)
def test_the_routers_customary_address_is_chosen_for_nobody_on_a_wire_with_others(
    changes: dict[str, Any], chosen: list[str]
) -> None:
    request = replace(PoolRequest(subnet="10.0.0.0/29", has_gateway=False), **changes)
    p, _ = AddressSpace().open(request)
    assert p.free == len(chosen)
    assert drain(p) == chosen
    assert p.free == 0
    p.release(chosen[0])
    assert drain(p) == chosen[:1], "however often the choice has gone round"
    if "10.0.0.1" not in chosen and "gateway" not in changes:
        assert p.allocate("10.0.0.1") == "10.0.0.1", "who asks for it by value gets it"
    p.serial = False
    p.release(chosen[-1])
    assert drain(p) == chosen[-1:]
