"""The engine's configuration file: each key is an option, and what does not fit keeps the engine from starting."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from pynet.engine.config_file import KEYS, MOST_BYTES, settle
from pynet.engine.daemon_options import Asked, own_command, parse_arguments
from pynet.engine.default_bridge import default_bridge, network_opts
from pynet.engine.network_shapes import create_arguments
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.instance import Instance

PAGE = Path(__file__).parents[2] / "docs" / "engine.md"

EVERYTHING: dict[str, tuple[Any, str]] = {
    "bridge": ("br0", "--bridge=br0"),
    "bip": ("10.5.0.1/24", "--bip=10.5.0.1/24"),
    "bip6": ("fd00:5::1/64", "--bip6=fd00:5::1/64"),
    "fixed-cidr": ("10.5.0.128/25", "--fixed-cidr=10.5.0.128/25"),
    "fixed-cidr-v6": ("fd00:5::/80", "--fixed-cidr-v6=fd00:5::/80"),
    "default-gateway": ("10.5.0.254", "--default-gateway=10.5.0.254"),
    "default-gateway-v6": ("fd00:5::9", "--default-gateway-v6=fd00:5::9"),
    "mtu": (1400, "--mtu=1400"),
    "ip": ("127.0.0.1", "--ip=127.0.0.1"),
    "ipv6": (True, "--ipv6=true"),
    "icc": (False, "--icc=false"),
    "ip-masq": (False, "--ip-masq=false"),
    "default-address-pools": ([{"base": "10.50.0.0/16", "size": 24}], "--default-address-pool=base=10.50.0.0/16,size=24"),
    "default-network-opts": ({"bridge": {"mtu": "1400"}}, "--default-network-opt=bridge=mtu=1400"),
    "dns": (["192.0.2.53"], "--dns=192.0.2.53"),
    "dns-search": (["corp.example"], "--dns-search=corp.example"),
    "dns-opts": (["ndots:2"], "--dns-opt=ndots:2"),
    "host-gateway-ips": (["192.0.2.1"], "--host-gateway-ip=192.0.2.1"),
    "firewall-backend": ("iptables", "--firewall=iptables"),
    "publish-policy": ("host-input", "--publish-policy=host-input"),
    "proxy-workers": (2, "--proxy-workers=2"),
    "proxy-drain": (1.5, "--proxy-drain=1.5"),
    "metrics-addr": ("127.0.0.1:9323", "--metrics-addr=127.0.0.1:9323"),
}  # fmt: skip


def settled(path: Path, content: object, *words: str) -> Namespace:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    arguments = parse_arguments(["--config-file", str(path), *words])
    settle(arguments)
    return arguments


def refusal(path: Path, content: object, *words: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        settled(path, content, *words)
    assert caught.value.hint
    start = f"unable to configure the engine with file {path}: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_each_key_says_what_the_option_says(tmp_path: Path) -> None:
    assert set(EVERYTHING) == set(KEYS)
    for key, (value, option) in EVERYTHING.items():
        by_option = parse_arguments([option])
        by_option.config_file = str(tmp_path / "daemon.json")
        assert settled(tmp_path / "daemon.json", {key: value}) == by_option, key


def test_the_start_after_a_crash_has_the_files_settings_without_the_file(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    first = settled(file, {key: value for key, (value, _) in EVERYTHING.items()})
    file.write_text("{ half-writ")
    again = parse_arguments(own_command(first, Instance.at(tmp_path / "r", tmp_path / "u"))[4:])
    settle(again)
    differing = {name for name in vars(first) if getattr(first, name) != getattr(again, name)}
    assert differing == {"config_file", "again", "root", "run", "log"}


def test_a_key_that_is_an_option_too_is_refused(tmp_path: Path) -> None:
    text = refusal(
        tmp_path / "f", {"bip": "10.6.0.1/24", "icc": False, "mtu": 1400}, "--bip", "10.5.0.1/24", "--icc=true"
    )
    assert text == (
        "the following directives are specified both as a flag and in the configuration file: "
        "bip: (from flag: 10.5.0.1/24, from file: 10.6.0.1/24), icc: (from flag: true, from file: false)"
    )
    pools = {"default-address-pools": [{"base": "10.50.0.0/16", "size": 24}]}
    assert "default-address-pools: (from flag: " in refusal(
        tmp_path / "f", pools, "--default-address-pool", "base=10.60.0.0/16,size=24"
    )


def test_keys_that_nobody_knows_are_refused_all_at_once(tmp_path: Path) -> None:
    text = refusal(tmp_path / "f", {"log-driver": "json-file", "bipp": "", "icc": True, "BIP": ""})
    assert text == "the following directives don't match any configuration option: BIP, bipp, log-driver"


@pytest.mark.parametrize("key", sorted(EVERYTHING))
@pytest.mark.parametrize("wrong", [None, 7.25, [1], {"a": 1}, [{"base": 1, "size": 1}], {"x": {"y": 1}}, 10**30])
def test_a_value_of_another_kind_is_refused(tmp_path: Path, key: str, wrong: object) -> None:
    if (key, wrong) in (("proxy-drain", 7.25), ("proxy-drain", 10**30)):
        return  # a number of seconds, whatever else it is
    assert refusal(tmp_path / "f", {key: wrong}).startswith(f"{key} must be ")


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("mtu", "1400"), ("mtu", True), ("icc", "false"), ("icc", 0), ("ip", 1), ("proxy-workers", True), ("bip", "a\0b"),
        ("firewall-backend", "pf"), ("publish-policy", ""), ("default-network-opts", {"bridge": {"mtu": 1400}}),
        ("default-network-opts", {"a=b": {"mtu": "1400"}}), ("default-address-pools", [{"base": "10.0.0.0/8,size=9", "size": 1}]),
    ],
)  # fmt: skip
def test_a_value_that_is_nearly_right_is_refused(tmp_path: Path, key: str, wrong: object) -> None:
    assert refusal(tmp_path / "f", {key: wrong}).startswith(f"{key} must be ")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", "it is no JSON object"),
        ('"text"', "it is no JSON object"),
        ("{", "it is not JSON: "),
        ('{"mtu": 1, "mtu": 2}', "it is not JSON: mtu stands there twice"),
        ('{"proxy-drain": NaN}', "it is not JSON: NaN is no number of JSON"),
        ("[" * 100_000, "it is not JSON: "),
        ('{"mtu": ' + "9" * 5000 + "}", "it is not JSON: "),
        (" " * (MOST_BYTES + 1), f"it is longer than {MOST_BYTES} bytes"),
    ],
    ids=range(8),
)
def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path, content: str, why: str) -> None:
    assert refusal(tmp_path / "f", content).startswith(why)


def test_a_file_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none", tmp_path, tmp_path / "f" / "g"):
        with pytest.raises(InvalidArgument, match=re.escape(f"open {path}: ")):
            settle(parse_arguments(["--config-file", str(path)]))
    monkeypatch.setenv("PYNET_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InvalidArgument, match="No such file"):
        settle(parse_arguments([]))
    (tmp_path / "f").write_text("\ufeff \n")
    settle(parse_arguments(["--config-file", str(tmp_path / "f")]))  # outranks the variable; nothing in it says nothing


# -- default-network-opts ---------------------------------------------------------------------------------------------


def test_a_networks_own_options_outrank_the_default_ones_under_either_name() -> None:
    defaults = network_opts(["bridge=com.docker.network.driver.mtu=9000", "bridge=icc=false", "bridge=rate_in=1mbit"])

    def options(**body: Any) -> dict[str, str]:
        found: dict[str, str] = create_arguments({"Name": "n", **body}, (1, 51), defaults)[1]["options"]
        return found

    assert options() == defaults["bridge"]
    own = {"mtu": "1400", "com.docker.network.bridge.enable_icc": "true", "com.docker.network.endpoint.rate_in": "0"}
    assert options(Options=own) == own
    assert options(Driver="macvlan") == {}
    assert options(ConfigFrom={"Network": "office"}) == {}


def test_default_options_and_a_networks_own_say_which_families_it_has() -> None:
    defaults = network_opts(
        ["bridge=com.docker.network.enable_ipv6=true", "bridge=com.docker.network.enable_ipv4=false"]
    )

    def families(body: dict[str, Any]) -> tuple[bool, bool]:
        arguments = create_arguments({"Name": "n", **body}, (1, 51), defaults)[1]
        return arguments["ipv4"], arguments["ipv6"]

    assert families({}) == (False, True)
    assert families({"EnableIPv4": True, "EnableIPv6": False}) == (True, False)
    assert families({"Options": {"com.docker.network.enable_ipv4": "1"}}) == (True, True)
    assert families({"Driver": "macvlan"}) == (True, False)
    with pytest.raises(InvalidArgument, match=r'driver-opt "com\.docker\.network\.enable_ipv6" is not a valid bool'):
        families({"Options": {"com.docker.network.enable_ipv6": "perhaps"}})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("bridge", "invalid argument"),
        ("bridge=mtu", "invalid argument"),
        ("=mtu=1", "invalid argument"),
        ("bridge==1", "invalid argument"),
        ("nobody=mtu=1400", "--default-network-opt for nobody: could not find plugin nobody"),
        ("bridge=mtu=many", "--default-network-opt for bridge: invalid value 'many' for option mtu"),
        ("bridge=color=red", "--default-network-opt for bridge: unknown option color"),
        ("bridge=rate_in=fast", "--default-network-opt for bridge: "),
        ("bridge=com.docker.network.enable_ipv6=x", "--default-network-opt for bridge: driver-opt"),
        ("host=mtu=1400", "--default-network-opt for host: "),
    ],
)
def test_default_options_that_a_driver_would_refuse_keep_the_engine_from_starting(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        network_opts([text])
    assert str(caught.value).startswith(why)


def test_an_option_of_the_default_bridge_that_its_driver_refuses_keeps_the_engine_from_starting() -> None:
    with pytest.raises(InvalidArgument, match=r"invalid value 'many' for option com\.docker\.network\.driver\.mtu"):
        default_bridge(parse_arguments(["--mtu", "many"]))
    with pytest.raises(InvalidArgument, match="invalid value"):
        default_bridge(parse_arguments(["--ip", "everywhere"]))


def test_pools_that_can_not_be_cut_keep_the_engine_from_starting(tmp_path: Path) -> None:
    arguments = parse_arguments(["--default-address-pool", "base=10.0.0.0/8,size=7"])
    with pytest.raises(InvalidArgument, match="invalid address pool"):
        Asked.of(arguments, Instance.at(tmp_path, tmp_path))


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_every_key_and_an_example_that_is_accepted(tmp_path: Path) -> None:
    section = PAGE.read_text().partition("\n## The configuration file\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| ", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(KEYS)
    example = section.partition("```json\n")[2].partition("```")[0]
    arguments = settled(tmp_path / "daemon.json", example)
    assert Asked.of(arguments, Instance.at(tmp_path, tmp_path)).bridge is not None
