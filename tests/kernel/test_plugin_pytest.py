"""The pytest plugin as another project sees it: suites of their own, run by a pytest of their own."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from pynet.plugins.testhost import Host, Lan, playing_host

from support.suites import run_suite

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_documents_example_works(tmp_path: Path) -> None:
    source = re.search(r"`test_site.py`:\n\n```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert source is not None
    counts, output = run_suite(tmp_path, source[1], "--pynet-isolate", autoload=True)
    assert counts == {"passed": 2}, output


def test_isolation_by_the_ini_file(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\npynet_isolate = true\n")
    inode = os.stat("/proc/self/ns/mnt").st_ino
    source = f"""
import os

def test_moved(pynet_host):
    assert os.stat("/proc/self/ns/mnt").st_ino != {inode}
    assert os.listdir("/run") == []
"""
    counts, output = run_suite(tmp_path, source)
    assert counts == {"passed": 1}, output


def test_nothing_moves_unasked(tmp_path: Path) -> None:
    source = f"""
import os, sys

def test_here():
    assert os.stat("/proc/self/ns/net").st_ino == {os.stat("/proc/self/ns/net").st_ino}
    assert "pynet.netlib.kernel.rtnetlink" not in sys.modules
"""
    counts, output = run_suite(tmp_path, source)
    assert counts == {"passed": 1}, output


LEFTOVERS = {
    "links": 'pynet_host.rtnl.add_bridge("br0")',
    "addresses": 'pynet_host.rtnl.add_address(1, "10.0.0.1", 24)',
    "routes": 'pynet_host.rtnl.add_route(RouteInfo("10.9.0.0/16", device=1))',
    "rules": 'pynet_host.run(["ip", "rule", "add", "priority", "7", "table", "77"])',
    "nftables": 'pynet_host.run(["nft", "add table inet left"])',
    "iptables": 'pynet_host.run(["iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT"])',
    "mounts": 'mount("x", str(tmp_path), "tmpfs")',
    "sockets": 'KEPT.append(socket.create_server(("127.0.0.1", 0)))',
    "threads": "threading.Thread(target=threading.Event().wait, daemon=True, name='left').start()",
    "fds": "os.dup(0)",
    "processes": 'subprocess.run(["sh", "-c", "sleep 1000 <&- >&- 2>&- &"], check=True)',
}


def test_whatever_is_left_fails_the_test_and_only_that_one(tmp_path: Path) -> None:
    source = """
import os
import socket
import subprocess
import threading
import pytest

from pynet.netlib.kernel.rtnetlink import RouteInfo
from pynet.netlib.kernel.syscall import mount

KEPT = []

@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("pynet.plugins.testhost.SETTLE", 0.05)

"""
    for section, statement in LEFTOVERS.items():
        source += f"def test_{section}(pynet_host, tmp_path):\n    {statement}\n\n"
    source += "def test_clean(pynet_host):\n    assert [link.name for link in pynet_host.rtnl.links()] == ['lo']\n"
    counts, output = run_suite(tmp_path, source, "--pynet-isolate")
    assert counts == {"passed": len(LEFTOVERS) + 1, "error": len(LEFTOVERS)}, output
    assert output.count("the test left network state behind") >= len(LEFTOVERS)
    for section in LEFTOVERS:
        assert re.search(rf"^\+ {section}: ", output, re.MULTILINE), f"{section} was not noticed\n{output}"
    assert "Snapshot(" not in output and "Traceback" not in output and "testhost.py" not in output, "buried the message"


def test_a_leak_that_can_not_go_by_itself_is_told_at_once(tmp_path: Path) -> None:
    """And one that can: a veth whose peer's namespace the kernel still takes apart is none."""
    source = """
import time
import pytest

@pytest.fixture(autouse=True)
def quick(request):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 4, "waited for what can not change"

@pytest.fixture
def late(quick, pynet_host):  # torn down before the host
    return pynet_host

def test_leaks(late):
    late.rtnl.add_bridge("br0")

def test_dying(late):
    namespace = late.namespace()
    late.rtnl.add_veth("dying", "eth0", netns_fd=namespace.fd)
    namespace.close()
"""
    counts, output = run_suite(tmp_path, source, "--pynet-isolate")
    assert counts == {"passed": 2, "error": 1}, output
    assert "+ links: 2 br0 bridge" in output


def test_a_program_that_fails_says_why(host: Host) -> None:
    with pytest.raises(subprocess.CalledProcessError, match=r"status 3.*\n.*no such thing") as caught:
        host.run(["sh", "-c", "echo no such thing >&2; exit 3"])
    assert caught.value.stderr == "no such thing\n"


