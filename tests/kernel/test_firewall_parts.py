"""The parts of the firewall back ends that the conformance suite does not reach: what is missing, what dies, what waits."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from pynet.netlib.errors import NotSupported
from pynet.netlib.firewall import detect as firewall_detect
from pynet.netlib.firewall.choice import select_backend
from pynet.netlib.firewall.coexist import Coexistence
from pynet.netlib.firewall.intents import NetworkRules, PortRule
from pynet.netlib.firewall.iptables import process
from pynet.netlib.firewall.iptables import render as ipt_render
from pynet.netlib.firewall.iptables.backend import IptablesBackend
from pynet.netlib.firewall.iptables.process import IptablesError, LegacyTables, check_installed
from pynet.netlib.firewall.iptables.render import Rule
from pynet.netlib.firewall.nftables import render as nft_render
from pynet.netlib.firewall.nftables.backend import NftablesBackend
from pynet.netlib.ipc import Channel
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


@pytest.mark.parametrize(
    "commands",
    [
        "add chain inet pynet forward { policy drop; }",
        "add table inet pynet { flags dormant; }",
        "flush chain inet pynet guard; add rule inet pynet guard accept; add rule inet pynet guard accept",
    ],
)
def test_rules_that_others_wrote_in_the_place_of_ours_are_noticed(host: Host, commands: str) -> None:
    backend = NftablesBackend()
    try:
        backend.replace([NETWORK], [PORT])
        run("nft", "add rule inet pynet pynet_user counter")
        assert not backend.mend()  # that chain is the user's
        run("nft", commands)
        assert backend.state() == ([], [])
        assert backend.mend()
        assert backend.state() == ([NETWORK], [PORT])
        assert not backend.mend()
        assert "policy drop" not in run("nft", "list", "table", "inet", "pynet")
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


@pytest.mark.parametrize("name", ["nftables", "iptables"])
def test_a_change_that_fails_in_the_chains_of_others_leaves_nothing(
    host: Host, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        backend = select_backend(name)
    except NotSupported as error:
        pytest.skip(str(error))
    second = NetworkRules("pbb", ("10.77.2.0/24", "fd77:2::/64"))
    other = PortRule("tcp", "", 8081, "10.77.1.2", 80, "pba")
    sync = Coexistence.sync

    def failing(self: Coexistence, bridges: Iterable[str]) -> None:
        bridges = list(bridges)
        sync(self, bridges)
        if bridges != ["pba"]:
            raise OSError(errno.ENOMEM, "no memory")

    try:
        backend.replace([NETWORK], [PORT])
        monkeypatch.setattr(Coexistence, "sync", failing)
        changes: list[Callable[[], None]] = [
            lambda: backend.add_network(second),
            lambda: backend.remove_network("pba"),
            lambda: backend.replace([NETWORK, second], [PORT, other]),
            lambda: backend.replace([], []),
        ]
        for change in changes:
            with pytest.raises(OSError, match="no memory"):
                change()
            assert backend.state() == ([NETWORK], [PORT])
            backend.add_ports([other])
            assert backend.state()[0] == [NETWORK]
            backend.remove_ports([other])
            assert backend.state() == ([NETWORK], [PORT]), "what follows starts from there"
    finally:
        monkeypatch.undo()
        backend.destroy()
        backend.close()


def test_a_change_that_can_not_be_undone_either_says_both(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = NftablesBackend()
    failures = iter([OSError(errno.ENOMEM, "no memory"), OSError(errno.EIO, "no way back")])

    def failing(self: Coexistence, bridges: Iterable[str]) -> None:
        raise next(failures)

    try:
        backend.replace([NETWORK], [])
        monkeypatch.setattr(Coexistence, "sync", failing)
        with pytest.raises(OSError, match="no memory") as caught:
            backend.add_network(NetworkRules("pbb", ("10.77.2.0/24",)))
        assert caught.value.__notes__ == ["while putting the rules back: [Errno 5] no way back"]
        monkeypatch.undo()
        backend.add_ports([PORT])
        assert backend.state() == ([NETWORK], [PORT]), "the next change writes all anew"
    finally:
        monkeypatch.undo()
        backend.destroy()
        backend.close()


def test_a_change_in_pieces_that_fails_in_the_middle_leaves_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = NftablesBackend()
    ports = [PortRule("tcp", "", port, "10.77.1.2", 80, "pba") for port in range(10000, 14000)]
    act = Nft.run
    refused = False

    def run_pieces(self: Nft, commands: str, *, check: bool = False) -> None:
        nonlocal refused
        if commands.count("\n") > 1 and "element" in commands:
            raise NftError(errno.EMSGSIZE, "too large")  # what the kernel says to an unprivileged socket
        if "13500" in commands and not refused:
            refused = True
            raise NftError(errno.ENOMEM, "no memory")
        act(self, commands, check=check)

    try:
        backend.replace([NETWORK], [PORT])
        monkeypatch.setattr(Nft, "run", run_pieces)
        with pytest.raises(NftError, match="no memory"):
            backend.add_ports(ports)
        assert backend.state() == ([NETWORK], [PORT])
        refused = False
        with pytest.raises(NftError, match="no memory"):
            backend.replace([NETWORK], ports)
        assert backend.state() == ([NETWORK], [PORT])
        backend.add_ports(ports)
        assert len(backend.state()[1]) == 4001
    finally:
        monkeypatch.undo()
        backend.destroy()
        backend.close()


# -- legacy tables ------------------------------------------------------------------------------------------------------


def test_a_killed_process_is_started_again(legacy: LegacyTables) -> None:
    legacy.apply(4, add=[RULE])
    (running,) = (p for p in legacy._processes.values())
    os.kill(running.popen.pid, signal.SIGKILL)
    running.popen.wait()
    assert legacy.save(4).count(RULE) == 1
    legacy.apply(4, delete=[RULE])
    assert legacy.save(4).count(RULE) == 0


def lose_answers(legacy: LegacyTables, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The next *count* answers arrive and are lost, as those of a process that is killed right after its work."""
    receive = Channel.receive
    left = itertools.count(count, -1)

    def losing(self: Channel) -> object:
        answer = receive(self)
        if next(left) > 0:
            raise TimeoutError("lost")
        return answer

    legacy.save(4)
    monkeypatch.setattr(Channel, "receive", losing)


