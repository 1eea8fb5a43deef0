"""What the engine's options ask of the default bridge and the default pools, and what they can not."""

from __future__ import annotations

import pytest

from pynet.engine.daemon_options import own_command, parse_arguments
from pynet.engine.default_bridge import address_pools, default_bridge
from pynet.ipam.defaults import replaced_pools
from pynet.ipam.errors import InvalidPool
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.instance import Instance
from pynet.netlib.model import IpamConfig, NetworkRecord
from pynet.netlib.predefined import DefaultBridge


def asked(*words: str) -> DefaultBridge | None:
    return default_bridge(parse_arguments(list(words)))


def test_every_option_has_its_place_in_the_request() -> None:
    words = "--bip 10.5.0.1/24 --fixed-cidr 10.5.0.128/25 --default-gateway 10.5.0.254 --mtu 1400 --ip 127.0.0.1"
    bridge = asked(*words.split(), "--icc=false", "--ip-masq=false", "--fixed-cidr-v6", "fd00:5::/64")
    assert bridge == DefaultBridge(
        ipam=(
            IpamConfig("10.5.0.0/24", "10.5.0.128/25", "10.5.0.1", {"DefaultGatewayIPv4": "10.5.0.254"}),
            IpamConfig("fd00:5::/64"),
        ),
        ipv6=True,
        options={
            "com.docker.network.driver.mtu": "1400",
            "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "false",
        },
    )
    assert asked() == DefaultBridge()
    assert asked("--ipv6") == DefaultBridge(ipv6=True)
    assert asked("--bridge", "none") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--bridge br0 --bip 10.5.0.1/24", "You specified -b & --bip, mutually exclusive options. Please specify only one"),
        ("--bip nonsense", "invalid CIDR address"),
        ("--bip fd00::1/64", "invalid CIDR address or address of the default bridge: not IPv4"),
        ("--bip 10.5.0.0/24", "--bip 10.5.0.0/24 is no address of a host"),
        ("--fixed-cidr 10.5.0.1/24", "invalid CIDR address"),
        ("--bip 10.5.0.1/24 --fixed-cidr 10.6.0.0/24", "container subnet must be a subset of bridge network"),
        ("--bip 10.5.0.1/24 --default-gateway 10.6.0.1", "default gateway ip must be part of the network"),
        ("--default-gateway 10.6.0.1", "--default-gateway needs a subnet"),
        ("--default-gateway-v6 fd00::1", "--default-gateway-v6 needs a subnet"),
        ("--ipv6=perhaps", "invalid argument 'perhaps' for --ipv6"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(words: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        asked(*words.split())
    assert str(caught.value).startswith(message)


def test_an_engine_that_is_started_again_has_the_same_options(tmp_path: object) -> None:
    words = ["--bip=10.5.0.1/24", "--icc=false", "--default-address-pool=base=10.50.0.0/16,size=24"]
    words.append("--default-address-pool=base=fd00:50::/48,size=64")
    arguments = parse_arguments([*words, "--root", f"{tmp_path}/r", "--run", f"{tmp_path}/u"])
    again = parse_arguments(own_command(arguments, Instance.at(arguments.root, arguments.run))[4:])
    assert default_bridge(again) == default_bridge(arguments)
    assert address_pools(again.default_address_pool) == (("10.50.0.0/16", 24), ("fd00:50::/48", 64))


@pytest.mark.parametrize("text", ["", "base=10.0.0.0/8", "size=24", "base=10.0.0.0/8,size=x", "base=1,size=2,more=3"])
def test_pools_that_can_not_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid argument .* for --default-address-pool"):
        address_pools([text])


@pytest.mark.parametrize(("base", "size"), [("10.0.0.0/8", 7), ("10.0.0.0/8", 33), ("10.0.0.1/8", 24), ("x", 24)])
def test_pools_that_can_not_be_cut_are_refused(base: str, size: int) -> None:
    with pytest.raises(InvalidPool):
        replaced_pools([(base, size)], "here")


def test_configured_pools_replace_those_of_their_family() -> None:
    pools = replaced_pools([("10.50.0.0/16", 24), ("10.60.0.0/16", 26)], "here")
    assert [str(pool.base) for pool in pools if pool.base.version == 4] == ["10.50.0.0/16", "10.60.0.0/16"]
    assert [pool.size for pool in pools if pool.base.version == 6] == [64], "IPv6 keeps its own"


def test_a_bridge_is_as_asked_when_what_was_asked_is_so() -> None:
    asked = DefaultBridge((IpamConfig("10.5.0.0/24"),), options={"mtu": "1400"})
    has = NetworkRecord(
        "1" * 64,
        "bridge",
        "bridge",
        0.0,
        ipam=(IpamConfig("10.5.0.0/24", gateway="10.5.0.1"),),
        options={"mtu": "1400"},
    )
    assert asked.is_met_by(has)
    assert not DefaultBridge((IpamConfig("10.6.0.0/24"),), options={"mtu": "1400"}).is_met_by(has)
    assert not DefaultBridge((IpamConfig("10.5.0.0/24", gateway="10.5.0.9"),), options={"mtu": "1400"}).is_met_by(has)
    assert not DefaultBridge(asked.ipam).is_met_by(has)
    assert not DefaultBridge(asked.ipam, ipv6=True, options=asked.options).is_met_by(has)
    assert DefaultBridge(options={"mtu": "1400"}).is_met_by(has), "a subnet that nobody asks for stays"
