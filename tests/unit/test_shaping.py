"""Rate limits as people write them, and the buckets that they amount to."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.netlib import shaping
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.kernel import traffic
from pynet.netlib.kernel.netlink import attribute, nested, text
from pynet.netlib.kernel.traffic import Bucket
from pynet.netlib.model import NetworkRecord
from pynet.netlib.shaping import Limits, bucket, check, limits, parse_burst, parse_rate

BOTH = frozenset({"in", "out"})


def network(**options: str) -> NetworkRecord:
    return NetworkRecord(id="0" * 64, name="web", driver="bridge", created=0.0, options=options)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10mbit", 1_250_000),
        ("10Mbit", 1_250_000),
        ("500kbit", 62_500),
        ("2mbps", 2_000_000),
        ("1.5mbit", 187_500),
        ("1gibit", (1 << 30) // 8),
        ("1mibps", 1 << 20),
        ("80000", 10_000),
        ("80000bit", 10_000),
        ("0", 0),
        ("1tbit", 125 * 10**9),
    ],
)
def test_rates_are_written_as_for_tc(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "fast", "10 parsecs", "-1mbit", "1e9", "1mbit ;", "7kbit", "2tbit", "9" * 99, "٣mbit"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="rate_in"):
        limits(network(), {"rate_in": text})


@pytest.mark.parametrize(
    ("text", "size"), [("64k", 65536), ("64kb", 65536), ("1m", 1 << 20), ("1600", 1600), ("2048b", 2048)]
)
def test_bursts_are_sizes(text: str, size: int) -> None:
    assert parse_burst(text) == size


@pytest.mark.parametrize("text", ["2g", "64kbit", "x", "-1"])
def test_what_is_no_burst_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="burst"):
        limits(network(), {"burst": text})


def test_a_burst_lets_a_packet_of_the_mtu_pass() -> None:
    assert limits(network(), {"rate_in": "1mbit", "burst": "1518"}).burst == 1518
    with pytest.raises(InvalidArgument, match="less than a packet of the network's MTU"):
        limits(network(mtu="9000"), {"rate_in": "1mbit", "burst": "1518"})


@pytest.mark.parametrize(
    ("rate", "burst", "made"),
    [
        (100_000_000, 0, Bucket(100_000_000, 1_000_000, 6_000_000)),
        (125_000, 0, Bucket(125_000, 32768, 32768 + 6250)),
        (125_000, 65536, Bucket(125_000, 65536, 65536 + 6250)),
    ],
)
def test_a_bucket_holds_10_ms_of_its_rate_and_50_ms_wait(rate: int, burst: int, made: Bucket) -> None:
    assert bucket(rate, burst, 1518) == made


def test_a_burst_fills_in_a_time_that_the_kernel_can_tell() -> None:
    with pytest.raises(InvalidArgument, match="more than 200 s"):
        limits(network(), {"rate_in": "1gbit", "rate_out": "8kbit", "burst": "1m"})


def test_an_endpoints_options_stand_before_its_networks_one_by_one() -> None:
    web = network(rate_in="10mbit", rate_out="1mbit")
    assert limits(web, {}) == Limits(1_250_000, 125_000)
    assert limits(web, {"com.docker.network.endpoint.rate_in": "0"}) == Limits(0, 125_000)


def test_one_option_by_both_of_its_names_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="given twice"):
        limits(network(), {"rate_in": "1mbit", "com.docker.network.endpoint.rate_in": "1mbit"})


@pytest.mark.parametrize(("can", "hint"), [(frozenset({"out"}), "it limits out alone"), (frozenset[str](), "bridge")])
def test_a_direction_that_the_driver_can_not_limit_is_refused(can: frozenset[str], hint: str) -> None:
    check(network(rate_in="0"), {}, can)
    with pytest.raises(InvalidArgument, match="rate_in is not supported by the bridge driver") as refusal:
        check(network(rate_in="1mbit"), {}, can)
    assert hint in refusal.value.hint


@given(rate=st.integers(shaping.LEAST_RATE, shaping.MOST_RATE), frame=st.integers(86, 65553))
def test_every_rate_has_a_bucket_that_the_kernel_can_hold_and_tell(rate: int, frame: int) -> None:
    made = bucket(rate, 0, frame)
    assert frame <= made.burst <= made.limit <= 0xFFFFFFFF
    assert made.burst * 10**9 // rate // traffic.TICK <= 0xFFFFFFFF


@given(rate=st.integers(shaping.LEAST_RATE, shaping.MOST_RATE))
def test_a_bucket_is_known_again_as_the_kernel_tells_it_and_another_is_not(rate: int) -> None:
    made = bucket(rate, 0, 1518)
    parms = struct.pack("=BBHhHI12xIII", 0, 1, 0, -1, 0, min(rate, 0xFFFFFFFF), made.limit,
                        made.burst * 10**9 // rate // traffic.TICK, 0)  # fmt: skip
    options = attribute(traffic.TCA_TBF_PARMS, parms)
    if rate > 0xFFFFFFFF:
        options += attribute(traffic.TCA_TBF_RATE64, struct.pack("=Q", rate))
    body = struct.pack("=BxxxiIII", 0, 7, traffic.HANDLE, traffic.TC_H_ROOT, 0)
    body += text(traffic.TCA_KIND, "tbf") + nested(traffic.TCA_OPTIONS, options)
    queue = traffic.read_queue(body)
    assert queue is not None
    assert traffic.same(made, queue.bucket)
    assert not traffic.same(Bucket(made.rate, made.burst * 2, made.limit), queue.bucket)
    assert not traffic.same(Bucket(made.rate + 1, made.burst, made.limit), queue.bucket)
    assert not traffic.same(made, None)
