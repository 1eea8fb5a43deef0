"""Address spaces: overlap, default subnets, what is avoided, and opening a pool as a whole."""

from __future__ import annotations

import netaddr
import pytest

from pynet.ipam.defaults import DefaultPool, default_pools, unique_local
from pynet.ipam.errors import (
    AuxiliaryAddressOutside,
    InvalidAddress,
    InvalidPool,
    InvalidSubPool,
    NoAvailableAddresses,
    NoMoreSubnets,
    PoolOverlap,
    ReservationFailed,
)
from pynet.ipam.request import PoolRequest
from pynet.ipam.space import AddressSpace
from pynet.netlib.errors import PynetError


def small(*blocks: tuple[str, int]) -> AddressSpace:
    return AddressSpace(pools=[DefaultPool.parse(base, size) for base, size in blocks])


def test_the_first_networks_look_familiar_and_there_are_at_least_a_thousand() -> None:
    space = AddressSpace()
    subnets = [str(space.request_pool().subnet) for _ in range(1000)]
    assert subnets[:5] == ["172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16", "172.20.0.0/24", "172.20.1.0/24"]
    assert len(netaddr.IPSet(subnets)) == 3 * 2**16 + 997 * 2**8, "no two overlap"
    private = netaddr.IPSet(["172.16.0.0/12", "192.168.0.0/16"])
    assert netaddr.IPSet(subnets).issubset(private)


def test_all_default_pools_can_be_used_up() -> None:
    space = small(("10.8.0.0/22", 24), ("10.9.0.0/24", 24))
    taken = [space.request_pool() for _ in range(5)]
    with pytest.raises(NoMoreSubnets, match=r"^all predefined address pools have been fully subnetted$") as caught:
        space.request_pool()
    assert caught.value.status == 400
    space.release_pool(taken[2])
    assert str(space.request_pool().subnet) == "10.8.2.0/24"
    assert sum(default.count for default in default_pools("x") if default.base.version == 4) == 3331


def test_the_lowest_free_default_comes_first() -> None:
    space = small(("10.8.0.0/16", 24))
    pools = [space.request_pool() for _ in range(20)]
    for index in (7, 3):
        space.release_pool(pools[index])
    assert [str(space.request_pool().subnet) for _ in range(3)] == ["10.8.3.0/24", "10.8.7.0/24", "10.8.20.0/24"]


@pytest.mark.parametrize(
    ("avoid", "first"),
    [
        ((), "10.8.0.0/24"),
        (("10.8.0.0/24",), "10.8.1.0/24"),
        (("10.8.0.0/32",), "10.8.1.0/24"),
        (("10.8.0.200",), "10.8.1.0/24"),
        (("10.8.0.255",), "10.8.1.0/24"),
        (("10.8.1.0/24", "10.8.0.77/32"), "10.8.2.0/24"),
        (("10.8.0.0/23", "10.8.0.0/22"), "10.8.4.0/24"),
        (("10.8.0.9/22",), "10.8.4.0/24"),
        (("0.0.0.0/0", "::/0"), "10.8.0.0/24"),
        (("fd00::/8", "fe80::1%eth0"), "10.8.0.0/24"),
    ],
)
def test_defaults_avoid_what_the_host_uses(avoid: tuple[str, ...], first: str) -> None:
    space = small(("10.8.0.0/16", 24))
    assert str(space.request_pool(avoid=avoid).subnet) == first
    space = AddressSpace(
        [netaddr.IPNetwork(block.partition("%")[0]) for block in avoid if not block.endswith("/0")],
        pools=[DefaultPool.parse("10.8.0.0/16", 24)],
    )
    assert str(space.request_pool().subnet) == first


def test_what_was_avoided_once_is_not_lost() -> None:
    space = small(("10.8.0.0/22", 24))
    assert str(space.request_pool(avoid=["10.8.0.0/23"]).subnet) == "10.8.2.0/24"
    assert str(space.request_pool().subnet) == "10.8.0.0/24"


def test_everything_avoided_leaves_nothing() -> None:
    with pytest.raises(NoMoreSubnets):
        AddressSpace().request_pool(avoid=["172.16.0.0/12", "192.168.0.0/16"])


def test_junk_to_avoid_is_named() -> None:
    for junk in ("dns.example", "10.0.0.0/33"):
        with pytest.raises(InvalidAddress, match=junk):
            AddressSpace().request_pool(avoid=[junk])


