"""The playground: a host and its LAN, for root and for anybody, of which nothing remains."""

from __future__ import annotations

import functools
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pynet.plugins import demo

PYNET = [sys.executable, "-I", "-m", "pynet"]
LIMIT = 60.0
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
UNMAPPED = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
"""Not root either: user 1000 of a namespace without capabilities, but to the files and cgroups outside who we are."""


@functools.cache
def nobody_can_run_this() -> bool:
    """Whether this Python may be read by others (one in root's home may not)."""
    inside = [sys.executable, "-I", "-c", "import pynet"]
    return (
        subprocess.run([*NOBODY, *PYNET, "playground", "--", *inside], capture_output=True, check=False).returncode == 0
    )


pytestmark = pytest.mark.system


@pytest.fixture(params=["root", "ordinary"])
def who(request: pytest.FixtureRequest) -> list[str]:
    """What comes before a command so that root, or somebody else, runs it."""
    if request.param == "root":
        return []
    return NOBODY if nobody_can_run_this() else UNMAPPED


def play(
    who: list[str], directory: Path, *words: str, stdin: str = "", timeout: float = LIMIT
) -> subprocess.CompletedProcess[str]:
    """``pynet playground WORDS`` whose directory lies in *directory*."""
    return subprocess.run(
        [*who, *PYNET, "playground", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "TMPDIR": str(directory)},
        check=False,
    )


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A directory for playgrounds to be made in: what is in it afterwards was left behind."""
    path = Path("/tmp") / f"pt{os.getpid()}-{abs(hash(tmp_path)) % 10**6}"
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.fixture(autouse=True)
def nothing_left(short: Path) -> object:
    yield
    left = os.listdir(short)
    short.rmdir() if not left else None
    assert not left


def test_a_host_with_a_lan(who: list[str], short: Path) -> None:
    script = """
        id -u; hostname; ls /sys/class/net | sort | tr '\\n' ' '; echo
        test "$PYNET_ROOT" = "$PYNET_PLAYGROUND/root" && test -d "$PYNET_ROOT" && echo root
        test "$DOCKER_HOST" = "unix://$PYNET_RUN/pynet.sock" && test "$PYNET_CONFIG_FILE" = /dev/null && echo docker
        pynet --version
        pynet playground --lan -- sh -c 'ls /sys/class/net >/dev/null; cat /proc/net/dev | grep -c eth0'
        echo $$ is not 1; cat /proc/1/comm >/dev/null && echo proc
        exit 7
    """
    done = play(who, short, "--", "sh", "-c", script)
    assert done.returncode == 7, done
    lines = done.stdout.splitlines()
    assert lines[:5] == ["0", "playground", "lan0 lo ", "root", "docker"], done
    assert lines[5].startswith("pynet version ")
    assert lines[6] == "1"
    assert lines[-1] == "proc"


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"])
def test_host_and_client_reach_each_other_at_once(who: list[str], short: Path, address: str) -> None:
    """A connection right after the start, from either side to the other: refused, which only the other one can say."""
    probe = f"""
import socket
s = socket.socket({"socket.AF_INET6" if ":" in address else "socket.AF_INET"})
s.settimeout(20)
try: s.connect(({address!r}, 9))
except ConnectionRefusedError: print("refused")
"""
    lan = ["pynet", "playground", "--lan", "--"] if address in ("192.0.2.1", "2001:db8::1") else []
    assert play(who, short, "--", *lan, sys.executable, "-I", "-c", probe).stdout == "refused\n"


JOINING = r"""
    mkfifo $TMPDIR/up $TMPDIR/end
    "$@" playground -- sh -c 'echo $PYNET_PLAYGROUND >$TMPDIR/up; read x <$TMPDIR/end; cat $PYNET_PLAYGROUND/said' &
    read directory <$TMPDIR/up
    "$@" playground --join -- sh -c '
        id -u; hostname; ls /sys/class/net | sort | tr "\n" " "; echo; echo $PYNET_PLAYGROUND
        echo joined >$PYNET_PLAYGROUND/said; pynet playground --lan -- sh -c "grep -c eth0 /proc/net/dev"
        ls -d /proc/1/fd; exit 3'
    echo $? $directory
    echo >$TMPDIR/end
    wait $!
    rm $TMPDIR/up $TMPDIR/end
    "$@" playground --join -- true
