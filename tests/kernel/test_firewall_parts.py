"""The parts of the firewall back ends that the conformance suite does not reach: what is missing, what dies, what waits."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.netlib.errors import NotSupported
from pynet.netlib.firewall import detect as firewall_detect
from pynet.netlib.firewall.choice import select_backend
from pynet.netlib.firewall.intents import NetworkRules, PortRule
from pynet.netlib.firewall.iptables.process import IptablesError, LegacyTables, check_installed
from pynet.netlib.firewall.iptables.render import Rule
from pynet.netlib.firewall.nftables import render as nft_render
from pynet.netlib.firewall.nftables.backend import NftablesBackend
from pynet.netlib.kernel import libnftables
from pynet.netlib.kernel.libnftables import Nft, NftError
from pynet.plugins.testhost import Host

NETWORK = NetworkRules("pba", ("10.77.1.0/24",))
PORT = PortRule("tcp", "", 8080, "10.77.1.2", 80, "pba")
RULE = Rule("filter", "INPUT", "ACCEPT", iface="pba")


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def nft(host: Host) -> Iterator[Nft]:
    nft = Nft()
    yield nft
    nft.close()


@pytest.fixture
def legacy(host: Host, tmp_path: Path) -> Iterator[LegacyTables]:
    try:
        check_installed()
    except NotSupported as error:
        pytest.skip(str(error))
    tables = LegacyTables(str(tmp_path / "lock"))
    yield tables
    tables.close()


# -- libnftables --------------------------------------------------------------------------------------------------------


def test_errors_have_a_number(nft: Nft) -> None:
    for command, number in (
        ("delete table inet nothing", errno.ENOENT),
        ("add table inet t; create table inet t", errno.EEXIST),
        ("nonsense", errno.EINVAL),
    ):
        with pytest.raises(NftError) as caught:
            nft.run(command)
        assert caught.value.errno == number
    assert not run("nft", "list", "ruleset"), "a refused transaction leaves nothing"


def test_a_check_changes_nothing(nft: Nft) -> None:
    nft.run(nft_render.base("pynet"), check=True)
    assert not run("nft", "list", "ruleset")


def test_a_closed_context_says_so(nft: Nft) -> None:
    nft.close()
    nft.close()
    with pytest.raises(OSError, match="closed"):
        nft.run("list tables")


def test_without_the_library_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "LIBRARY", "libnowhere.so.1")
    with pytest.raises(NotSupported, match="libnowhere") as caught:
        select_backend("nftables")
    assert "install" in caught.value.hint


def test_without_privilege_the_message_says_what_to_do(host: Host) -> None:
    code = (
        "from pynet.netlib.firewall.choice import select_backend\n"
        "from pynet.netlib.errors import NotSupported\n"
        "try: select_backend('nftables')\n"
        "except NotSupported as error: print(error, '|', error.hint)"
    )
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    said = run(*drop, sys.executable, "-c", code)
    assert "no permission" in said
    assert "unshare -Urnm" in said


def test_a_table_altered_by_others_is_written_anew(host: Host) -> None:
    backend = NftablesBackend()
    try:
        backend.replace([NETWORK], [PORT])
        run("nft", "flush", "map", "inet", "pynet", "ports4")
        backend.remove_ports([PORT])  # the kernel says ENOENT
        assert backend.state() == ([NETWORK], [])
        run("nft", "add", "element", "inet", "pynet", "ports4", "{ tcp . 8080 : 10.9.9.9 . 9 }")
        backend.add_ports([PORT])  # the kernel says EEXIST
        assert backend.state() == ([NETWORK], [PORT])
    finally:
        backend.destroy()
        backend.close()


def test_changes_larger_than_the_socket_go_in_pieces(host: Host) -> None:
    """An unprivileged socket takes some thousand elements at once (net.core.wmem_max); root's takes them all."""
    backend = NftablesBackend()
    ports = [PortRule("tcp", "", port, "10.77.1.2", 80, "pba") for port in range(10000, 18000)]
    try:
        backend.replace([NETWORK], ports)
        assert len(backend.state()[1]) == len(ports)
        backend.remove_ports(ports)
        assert backend.state() == ([NETWORK], [])
    finally:
        backend.destroy()
        backend.close()


