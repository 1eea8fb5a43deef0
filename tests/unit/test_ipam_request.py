"""What ``network create`` is told about addresses that do not fit together, in Docker's words."""

from __future__ import annotations

from typing import Any

import pytest

from pynet.ipam.errors import InvalidNetworkConfig
from pynet.ipam.request import PoolRequest, check_request
from pynet.netlib.model import IpamConfig


def test_a_fitting_request_comes_out_in_canonical_form() -> None:
    (request,) = check_request([IpamConfig("FD00:0::/64", "fd00::1:0/112", "fd00::0001", {"a": "FD00::2"})])
    assert request == PoolRequest(6, "fd00::/64", "fd00::1:0/112", "fd00::1", (("a", "fd00::2"),))
    (request,) = check_request([IpamConfig("0.0.0.0/26")])
    assert request == PoolRequest(4, "0.0.0.0/26")
    assert request.any_of_size


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        (("x",), ["invalid subnet x: invalid CIDR block notation"]),
        (("10.0.0.0/33",), ["invalid subnet 10.0.0.0/33: invalid CIDR block notation"]),
        ((None, None, "10.0.0.1"), ["invalid subnet : invalid CIDR block notation"]),
        (("10.0.0.1/24",), ["invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"]),
        (("10.0.0.0/24", "x"), ["invalid ip-range x: invalid CIDR block notation"]),
        (("10.0.0.0/24", "fd00::/64"), ["invalid ip-range fd00::/64: parent subnet is an IPv4 block"]),
        (
            ("10.0.0.0/24", "10.0.0.0/16"),
            ["invalid ip-range 10.0.0.0/16: CIDR block is bigger than its parent subnet 10.0.0.0/24"],
        ),
        (("10.0.0.0/24", "10.0.0.65/26"), ["invalid ip-range 10.0.0.65/26: it should be 10.0.0.64/26"]),
        (
            ("10.0.0.0/24", "10.0.1.0/26"),
            ["invalid ip-range 10.0.1.0/26: parent subnet 10.0.0.0/24 doesn't contain ip-range"],
        ),
        (("10.0.0.0/24", None, "x"), ["invalid gateway x: invalid address"]),
        (("10.0.0.0/24", None, "fd00::1"), ["invalid gateway fd00::1: parent subnet is an IPv4 block"]),
        (("fd00::/64", None, "10.0.0.1"), ["invalid gateway 10.0.0.1: parent subnet is an IPv6 block"]),
        (
            ("10.0.0.0/24", None, "10.0.1.1"),
            ["invalid gateway 10.0.1.1: parent subnet 10.0.0.0/24 doesn't contain this address"],
        ),
        (
            ("10.0.0.0/24", None, None, {"k": "10.0.1.1", "l": ""}),
            [
                "invalid auxiliary address k: parent subnet 10.0.0.0/24 doesn't contain this address",
                "invalid auxiliary address l: invalid address",
            ],
        ),
        (
            ("10.0.0.1/24", "10.0.1.1/16", "y"),
            [
                "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24",
                "invalid ip-range 10.0.1.1/16: CIDR block is bigger than its parent subnet 10.0.0.0/24",
                "invalid ip-range 10.0.1.1/16: it should be 10.0.0.0/16",
                "invalid gateway y: invalid address",
            ],
        ),
    ],
)
def test_every_finding_is_reported_at_once(arguments: tuple[Any, ...], reasons: list[str]) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        padded: list[Any] = [*arguments, None, None, None]
        subnet, ip_range, gateway, aux = padded[:4]
        check_request([IpamConfig(subnet or "", ip_range or "", gateway or "", aux or {})])
    assert list(caught.value.reasons) == reasons
    assert str(caught.value) == "invalid network config:\n" + "\n".join("* " + reason for reason in reasons)
    assert caught.value.status == 400


def test_a_request_holds_both_families() -> None:
    config = [
        IpamConfig("10.0.0.0/24", "10.0.0.64/26", "10.0.0.1"),
        IpamConfig("fd00::/64", aux={"a": "fd00::9"}),
    ]
    v4 = PoolRequest(4, "10.0.0.0/24", "10.0.0.64/26", "10.0.0.1")
    assert check_request(config) == (v4, PoolRequest(6, "fd00::/64", None, None, (("a", "fd00::9"),)))
    assert check_request(config, ipv6=False) == (v4,)
    assert check_request([IpamConfig()]) == (PoolRequest(4),)
    assert check_request([]) == ()


def test_findings_of_all_entries_are_joined() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        check_request([IpamConfig("x"), IpamConfig("5"), IpamConfig("fd00::1/64")])
    assert len(caught.value.reasons) == 3