def test_a_change_without_an_answer_is_not_made_twice(legacy: LegacyTables, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_answers(legacy, monkeypatch, 1)
    with pytest.raises(process.Unanswered):
        legacy.apply(4, add=[RULE])
    lose_answers(legacy, monkeypatch, 1)
    assert legacy.save(4).count(RULE) == 1, "to look may be asked for twice"
    lose_answers(legacy, monkeypatch, 1)
    with pytest.raises(process.Unanswered):
        legacy.restore(4, ipt_render.edit([RULE], ()))
    assert legacy.save(4).count(RULE) == 2
    legacy.apply(4, delete=[RULE, RULE])


def test_the_back_end_looks_again_and_the_change_is_there_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        backend = IptablesBackend()
    except NotSupported as error:
        pytest.skip(str(error))
    try:
        backend.replace([NETWORK], [])
        lose_answers(backend._tables, monkeypatch, 1)
        backend.add_ports([PORT])
        assert backend.state() == ([NETWORK], [PORT])
        assert run("iptables-legacy-save").count("--dport 8080") == 1
        lose_answers(backend._tables, monkeypatch, 1)
        backend.remove_ports([PORT])
        assert backend.state() == ([NETWORK], [])
    finally:
        backend.destroy()
        backend.close()


def test_hooks_that_stand_there_twice_become_one(host: Host) -> None:
    try:
        backend = IptablesBackend()
    except NotSupported as error:
        pytest.skip(str(error))
    try:
        backend.replace([NETWORK], [PORT])
        run("iptables-legacy", "-I", "FORWARD", "-j", "PYNET-FWD")
        assert backend.state() == ([], [])
        backend.add_ports([PORT])
        assert backend.state() == ([NETWORK], [PORT])
    finally:
        backend.destroy()
        backend.close()


def test_a_silent_process_ends_with_the_program_that_it_waits_for(
    legacy: LegacyTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """iptables-restore, left alone, would commit when it gets the lock: after the next change."""
    monkeypatch.setattr(process, "ANSWER_TIMEOUT", 0.5)
    fd = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(process.Unanswered):
            legacy.restore(4, ipt_render.edit([RULE], ()))
        fcntl.flock(fd, fcntl.LOCK_UN)
        # who holds the lock from here on has it because no iptables-restore waits for it any more
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)
    monkeypatch.setattr(process, "ANSWER_TIMEOUT", 60.0)
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


def test_the_legacy_policy_is_read_while_others_write(host: Host) -> None:
    """The kernel hands out a table of the size that it was asked for, or EAGAIN."""
    try:
        run("iptables-legacy", "-P", "FORWARD", "DROP")
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no legacy iptables here: {error}")
    ends = threading.Event()

    def write() -> None:
        for verb in itertools.cycle("ID"):
            if ends.is_set():
                return
            run("iptables-legacy", f"-{verb}", "FORWARD", "-j", "ACCEPT")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20000):
            assert firewall_detect.legacy_forward_drops(4)
    finally:
        ends.set()
        writer.join()
        run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
        run("iptables-legacy", "-F")