def test_one_back_end_serves_many_threads(host: Host) -> None:
    backend = NftablesBackend()
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for port in range(first, first + 50):
                rule = PortRule("tcp", "", port, "10.77.1.2", 80, "pba")
                backend.add_ports([rule])
                if port % 2:
                    backend.remove_ports([rule])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(1, 5)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert sorted(rule.host_port for rule in backend.state()[1]) == [
            port for number in range(1, 5) for port in range(1000 * number, 1000 * number + 50, 2)
        ]
    finally:
        backend.destroy()
        backend.close()


# -- legacy tables ------------------------------------------------------------------------------------------------------


def test_a_killed_process_is_started_again(legacy: LegacyTables) -> None:
    legacy.apply(4, add=[RULE])
    (process,) = (p for p in legacy._processes.values())
    os.kill(process.popen.pid, signal.SIGKILL)
    process.popen.wait()
    assert legacy.save(4).count(RULE) == 1
    legacy.apply(4, delete=[RULE])
    assert legacy.save(4).count(RULE) == 0


def test_what_is_refused_changes_nothing_and_is_forgotten(legacy: LegacyTables) -> None:
    missing = Rule("filter", "INPUT", "ACCEPT", iface="other")
    with pytest.raises(IptablesError) as caught:
        legacy.apply(4, add=[RULE], require=[missing])
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(IptablesError):
        legacy.apply(4, add=[RULE, Rule("nat", "NOWHERE", "ACCEPT")])
    with pytest.raises(IptablesError):
        legacy.restore(4, "*filter\n-A NOWHERE -j ACCEPT\nCOMMIT\n")
    other = Rule("filter", "INPUT", "DROP", iface="other")
    legacy.apply(4, add=[other])
    assert legacy.save(4).count(RULE) == 0, "half of a refused change must not ride along with the next"
    legacy.apply(4, delete=[other])


def test_changes_wait_for_whoever_holds_the_lock(legacy: LegacyTables, tmp_path: Path) -> None:
    legacy.save(4)
    fd = os.open(tmp_path / "lock", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        done = threading.Event()

        def change() -> None:
            legacy.apply(4, add=[RULE])
            done.set()

        thread = threading.Thread(target=change)
        thread.start()
        assert not done.wait(0.5)
        fcntl.flock(fd, fcntl.LOCK_UN)
        thread.join()
        assert done.is_set()
    finally:
        os.close(fd)
    legacy.apply(4, delete=[RULE])


def test_both_ways_of_writing_make_the_same_rule(legacy: LegacyTables) -> None:
    """What iptables-restore wrote, python-iptables must find, and the other way round."""
    from pynet.netlib.firewall.iptables import render as ipt_render

    names = ipt_render.Names("")
    network = NetworkRules("pba", ("10.77.1.0/24",), icc=False, loopback=True, source=("192.0.2.1",))
    guarded = PortRule("udp", "127.0.0.1", 53, "10.77.1.2", 53, "pba")
    rules = [*names.network(network, 4), *names.port(PORT, loopback=True), *names.port(guarded, loopback=True)]
    rules += names.network(NetworkRules("pbb", ("10.77.2.0/24",), internal=True), 4)
    rules += [*names.hooks(4), *names.fixed()]
    declare = [(table, names.chain(short)) for table, shorts in ipt_render.TABLES.items() for short in shorts]
    legacy.restore(4, ipt_render.edit(rules, (), [*declare, ("filter", names.user)]))
    legacy.apply(4, delete=rules, require=names.hooks(4))
    assert not any(legacy.save(4).count(rule) for rule in rules)
    legacy.apply(4, add=rules)
    assert all(legacy.save(4).count(rule) == 1 for rule in rules)
    legacy.restore(4, ipt_render.edit((), rules))
    legacy.restore(4, ipt_render.destroy(names, 4, legacy.save(4)))


# -- detection ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_the_legacy_policy_is_read_without_making_a_table(host: Host, version: int) -> None:
    program = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    assert not firewall_detect.legacy_forward_drops(version)
    assert "filter" not in firewall_detect.legacy_tables(version), "asking must not make the table"
    try:
        run(program, "-P", "FORWARD", "DROP")
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no legacy iptables here: {error}")
    assert firewall_detect.legacy_forward_drops(version)
    run(program, "-A", "FORWARD", "-i", "pba", "-j", "ACCEPT")
    run(program, "-N", "OTHER")
    assert firewall_detect.legacy_forward_drops(version)
    run(program, "-P", "FORWARD", "ACCEPT")
    assert not firewall_detect.legacy_forward_drops(version)
    run(program, "-F")
    run(program, "-X")