def test_an_explicit_subnet_does_not_care_about_routes() -> None:
    space = AddressSpace([netaddr.IPNetwork("10.0.0.0/8")])
    assert str(space.request_pool("10.1.0.0/24", avoid=["10.1.0.0/16"]).subnet) == "10.1.0.0/24"


@pytest.mark.parametrize("second", ["10.1.0.0/24", "10.1.0.128/25", "10.0.0.0/8", "10.1.0.255/32", "10.1.0.0/23"])
def test_overlapping_subnets_are_refused(second: str) -> None:
    space = AddressSpace()
    held = space.request_pool("10.1.0.0/24")
    space.request_pool("10.3.0.0/16")
    text = "^invalid pool request: Pool overlaps with other one on this address space$"
    with pytest.raises(PoolOverlap, match=text) as caught:
        space.request_pool(second)
    assert caught.value.status == 403
    assert caught.value.holder in {"10.1.0.0/24", "10.3.0.0/16"}
    if second != "10.0.0.0/8":
        space.release_pool(held)
        assert str(space.request_pool(second).subnet) == second


def test_neighbours_and_the_other_family_do_not_overlap() -> None:
    space = AddressSpace()
    for subnet in ("10.1.0.0/24", "10.0.255.0/24", "10.1.1.0/24", "::a01:0/120", "fd00::/64", "fd00:0:0:1::/64"):
        space.request_pool(subnet)
    assert len(space.pools) == 6


def test_defaults_go_round_explicit_subnets() -> None:
    space = small(("10.8.0.0/16", 24))
    space.request_pool("10.8.0.64/26")
    space.request_pool("10.8.2.0/23")
    assert [str(space.request_pool().subnet) for _ in range(2)] == ["10.8.1.0/24", "10.8.4.0/24"]


def test_a_released_pool_wider_than_the_defaults_leaves_only_those() -> None:
    space = small(("10.8.4.0/23", 24))
    wide = space.request_pool("10.8.0.0/16")
    with pytest.raises(NoMoreSubnets):
        space.request_pool()
    space.release_pool(wide)
    assert [str(space.request_pool().subnet) for _ in range(2)] == ["10.8.4.0/24", "10.8.5.0/24"]


def test_releasing_is_idempotent_and_knows_its_pools() -> None:
    space = AddressSpace()
    old = space.request_pool("10.1.0.0/24")
    space.release_pool(old)
    new = space.request_pool("10.1.0.0/24")
    space.release_pool(old)
    assert space.pools == (new,)


@pytest.mark.parametrize(
    "subnet",
    ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10/8", "10.0.0.0/255.0.0.0", "10.0.0.0/08", "10.0.0.0/+8", "x/8", "/8",
     "fd00::/129", "fd00::%eth0/64", "10.0.0.0/8/8", "10.0.0.0/٨"],
)  # fmt: skip
def test_malformed_subnets_are_refused(subnet: str) -> None:
    with pytest.raises(InvalidPool, match=r"^invalid pool request: invalid address pool: ") as caught:
        AddressSpace().request_pool(subnet)
    assert caught.value.status == 400


def test_host_bits_are_refused_and_the_right_subnet_named() -> None:
    with pytest.raises(InvalidPool, match=r"10\.0\.0\.1/24: it should be 10\.0\.0\.0/24"):
        AddressSpace().request_pool("10.0.0.1/24")
    with pytest.raises(InvalidPool):
        AddressSpace().request_pool("0.0.0.0/0")


@pytest.mark.parametrize("ip_range", ["10.2.0.0/24", "10.1.0.0/16", "10.1.0.1/25", "fd00::/64", "10.1.0.0", "x"])
def test_ranges_that_do_not_fit_are_refused(ip_range: str) -> None:
    space = AddressSpace()
    with pytest.raises(InvalidSubPool):
        space.request_pool("10.1.0.0/24", ip_range=ip_range)
    assert space.pools == ()


def test_a_range_needs_a_subnet() -> None:
    with pytest.raises(InvalidSubPool):
        AddressSpace().request_pool(ip_range="10.1.0.0/24")


def test_ipv6_defaults_are_slash_64s_of_the_instance() -> None:
    space = AddressSpace(instance="one")
    pools = [space.request_pool(version=6) for _ in range(1000)]
    prefix = netaddr.IPNetwork(str(unique_local("one").base))
    assert prefix.prefixlen == 48 and prefix in netaddr.IPNetwork("fd00::/8")
    assert all(pool.subnet.prefixlen == 64 and pool.subnet in prefix for pool in pools)
    assert len({str(pool.subnet) for pool in pools}) == 1000
    assert unique_local("one") == unique_local("one") != unique_local("two")


