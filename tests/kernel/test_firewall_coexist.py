"""ACCEPTs in the chains of others: exactly those that are needed, and what can not be changed is left alone and told."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pynet.netlib.errors import NotSupported
from pynet.netlib.firewall import detect
from pynet.netlib.firewall.coexist import Coexistence
from pynet.netlib.firewall.intents import NetworkRules, PortRule
from pynet.netlib.firewall.iptables.process import check_installed
from pynet.netlib.kernel.libnftables import Nft, NftError
from pynet.plugins.testhost import Host

MARK = "pynet-test"
NETWORK = NetworkRules("pba", ("10.77.1.0/24",))
DROPPING = "table ip guard {{ {flags}chain forward {{ type filter hook forward priority 0; policy drop; }}; }}"


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def nft(host: Host) -> Iterator[Nft]:
    nft = Nft()
    yield nft
    nft.close()


@pytest.fixture
def open_coexistence(nft: Nft) -> Iterator[Callable[..., Coexistence]]:
    made: list[Coexistence] = []

    def start(*, legacy: bool = False) -> Coexistence:
        made.append(Coexistence(MARK, nft, legacy=legacy))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def guard(nft: Nft) -> Iterator[None]:
    """A table that drops what is forwarded."""
    nft.run(DROPPING.format(flags=""))
    yield
    nft.run("delete table ip guard")


def accepts(nft: Nft) -> list[str]:
    """The rules of the guarding chain, "iifname pba" each, in order."""
    found: list[str] = []
    for item in nft.list("list chain ip guard forward"):
        if "rule" in item:
            match = item["rule"]["expr"][0]["match"]
            found.append(f"{match['left']['meta']['key']} {match['right']}")
    return sorted(found)


def policies(coexistence: Coexistence, *networks: NetworkRules) -> list[str]:
    """What is told of chains that drop."""
    return [one for one in coexistence.diagnose(networks, []) if "policy" in one]


@pytest.mark.usefixtures("guard")
def test_of_accepts_that_stand_there_twice_one_stays(nft: Nft, open_coexistence: Callable[..., Coexistence]) -> None:
    """As after two of us who did not know of each other."""
    coexistence = open_coexistence()
    coexistence.sync(["pba", "pbb"])
    one = ["iifname pba", "iifname pbb", "oifname pba", "oifname pbb"]
    assert accepts(nft) == one
    for key in ("iifname", "oifname"):
        nft.run(f'insert rule ip guard forward {key} "pba" accept comment "{MARK} pba"')
    nft.run('insert rule ip guard forward iifname "pba" accept comment "another pba"')
    assert len(accepts(nft)) == 7
    coexistence.sync(["pba", "pbb"])
    assert accepts(nft) == ["iifname pba", *one], "and what another marked is the other's"
    coexistence.sync([])
    assert accepts(nft) == ["iifname pba"]


def test_a_chain_that_can_not_be_changed_is_left_alone_and_told(
    nft: Nft, open_coexistence: Callable[..., Coexistence]
) -> None:
    owner = Nft()
    try:
        owner.run(DROPPING.format(flags="flags owner; "))
        coexistence = open_coexistence()
        coexistence.sync(["pba"])
        (said,) = policies(coexistence, NETWORK)
        assert said.startswith("The policy of chain ip guard forward is drop; packets of pba may be lost there")
        assert said.endswith("accept them in ip guard forward.")
        assert policies(coexistence) == [], "nobody's packets are lost"
    finally:
        owner.close()  # its table goes with it
    nft.run(DROPPING.format(flags=""))
    coexistence.sync(["pba"])
    assert policies(coexistence, NETWORK) == []
    nft.run("delete table ip guard")


@pytest.mark.usefixtures("guard")
@pytest.mark.parametrize("asked", ["list chains", "list chain ip guard forward"], ids=["reading", "writing"])
def test_a_chain_that_goes_in_the_meantime_is_no_failure(
    nft: Nft, open_coexistence: Callable[..., Coexistence], monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    ask = Nft.list

    def removing(self: Nft, command: str) -> list[dict[str, Any]]:
        answer = ask(self, command)
        if command == asked:
            self.run("delete table ip guard")
        return answer

    monkeypatch.setattr(Nft, "list", removing)
    open_coexistence().sync(["pba"])
    monkeypatch.undo()
    assert not [item for item in nft.list("list chains") if "chain" in item]
    nft.run(DROPPING.format(flags=""))


@pytest.mark.usefixtures("guard")
def test_any_other_failure_is_told(
    open_coexistence: Callable[..., Coexistence], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Nft, commands: str, *, check: bool = False) -> None:
        raise NftError(errno.ENOMEM, "no memory")

    coexistence = open_coexistence()
    monkeypatch.setattr(Nft, "run", refused)
    with pytest.raises(NftError, match="no memory"):
        coexistence.sync(["pba"])
    monkeypatch.undo()


@pytest.mark.parametrize("version", [4, 6])
def test_legacy_tables_are_edited_where_they_drop_and_nobody_is_started_for_others(
    host: Host, open_coexistence: Callable[..., Coexistence], version: int
) -> None:
    program = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    try:
        check_installed()
        run(program, "-A", "FORWARD", "-i", "other", "-j", "ACCEPT")
    except (NotSupported, FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no legacy iptables here: {error}")
    assert "filter" in detect.legacy_tables(version)
    others = run(program, "-S", "FORWARD")
    coexistence = open_coexistence(legacy=True)
    assert coexistence._tables is not None
    coexistence.sync(["pba"])
    assert not coexistence._tables.running(version), "there is nothing to mend"
    assert run(program, "-S", "FORWARD") == others
    run(program, "-P", "FORWARD", "DROP")
    coexistence.sync(["pba"])
    assert coexistence._tables.running(version)
    ours = [line for line in run(program, "-S", "FORWARD").splitlines() if MARK in line]
    assert sorted(line.split()[2] for line in ours) == ["-i", "-o"]
    assert run(program, "-S", "FORWARD").splitlines()[1:3] == ours, "before what others have there"
    run(program, "-P", "FORWARD", "ACCEPT")
    coexistence.sync(["pba"])
    assert run(program, "-S", "FORWARD") == others, "what is not needed any more goes"
    run(program, "-P", "FORWARD", "DROP")
    coexistence.sync(["pba"])
    run(program, "-P", "FORWARD", "ACCEPT")
    coexistence.close()
    after = open_coexistence(legacy=True)
    after.sync(["pba"])
    assert MARK in run(program, "-S", "FORWARD"), "it does no harm, and a process only for it costs more"
    after.sync([])
    assert run(program, "-S", "FORWARD") == others
    run(program, "-F", "FORWARD")


def test_a_legacy_translation_of_a_port_of_ours_is_told_and_nobody_is_started_where_none_can_be(
    host: Host, open_coexistence: Callable[..., Coexistence]
) -> None:
    rule = ("PREROUTING", "-p", "tcp", "--dport", "8080", "-j", "REDIRECT")
    try:
        check_installed()
        run("iptables-legacy", "-t", "nat", "-A", *rule)
    except (NotSupported, FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no legacy iptables here: {error}")
    coexistence = open_coexistence(legacy=True)
    assert coexistence._tables is not None

    def translations(*ports: PortRule) -> list[str]:
        return [one for one in coexistence.diagnose([NETWORK], ports) if "translates" in one]

    assert translations() == []
    assert not coexistence._tables.running(4), "nothing is published"
    assert translations(PortRule("udp", "", 8080, "10.77.1.2", 80, "pba")) == []
    assert translations(PortRule("tcp", "", 8081, "10.77.1.2", 80, "pba")) == []
    (said,) = translations(PortRule("tcp", "", 8080, "10.77.1.2", 80, "pba"))
    assert said.startswith("Chain legacy nat PREROUTING translates tcp port 8080 too")
    run("iptables-legacy", "-t", "nat", "-D", *rule)
