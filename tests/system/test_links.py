"""Links over a default bridge whose containers are apart: by packets, over both firewall back ends, and closed with the link."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.plugins.testhost import Host

from support.engine import Daemon
from support.waiting import PATIENCE

SEEN = "/proc/sys/net/bridge/bridge-nf-call-iptables"
"""Whether the firewall sees what is bridged; where it does not, the bridge itself keeps its ports apart."""
HOSTS = [
    ("nftables", "1"),
    ("nftables", "0"),
    pytest.param(("iptables", "0"), marks=pytest.mark.skipif(not shutil.which("iptables"), reason="no iptables")),
]


@pytest.fixture(params=HOSTS, ids="-".join)
def daemon(request: pytest.FixtureRequest, host: Host) -> Iterator[Daemon]:
    """Four IPv4 addresses for containers, so that each is soon somebody else's."""
    firewall, seen = request.param
    for path in (SEEN, SEEN.replace("iptables", "ip6tables")):
        if os.path.exists(path):
            Path(path).write_text(seen)
    words = "--icc=false --bip 10.5.0.1/24 --fixed-cidr 10.5.0.4/30 --fixed-cidr-v6 fd00:5::/64"
    with Daemon.running("--firewall", firewall, *words.split()) as daemon:
        daemon.bootstrap()
        yield daemon


def run(daemon: Daemon, name: str, *words: str) -> None:
    """A container that serves two ports by the time this returns."""
    serve = "httpd -p 80 -h /etc; exec httpd -f -p 81 -h /etc"
    done = daemon.pynet("run", "-d", "--name", name, *words, "busybox", "sh", "-c", serve)
    assert done.returncode == 0, done.stderr
    for port in (80, 81):
        daemon.eventually(lambda at=f"127.0.0.1:{port}": reaches(daemon, name, at))


def addresses(daemon: Daemon, name: str) -> tuple[str, str]:
    settings = daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["Networks"]["bridge"]
    return settings["IPAddress"], f"[{settings['GlobalIPv6Address']}]"


ASK = """for one; do { timeout $WAIT wget -q -O /dev/null http://$one/hosts; echo $?; } & done; wait"""
"""All at once.  The option -T of Debian's busybox ends wget by a signal."""


def reaches(daemon: Daemon, name: str, *at: str, wait: float = 1) -> bool:
    """Whether a container gets an answer at each of these; False when it gets none at any."""
    said = daemon.pynet("exec", "-e", f"WAIT={wait:g}", name, "sh", "-c", ASK, "sh", *at).stdout.split()
    assert len(said) == len(at)
    assert len({code == "0" for code in said}) == 1, dict(zip(at, said))
    return said[0] == "0"


def test_exposed_ports_are_open_to_who_has_the_link_and_to_nobody_else(daemon: Daemon) -> None:
    run(daemon, "db", "--expose", "80", "-h", "dbhost")
    run(daemon, "other")
    db = addresses(daemon, "db")
    assert not reaches(daemon, "other", *db)
    run(daemon, "box", "--link", "db:store")
    for _ in range(3):  # the host tells of a shorter way, and there is none
        assert reaches(daemon, "box", "store", *db, wait=PATIENCE)
    assert not reaches(daemon, "box", *(f"{address}:81" for address in db)), "a port that is not exposed"
    assert not reaches(daemon, "other", *db), "a container without the link"
    assert not reaches(daemon, "db", *addresses(daemon, "box")), "the other way"
    environment = daemon.pynet("exec", "box", "env").stdout
    assert "STORE" not in environment and "DB" not in environment, "as Docker since 29"
    assert daemon.get("/pynet/check").body == []

    daemon.wait_back(daemon.kill())
    assert reaches(daemon, "box", "store", wait=PATIENCE)
    assert daemon.get("/pynet/check").body == []


def test_a_link_ends_with_either_of_the_two(daemon: Daemon) -> None:
    run(daemon, "db", "-p", "127.0.0.1:8080:80")
    run(daemon, "box", "--link", "db")
    db, box = addresses(daemon, "db"), addresses(daemon, "box")
    assert reaches(daemon, "box", *db, wait=PATIENCE), "a published port is exposed"

    daemon.docker("rm", "-f", "box")
    while True:  # until somebody has its address
        run(daemon, "thief")
        if addresses(daemon, "thief")[0] == box[0]:
            break
        daemon.docker("rm", "-f", "thief")
    assert not reaches(daemon, "thief", db[0])
    daemon.docker("rm", "-f", "thief")

    run(daemon, "box", "--link", "db")
    assert reaches(daemon, "box", *db, wait=PATIENCE)
    daemon.docker("stop", "-t", "0", "db")
    while True:
        run(daemon, "heir")
        if addresses(daemon, "heir")[0] == db[0]:
            break
        daemon.docker("rm", "-f", "heir")
    assert not reaches(daemon, "box", addresses(daemon, "heir")[0])
    daemon.docker("rm", "-f", "heir")
    daemon.docker("start", "db")
    assert reaches(daemon, "box", "db", *addresses(daemon, "db"), wait=PATIENCE), (
        "the link is there again, wherever db is now"
    )

    daemon.docker("network", "create", "side")
    daemon.docker("network", "connect", "side", "db")
    old = addresses(daemon, "db")
    daemon.docker("network", "disconnect", "bridge", "db")
    assert not reaches(daemon, "box", *old)
    assert "db" not in daemon.pynet("exec", "box", "cat", "/etc/hosts").stdout.split()  # an id may have it in it
    assert daemon.get("/pynet/check").body == []
    daemon.docker("network", "connect", "bridge", "db")
    assert reaches(daemon, "box", "db", wait=PATIENCE)