def test_a_size_alone_takes_that_much_from_the_tightest_default() -> None:
    space = AddressSpace(instance="x")
    assert str(space.request_pool("0.0.0.0/26").subnet) == "172.20.0.0/26"
    assert str(space.request_pool().subnet) == "172.17.0.0/16"
    assert str(space.request_pool("0.0.0.0/20").subnet) == "172.18.0.0/20"
    assert str(space.request_pool("0.0.0.0/15").subnet) == "172.22.0.0/15"
    assert space.request_pool("::/96").subnet.prefixlen == 96
    with pytest.raises(NoMoreSubnets):
        space.request_pool("0.0.0.0/8")


@pytest.mark.parametrize(("base", "size"), [("10.0.0.0/16", 8), ("10.0.0.0/16", 33), ("10.0.0.1/16", 24), ("x", 24)])
def test_default_pools_must_make_sense(base: str, size: int) -> None:
    with pytest.raises(InvalidPool):
        DefaultPool.parse(base, size)


def test_opening_sets_gateway_and_auxiliary_addresses_aside() -> None:
    space = AddressSpace()
    aux = (("router", "10.1.0.1"), ("printer", "10.1.0.70"))
    pool, opened = space.open(PoolRequest(4, "10.1.0.0/24", "10.1.0.64/29", None, aux))
    assert opened.gateway == "10.1.0.2"
    leased = {pool.allocate() for _ in range(7)}
    assert leased == {f"10.1.0.{n}" for n in range(64, 72)} - {"10.1.0.70"}
    assert (pool.used, pool.free) == (10, 0)
    assert str(space.open(PoolRequest(6))[1].gateway).endswith("::1")
    assert space.open(PoolRequest(4, "10.2.0.0/24", gateway="10.2.0.254"))[1].gateway == "10.2.0.254"


def test_a_pool_without_a_gateway_gives_its_address_away() -> None:
    pool, opened = AddressSpace().open(PoolRequest(4, "10.1.0.0/24", has_gateway=False))
    assert (opened.gateway, pool.allocate()) == ("", "10.1.0.1")


def test_an_auxiliary_address_can_be_left_to_be_chosen() -> None:
    aux = (("host", ""), ("printer", "10.1.0.2"))
    pool, opened = AddressSpace().open(PoolRequest(4, "10.1.0.0/29", auxiliary=aux, has_gateway=False))
    assert opened.auxiliary == (("host", "10.1.0.1"), ("printer", "10.1.0.2"))
    assert [pool.allocate() for _ in range(4)] == [f"10.1.0.{n}" for n in range(3, 7)]
    space = AddressSpace()
    with pytest.raises(NoAvailableAddresses):
        space.open(PoolRequest(4, "10.1.0.0/32", auxiliary=(("a", ""), ("b", "")), has_gateway=False))
    assert space.pools == (), "nothing is left of one that can not be opened"


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (
            PoolRequest(4, "10.1.0.0/24", auxiliary=(("k", "10.2.0.1"),)),
            AuxiliaryAddressOutside,
            "auxiliary address: (k:10.2.0.1) must belong to the master pool: 10.1.0.0/24",
        ),
        (
            PoolRequest(4, "10.1.0.0/24", gateway="10.1.0.9", auxiliary=(("k", "10.1.0.9"),)),
            ReservationFailed,
            "failed to allocate secondary ip address (k:10.1.0.9): Address already in use",
        ),
        (
            PoolRequest(4, "10.1.0.0/24", gateway="10.1.0.255"),
            ReservationFailed,
            "failed to allocate gateway (10.1.0.255): Address already in use",
        ),
        (
            PoolRequest(4, "10.1.0.0/24", gateway="10.9.0.1"),
            ReservationFailed,
            "failed to allocate gateway (10.9.0.1): requested address is out of range",
        ),
        (
            PoolRequest(4, "10.1.0.0/32", auxiliary=(("k", "10.1.0.0"),)),
            ReservationFailed,
            "failed to allocate gateway (10.1.0.0/32): no available addresses on this pool",
        ),
    ],
)
def test_a_pool_that_can_not_be_opened_leaves_nothing(
    request_: PoolRequest, error: type[PynetError], text: str
) -> None:
    space = AddressSpace()
    with pytest.raises(error) as caught:
        space.open(request_)
    assert str(caught.value) == text
    assert space.pools == ()
    space.request_pool("10.1.0.0/24")
