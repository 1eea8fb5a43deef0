"""Host ports as leases: conflicts, choice, exhaustion, and a model to compare with."""

from __future__ import annotations

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pynet.netlib.errors import PortInUse
from pynet.netlib.ports.leases import AllPortsAllocated, EphemeralRange, PortLease, PortTable

EVERYWHERE = ("0.0.0.0", "::")


@pytest.mark.parametrize(
    ("held", "wanted", "conflict"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "0.0.0.0", True),
        ("::", "::1", True),
        ("::1", "::", True),
        ("0.0.0.0", "::", False),
        ("::", "127.0.0.1", False),
        ("127.0.0.1", "::", False),
    ],
)
def test_an_unspecified_address_holds_every_address_of_its_family(held: str, wanted: str, conflict: bool) -> None:
    table = PortTable()
    assert table.claim("tcp", [held], "a", first=8080) == 8080
    assert table.holder("tcp", wanted, 8080) == ("a" if conflict else None)
    assert table.holder("udp", wanted, 8080) is None
    assert table.holder("tcp", wanted, 8081) is None
    if conflict:
        with pytest.raises(PortInUse) as caught:
            table.claim("tcp", [wanted], "b", first=8080)
        shown = f"[{wanted}]" if ":" in wanted else wanted
        assert str(caught.value) == f"Bind for {shown}:8080 failed: port is already allocated"
        assert (caught.value.holder, caught.value.port, caught.value.proto) == ("a", 8080, "tcp")
    else:
        table.claim("tcp", [wanted], "b", first=8080)
    table.claim("udp", [wanted], "b", first=8080)


def test_several_addresses_are_taken_together_or_not_at_all() -> None:
    table = PortTable()
    table.claim("tcp", ["::1"], "a", first=8080)
    with pytest.raises(PortInUse):
        table.claim("tcp", EVERYWHERE, "b", first=8080)
    assert list(table) == [PortLease("tcp", "::1", 8080, "a")]
    ephemeral = EphemeralRange(8080, 8090)
    assert table.claim_ephemeral("tcp", EVERYWHERE, "b", ephemeral) == 8081
    assert {lease.host_ip for lease in table if lease.owner == "b"} == set(EVERYWHERE)


def test_ephemeral_ports_run_on_and_wrap_round_reserved_ones() -> None:
    table = PortTable()
    ephemeral = EphemeralRange(40000, 40005, frozenset({40001, 40004}))
    ports = [table.claim_ephemeral("tcp", EVERYWHERE, "a", ephemeral) for _ in range(3)]
    assert ports == [40000, 40002, 40003]
    table.release("tcp", EVERYWHERE, 40000, "a")
    assert table.claim_ephemeral("tcp", EVERYWHERE, "a", ephemeral) == 40005, "a port given back rests"
    assert table.claim_ephemeral("tcp", EVERYWHERE, "a", ephemeral) == 40000
    with pytest.raises(AllPortsAllocated, match=r"^all ports are allocated$") as caught:
        table.claim_ephemeral("tcp", EVERYWHERE, "a", ephemeral)
    assert caught.value.status == 500
    assert table.claim_ephemeral("udp", EVERYWHERE, "a", ephemeral) == 40000
    assert table.claim("tcp", EVERYWHERE, "a", first=40001) == 40001, "reserved is reserved from choice only"


def test_a_port_that_another_address_holds_is_the_last_resort() -> None:
    table = PortTable()
    ephemeral = EphemeralRange(40000, 40001)
    assert [table.claim_ephemeral("tcp", ["127.0.0.1"], "a", ephemeral) for _ in range(2)] == [40000, 40001]
    assert {table.claim_ephemeral("tcp", ["127.0.0.2"], "b", ephemeral) for _ in range(2)} == {40000, 40001}
    with pytest.raises(AllPortsAllocated):
        table.claim_ephemeral("tcp", ["0.0.0.0"], "b", ephemeral)
    assert table.claim_ephemeral("tcp", ["::"], "b", ephemeral) in {40000, 40001}


def test_a_port_is_vacant_only_when_neither_family_holds_it() -> None:
    table = PortTable()
    table.claim("tcp", ["0.0.0.0"], "a", first=40000)
    table.claim("tcp", ["::"], "b", first=40000)
    table.release("tcp", ["0.0.0.0"], 40000, "a")
    assert table.claim_ephemeral("tcp", EVERYWHERE, "c", EphemeralRange(40000, 40001)) == 40001
    assert table.holder("tcp", "::1", 40000) == "b"


def test_any_port_of_a_range_will_do() -> None:
    table = PortTable()
    table.claim("tcp", EVERYWHERE, "a", first=8001)
    assert [table.claim("tcp", EVERYWHERE, "b", first=8000, last=8003) for _ in range(3)] == [8000, 8002, 8003]
    with pytest.raises(AllPortsAllocated):
        table.claim("tcp", EVERYWHERE, "b", first=8000, last=8003)


def test_what_bind_refused_is_passed_over() -> None:
    table = PortTable()
    tried: list[int] = []
    for _ in range(3):
        port = table.claim("tcp", EVERYWHERE, "a", first=8000, last=8002, exclude=tried)
        table.release("tcp", EVERYWHERE, port, "a")
        tried.append(port)
    assert sorted(tried) == [8000, 8001, 8002]
    with pytest.raises(AllPortsAllocated):
        table.claim("tcp", EVERYWHERE, "a", first=8000, last=8002, exclude=tried)
    with pytest.raises(AllPortsAllocated):
        table.claim_ephemeral("tcp", EVERYWHERE, "a", EphemeralRange(8000, 8000), exclude=[8000])