def test_programs_of_the_test_are_ended(tmp_path: Path) -> None:
    source = """
def test_programs(pynet_host, pynet_lan):
    for namespace in (pynet_host, pynet_lan):
        namespace.popen(["sleep", "1000"])
    assert "192.0.2.2" in pynet_lan.run(["ip", "-o", "address"]).stdout
"""
    counts, output = run_suite(tmp_path, source, "--pynet-isolate")
    assert counts == {"passed": 1}, output


def test_workers_do_not_see_each_other(tmp_path: Path) -> None:
    source = """
import os
import pytest

from pynet.plugins.testhost import Host, Lan, playing_host

@pytest.mark.parametrize("number", range(4))
def test_alone(number, pynet_host, worker_id):
    assert worker_id.startswith("gw")
    pid = os.getppid()
    for kind in ("net", "mnt"):
        assert os.stat(f"/proc/self/ns/{kind}").st_ino != os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    pynet_host.run(["nft", "add table inet mine"])
    assert pynet_host.run(["nft", "list tables"]).stdout == "table inet mine\\n"
    pynet_host.run(["nft", "delete table inet mine"])
    open(f"/run/{number}", "x").close()
"""
    counts, output = run_suite(tmp_path, source, "--pynet-isolate", "-n", "2", autoload=True)
    assert counts == {"passed": 4}, output


FORBID = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"'


@pytest.mark.parametrize(
    ("option", "reason"), [("--pynet-isolate", "neither root nor a user namespace"), ("-q", "or --pynet-isolate")]
)
def test_where_namespaces_are_forbidden_tests_are_skipped_with_the_reason(
    tmp_path: Path, option: str, reason: str
) -> None:
    """In a user namespace that allows none below it, without capabilities."""
    source = "def test_skipped(pynet_host):\n    raise AssertionError\n\ndef test_runs():\n    pass\n"
    counts, output = run_suite(tmp_path, source, option, prefix=("unshare", "-Ur", "sh", "-c", FORBID, "sh"))
    assert counts == {"passed": 1, "skipped": 1}, output
    assert reason in output


async def test_an_event_loop_lives_on_the_host(host: Host, lan: Lan) -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, lan.host_address, 0) as server:
        address = server.sockets[0].getsockname()
        with await asyncio.to_thread(lan.connect, address) as client:
            assert await asyncio.to_thread(client.recv, 10) == b"hello"


def test_iptables_nft_leaves_husks_that_do_not_count(host: Host) -> None:
    before = host.snapshot()
    rule = ["FORWARD", "-s", "10.0.0.0/8", "-j", "ACCEPT"]
    host.run(["iptables-nft", "-A", *rule])
    assert "10.0.0.0" in before.difference(host.snapshot())
    host.run(["iptables-nft", "-D", *rule])
    assert "FORWARD" in host.run(["nft", "list", "ruleset"]).stdout
    assert host.snapshot() == before
    host.run(["iptables-nft", "-P", "FORWARD", "DROP"])
    assert "FORWARD" in before.difference(host.snapshot())
    host.run(["iptables-nft", "-P", "FORWARD", "ACCEPT"])


def test_packets_that_a_legacy_policy_counts_are_no_difference(host: Host) -> None:
    tables = Path("/proc/thread-self/net/ip_tables_names")
    done = host.run(["iptables-legacy", "-P", "OUTPUT", "DROP"], check=False)
    if done.returncode or not tables.exists():
        pytest.skip(f"legacy iptables do not work here: {done.stderr}")
    before = host.snapshot()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(PermissionError):
        sock.sendto(b"counted", ("127.0.0.1", 9))
    assert "OUTPUT DROP [1:" in host.run(["iptables-legacy-save"]).stdout
    assert host.snapshot() == before
    host.run(["iptables-legacy", "-P", "OUTPUT", "ACCEPT"])


def test_hosts_can_be_nested_and_end_where_they_began() -> None:
    inode = os.stat("/proc/thread-self/ns/net").st_ino
    descriptors = len(os.listdir("/proc/self/fd"))
    with playing_host() as outer:
        index = outer.rtnl.add_bridge("br0")
        with playing_host() as inner:
            assert [link.name for link in inner.rtnl.links()] == ["lo"]
        assert outer.rtnl.link("br0") is not None
        outer.rtnl.delete_link(index)
    assert os.stat("/proc/thread-self/ns/net").st_ino == inode
    assert len(os.listdir("/proc/self/fd")) == descriptors