"""


def test_a_second_shell_joins(who: list[str], short: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(short)}
    words = [*who, "sh", "-c", JOINING, "sh", *PYNET]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, env=environ, check=False)
    user, name, links, directory, on_lan, init, code, said = done.stdout.splitlines()
    assert (user, name, links, on_lan, init, said) == ("0", "playground", "lan0 lo ", "1", "/proc/1/fd", "joined"), done
    assert code == f"3 {directory}"
    assert done.returncode == 1
    assert "no playground of yours is running" in done.stderr


def test_exit_codes(who: list[str], short: Path) -> None:
    assert play(who, short, "--", "sh", "-c", "kill -KILL $$").returncode == 137
    assert play(who, short, "--", "nosuchcommand").returncode == 127
    assert play(who, short, "--", "/etc").returncode == 126
    assert play(who, short, "--", "true").returncode == 0


def test_the_shell_reads_stdin(short: Path) -> None:
    assert play([], short, stdin="echo $PYNET_PLAYGROUND | cut -c1-5\nexit 3\n").returncode == 3


def test_all_ends_with_the_command(who: list[str], short: Path) -> None:
    """A process that is left behind, in a session of its own, holds a pipe: its end is the end of the pipe."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*who, *PYNET, "playground", "--", "sh", "-c", f"setsid sleep 1000 >&{writer} 2>&1 & sleep 0.05"],
        pass_fds=[writer],
        env={**os.environ, "TMPDIR": str(short)},
    )
    os.close(writer)
    assert process.wait(LIMIT) == 0
    assert select.select([reader], [], [], LIMIT)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(short: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*PYNET, "playground", "--", "sh", "-c", "echo up; sleep 1000"],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(short)},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(LIMIT) == 137


def test_killed_from_outside_nothing_lives_on(short: Path) -> None:
    process = subprocess.Popen(
        [*PYNET, "playground", "--", "sh", "-c", "echo up; sleep 1000"],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(short)},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        process.kill()
        process.wait(LIMIT)
        assert process.stdout.read() == b""  # everybody who could write has ended
    (left,) = short.iterdir()
    left.rmdir()  # all that nobody was there to remove: an empty directory


def test_where_it_is_forbidden_it_says_by_what(short: Path) -> None:
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -sys_admin "$@"'
    who = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    done = play(who, short, "--", "true")
    assert done.returncode == 125
    first, second = done.stderr.splitlines()
    assert first.startswith("pynet: cannot make a user namespace: ")
    assert "user.max_user_namespaces is 0" in second


def test_lan_is_for_the_inside() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYNET_LAN_NETNS"}
    done = subprocess.run(
        [*PYNET, "playground", "--lan", "--", "true"], capture_output=True, text=True, env=environ, check=False
    )
    assert done.returncode == 125
    assert "there is no LAN here" in done.stderr


def test_cgroups_of_containers_are_removed(short: Path) -> None:
    script = "pynet image bootstrap >/dev/null && pynet run -d busybox sleep 1000 >/dev/null && echo $PYNET_ROOT"
    done = play([], short, "--", "sh", "-c", script)
    assert done.returncode == 0, done
    from pynet.netlib.instance import Instance

    name = Instance.at(done.stdout.strip(), "/nowhere").cgroup
    assert not [where for where, names, _ in os.walk("/sys/fs/cgroup") if name in names]


# -- the demo -----------------------------------------------------------------------------------------------------


def test_the_demo(who: list[str], short: Path) -> None:
    if who is UNMAPPED:
        pytest.skip("nobody but root can read this Python")
    done = subprocess.run(
        [*who, sys.executable, "-I", "-m", "pynet.plugins.demo"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "TMPDIR": str(short)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"Hello from a container."') == 6
    assert "FAILED" not in done.stdout
    commands = ("pynet run -d", "pynet ps", "pynet run --rm", "pynet check", "pynet rm", "pynet daemon stop")
    places = [done.stdout.index(f"    {command}") for command in commands]
    assert places == sorted(places), "who reads it follows the container from its start to its end"
    assert "\033" not in done.stdout
    assert "What to type next" in done.stdout
    assert done.stderr == ""


def test_the_demo_tells_what_is_left() -> None:
    before = {"links": {"lo"}, "mounts": {"a", "b"}}
    assert demo.difference(before, {"links": {"lo", "x"}, "mounts": {"a"}}) == ["links: +x", "mounts: -b"]
    assert demo.difference(before, before) == []