def test_releasing_is_idempotent_and_spares_other_owners() -> None:
    table = PortTable()
    table.claim("tcp", EVERYWHERE, "a", first=8080)
    table.release("tcp", EVERYWHERE, 8080, "b")
    table.release("udp", EVERYWHERE, 8080, "a")
    assert len(table) == 2
    for _ in range(2):
        table.release("tcp", EVERYWHERE, 8080, "a")
    assert len(table) == 0
    table.claim("tcp", ["127.0.0.1"], "b", first=8080)


def test_leases_are_restored() -> None:
    before = PortTable()
    before.claim("tcp", EVERYWHERE, "a", first=8080)
    before.claim_ephemeral("udp", ["127.0.0.1"], "b", EphemeralRange())
    after = PortTable(before)
    assert sorted(after) == sorted(before)
    after.restore(before)
    assert sorted(after) == sorted(before), "twice is once"
    with pytest.raises(PortInUse):
        after.restore([PortLease("tcp", "127.0.0.1", 8080, "c")])


@pytest.mark.parametrize("ports", [(0, 0), (0, 5), (5, 4), (1, 65536)])
def test_impossible_ranges_are_the_callers_bug(ports: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no port range"):
        PortTable().claim("tcp", EVERYWHERE, "a", first=ports[0], last=ports[1])


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "127.0.0.1", "::")]
)
def test_addresses_of_one_claim_do_not_cover_each_other(addresses: tuple[str, ...]) -> None:
    table = PortTable()
    with pytest.raises(ValueError, match="addresses overlap"):
        table.claim("tcp", addresses, "a", first=80)
    assert len(table) == 0


def test_threads_never_share_a_port() -> None:
    table, got = PortTable(), list[int]()
    ephemeral = EphemeralRange(30000, 31999)

    def work() -> None:
        got.extend(table.claim_ephemeral("tcp", EVERYWHERE, "a", ephemeral) for _ in range(500))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(30000, 32000))


ADDRESSES = st.sampled_from(["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", "fd00::1"])
PROTOS = st.sampled_from(["tcp", "udp"])
OWNERS = st.sampled_from(["a", "b", "c"])
APART = st.lists(ADDRESSES, min_size=1, max_size=3, unique=True).filter(
    lambda chosen: all(sum((":" in a) == (":" in b) for b in chosen) == 1 for a in chosen if a in EVERYWHERE)
)
LOW, HIGH, RESERVED = 100, 104, frozenset({103})


class PortMachine(RuleBasedStateMachine):
    """The table beside a plain dictionary of leases."""

    @initialize()
    def start(self) -> None:
        self.table = PortTable()
        self.model: dict[tuple[str, str, int], str] = {}

    def holders(self, proto: str, address: str, port: int) -> set[str]:
        same_family = {(p, a, n): o for (p, a, n), o in self.model.items() if (":" in a) == (":" in address)}
        return {
            owner
            for (p, a, n), owner in same_family.items()
            if (p, n) == (proto, port) and (a == address or a in EVERYWHERE or address in EVERYWHERE)
        }

    def is_free(self, proto: str, addresses: list[str], port: int) -> bool:
        return not any(self.holders(proto, address, port) for address in addresses)

    def add(self, proto: str, addresses: list[str], port: int, owner: str) -> None:
        self.model.update({(proto, address, port): owner for address in addresses})

    @rule(proto=PROTOS, addresses=APART, owner=OWNERS,
          port=st.integers(LOW, HIGH))  # fmt: skip
    def exact(self, proto: str, addresses: list[str], owner: str, port: int) -> None:
        if self.is_free(proto, addresses, port):
            assert self.table.claim(proto, addresses, owner, first=port) == port
            self.add(proto, addresses, port, owner)
        else:
            with pytest.raises(PortInUse) as caught:
                self.table.claim(proto, addresses, owner, first=port)
            assert caught.value.holder in self.holders(proto, caught.value.host_ip, port)

    @rule(proto=PROTOS, addresses=APART, owner=OWNERS,
          exclude=st.sets(st.integers(LOW, HIGH), max_size=3))  # fmt: skip
    def ephemeral(self, proto: str, addresses: list[str], owner: str, exclude: set[int]) -> None:
        span = EphemeralRange(LOW, HIGH, RESERVED)
        allowed = set(range(LOW, HIGH + 1)) - RESERVED - exclude
        free = {port for port in allowed if self.is_free(proto, addresses, port)}
        if not free:
            with pytest.raises(AllPortsAllocated):
                self.table.claim_ephemeral(proto, addresses, owner, span, exclude=exclude)
            return
        port = self.table.claim_ephemeral(proto, addresses, owner, span, exclude=exclude)
        assert port in free
        self.add(proto, addresses, port, owner)

    @rule(proto=PROTOS, address=ADDRESSES, port=st.integers(LOW, HIGH), owner=OWNERS)
    def release(self, proto: str, address: str, port: int, owner: str) -> None:
        self.table.release(proto, [address], port, owner)
        if self.model.get((proto, address, port)) == owner:
            del self.model[proto, address, port]

    @rule()
    def restart(self) -> None:
        self.table = PortTable(self.table)

    @invariant()
    def leases_agree(self) -> None:
        assert {(lease.proto, lease.host_ip, lease.port): lease.owner for lease in self.table} == self.model
        assert len(self.table) == len(self.model)


TestPortMachine = PortMachine.TestCase
TestPortMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
