"""Address management against a model: whatever is asked in whatever order, the pool behaves as a plain set would."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from pynet.ipam.errors import AddressInUse, AddressOutOfRange, InvalidNetworkConfig, NoAvailableAddresses, PoolOverlap
from pynet.ipam.leases import CHUNK, Bitmap, Sparse
from pynet.ipam.pool import Pool
from pynet.ipam.prefix import parse_loose
from pynet.ipam.request import PoolRequest, check_request
from pynet.ipam.space import AddressSpace
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.model import IpamConfig

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@st.composite
def networks(draw: st.DrawFn, width: int, shortest: int) -> IPNetwork:
    """Any network of the family whose prefix is at least this long, small enough to list."""
    length = draw(st.integers(shortest, width))
    value = draw(st.integers(0 if width == 32 else 2**112, 2**width - 1))
    return ipaddress.ip_network((value >> (width - length) << (width - length), length))


SUBNETS = st.one_of(networks(32, 20), networks(128, 118))


def usable(network: IPNetwork) -> list[str]:
    """Written from the RFCs with another library, so that one mistake is not made twice."""
    addresses = [str(address) for address in network]
    if len(addresses) > 2:
        addresses = addresses[1:-1] if network.version == 4 else addresses[1:]
    return addresses


class PoolMachine(RuleBasedStateMachine):
    """One pool with an ip-range, and the model: a set of leases, an order of choice, the usable addresses."""

    leased = Bundle("leased")

    @initialize(subnet=SUBNETS, data=st.data())
    def open(self, subnet: IPNetwork, data: st.DataObject) -> None:
        longest = subnet.max_prefixlen
        length = data.draw(st.integers(subnet.prefixlen, min(longest, subnet.prefixlen + 6)))
        base = int(subnet.network_address) + data.draw(st.integers(0, subnet.num_addresses - 1))
        ip_range = ipaddress.ip_network((base >> (longest - length) << (longest - length), length))
        self.subnet = subnet
        self.usable = usable(subnet)
        members = set(map(str, ip_range))
        self.choices = [address for address in self.usable if address in members]
        self.taken: set[str] = set()
        self.last = -1
        self.pool = Pool(parse_loose(str(subnet))[0], parse_loose(str(ip_range))[0])

    @rule(target=leased)
    def allocate(self) -> str:
        order = self.choices[self.last + 1 :] + self.choices[: self.last + 1]
        expected = next((address for address in order if address not in self.taken), None)
        if expected is None:
            with pytest.raises(NoAvailableAddresses):
                self.pool.allocate()
            return ""
        assert self.pool.allocate() == expected, "next-fit, never a taken or reserved one, only from the range"
        self.taken.add(expected)
        self.last = self.choices.index(expected)
        return expected

    @rule(target=leased, offset=st.integers(-2, 5000))
    def ask_for(self, offset: int) -> str:
        value = int(self.subnet.network_address) + offset
        if not 0 <= value < 2**self.subnet.max_prefixlen:
            return ""
        address = str(type(self.subnet.network_address)(value))
        if not 0 <= offset < self.subnet.num_addresses:
            with pytest.raises(AddressOutOfRange):
                self.pool.allocate(address)
        elif address in self.taken or address not in self.usable:
            with pytest.raises(AddressInUse):
                self.pool.allocate(address)
        else:
            assert self.pool.allocate(address) == address
            self.taken.add(address)
        return address

    @rule(address=leased)
    def release(self, address: str) -> None:
        if address:
            self.pool.release(address)
            self.taken.discard(address)

    @invariant()
    def counts_agree(self) -> None:
        chosen = sum(address in self.taken for address in self.choices)
        assert self.pool.used == len(self.taken)
        assert self.pool.free == len(self.choices) - chosen
        assert self.pool.capacity == len(self.usable)

    @invariant()
    def gateway_is_the_first_free_address(self) -> None:
        first = next((address for address in self.usable if address not in self.taken), None)
        if first is None:
            with pytest.raises(NoAvailableAddresses):
                self.pool.gateway_candidate()
        else:
            assert self.pool.gateway_candidate() == first


class SpaceMachine(RuleBasedStateMachine):
    """Pools opened and closed, by name and by default: none ever overlap, and the lowest free default is chosen."""

    opened = Bundle("opened")

    @initialize()
    def start(self) -> None:
        # The IPv4 default block, made small by avoiding all but 192.168.0.0/20.
        self.space = AddressSpace(instance="machine")
        block = ipaddress.IPv4Network("192.168.0.0/20")
        others = ipaddress.IPv4Network("192.168.0.0/16").address_exclude(block)
        self.avoid = ["172.16.0.0/12", *map(str, others)]
        self.block: list[IPNetwork] = list(block.subnets(new_prefix=24))
        self.held: dict[str, Pool] = {}

    def overlapped(self, network: IPNetwork) -> bool:
        return any(network.overlaps(ipaddress.ip_network(subnet)) for subnet in self.held)

    @rule(target=opened)
    def default(self) -> str:
        expected = next((str(network) for network in self.block if not self.overlapped(network)), None)
        if expected is None:
            with pytest.raises(InvalidArgument, match="fully subnetted"):
                self.space.request_pool(avoid=self.avoid)
            return ""
        pool = self.space.request_pool(avoid=self.avoid)
        assert str(pool.subnet) == expected
        self.held[expected] = pool
        return expected

    @rule(target=opened, start=st.integers(0, 2**12 - 1), length=st.integers(19, 32))
    def named(self, start: int, length: int) -> str:
        value = (0xC0A80000 + start) >> (32 - length) << (32 - length)
        network = ipaddress.ip_network((value, length))
        if self.overlapped(network):
            with pytest.raises(PoolOverlap):
                self.space.request_pool(str(network))
            return ""
        self.held[str(network)] = self.space.request_pool(str(network))
        return str(network)

    @rule(subnet=opened)
    def close(self, subnet: str) -> None:
        pool = self.held.pop(subnet, None)
        if pool is not None:
            self.space.release_pool(pool)

    @invariant()
    def the_space_knows_its_pools(self) -> None:
        assert {str(pool.subnet) for pool in self.space.pools} == set(self.held)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSpaceMachine = SpaceMachine.TestCase
TestSpaceMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@settings(max_examples=40, deadline=None)
@given(
    representation=st.sampled_from([Bitmap, Sparse]),
    size=st.integers(1, 3 * CHUNK),
    runs=st.lists(st.tuples(st.integers(0, 3 * CHUNK), st.integers(1, 1000), st.booleans()), max_size=8),
    starts=st.lists(st.integers(0, 3 * CHUNK), min_size=1, max_size=5),
)
def test_both_representations_are_sets_of_numbers(
    representation: type[Bitmap | Sparse], size: int, runs: list[tuple[int, int, bool]], starts: list[int]
) -> None:
    leases, model = representation(size), set[int]()
    for first, length, take in runs:
        for number in range(first % size, min(first % size + length, size)):
            if take:
                assert leases.take(number) == (number not in model)
                model.add(number)
            else:
                assert leases.free(number) == (number in model)
                model.discard(number)
    assert leases.used == len(model)
    for start in starts:
        expected = next((number for number in range(start, size) if number not in model), None)
        assert leases.next_free(start) == expected
        assert (start % size in leases) == (start % size in model)


TEXT = st.one_of(st.text(max_size=20), st.from_regex(r"[0-9a-f.:/%]{0,20}", fullmatch=True), SUBNETS.map(str))


@settings(max_examples=100, deadline=None)
@given(subnet=TEXT, ip_range=TEXT, gateway=TEXT, auxiliary=TEXT)
def test_arbitrary_text_is_understood_or_refused_in_our_words(
    subnet: str, ip_range: str, gateway: str, auxiliary: str
) -> None:
    def check(*asked: Any, **more: Any) -> PoolRequest:
        (request,) = check_request([IpamConfig(*asked, **more)])
        return request

    attempts: list[Callable[[], PoolRequest]] = [
        lambda: check(subnet),
        lambda: check(subnet, ip_range),
        lambda: check(subnet, gateway=gateway),
        lambda: check(subnet, aux={"k": auxiliary}),
    ]
    for attempt in attempts:
        try:
            request = attempt()
        except InvalidNetworkConfig:
            continue
        again = check(request.subnet or "", request.ip_range or "", request.gateway or "", dict(request.auxiliary))
        assert again == request, "canonical form is a fixed point"
    space = AddressSpace()
    requests: list[Callable[[], Pool]] = [
        lambda: space.request_pool(subnet),
        lambda: space.request_pool(avoid=[subnet]),
    ]
    for attempt_pool in requests:
        try:
            attempt_pool()
        except InvalidArgument:
            pass
