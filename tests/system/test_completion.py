"""Completion in real shells, with the names of a real engine.  A shell that is not installed skips its tests, by name."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pynet.cli.completion import script
from pynet.plugins.testhost import playing_host

from support.engine import Daemon
from support.waiting import PATIENCE

SCRIPTS = str(Path(sys.executable).parent)


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """With a container "webserver" and a network "backend"."""
    with playing_host(), Daemon.running() as daemon:
        daemon.bootstrap()
        assert daemon.pynet("network", "create", "backend").returncode == 0
        assert daemon.pynet("run", "-d", "--name", "webserver", "busybox", "sleep", "1000").returncode == 0
        yield daemon


@pytest.fixture(scope="module")
def environment(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a shell that knows the daemon."""
    assert shutil.which("pynet", path=SCRIPTS), "the environment of the tests has the command"
    return {
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        "HOME": str(tmp_path_factory.mktemp("home")),
        "TERM": "dumb",
        "PYNET_HOST": f"unix://{daemon.socket}",
        "LANG": "C.UTF-8",
        "PS1": "> ",
    }


class Typist:
    """A shell in a terminal: what is typed, and what it shows."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.shown = b""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self.shown:
            assert select.select([self.fd], [], [], max(deadline - time.monotonic(), 0))[0], (text, self.shown)
            self.shown += os.read(self.fd, 4096)
        self.shown = self.shown[self.shown.index(text.encode()) + len(text) :]


@contextmanager
def typing(command: list[str], environment: dict[str, str]) -> Generator[Typist]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Typist(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


ANEW = "\x15"
"""Control-U: the line that was typed is thrown away."""
LINES = [
    ("pynet netw\t", "network "),
    ("pynet network conn\t", "network connect "),
    ("pynet run --rest\t", "--restart "),
    ("pynet stop webs\t", "webserver"),
    ("pynet run --network back\t", "--network backend"),
    ("pynet run --network=back\t", "--network=backend"),
    ("pynet run --rm busybox:la\t", "busybox:latest"),
    ("pynet load -i /etc/hostna\t", "/etc/hostname"),
]
lines = pytest.mark.parametrize(("typed", "shown"), LINES, ids=[typed.strip() for typed, _ in LINES])


@pytest.fixture(scope="module")
def bash(environment: dict[str, str]) -> Iterator[Typist]:
    with typing([shell("bash"), "--norc", "--noprofile", "-i"], environment) as bash:
        bash.type("bind 'set enable-bracketed-paste off'; source <(pynet completion bash); echo rea''dy\n")
        bash.until("ready")
        yield bash


@lines
def test_bash(bash: Typist, typed: str, shown: str) -> None:
    bash.type(typed)
    bash.until(shown)
    bash.type(ANEW)


@pytest.fixture(scope="module")
def zsh(environment: dict[str, str]) -> Iterator[Typist]:
    with typing([shell("zsh"), "-f", "-i"], environment) as zsh:
        zsh.type("unsetopt zle_bracketed_paste; autoload -Uz compinit && compinit -u -D\n")
        zsh.type("source <(pynet completion zsh); echo rea''dy\n")
        zsh.until("ready")
        yield zsh


@lines
def test_zsh(zsh: Typist, typed: str, shown: str) -> None:
    zsh.type(typed)
    zsh.until(shown)
    zsh.type(ANEW)


def test_zsh_loads_the_installed_file_by_itself(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "_pynet").write_text(script("zsh"))
    with typing([shell("zsh"), "-f", "-i"], environment) as zsh:
        zsh.type(f"unsetopt zle_bracketed_paste; fpath=({tmp_path} $fpath)\n")
        zsh.type("autoload -Uz compinit && compinit -u -D; echo rea''dy\n")
        zsh.until("ready")
        for typed, shown in (("pynet netw\t", "network "), (f"{ANEW}pynet stop webs\t", "webserver")):
            zsh.type(typed)
            zsh.until(shown)


def test_bash_completion_loads_the_installed_file_by_itself(environment: dict[str, str], tmp_path: Path) -> None:
    loader = Path("/usr/share/bash-completion/bash_completion")
    if not loader.exists():
        pytest.skip("bash-completion is not installed")
    installed = tmp_path / "bash-completion/completions/pynet"
    installed.parent.mkdir(parents=True)
    installed.write_text(script("bash"))
    more = {**environment, "XDG_DATA_HOME": str(tmp_path)}
    with typing([shell("bash"), "--norc", "--noprofile", "-i"], more) as bash:
        bash.type(f"bind 'set enable-bracketed-paste off'; source {loader}; echo rea''dy\n")
        bash.until("ready")
        for typed, shown in (("pynet netw\t", "network "), (f"{ANEW}pynet stop webs\t", "webserver")):
            bash.type(typed)
            bash.until(shown)


def test_fish_loads_the_installed_file_by_itself(environment: dict[str, str], tmp_path: Path) -> None:
    installed = tmp_path / "fish/vendor_completions.d/pynet.fish"
    installed.parent.mkdir(parents=True)
    installed.write_text(script("fish"))
    done = subprocess.run(
        [shell("fish"), "-c", "complete -C 'pynet stop webs'"],
        env={**environment, "XDG_DATA_DIRS": f"{tmp_path}:/usr/share"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("webserver\t"), done


@lines
def test_fish(environment: dict[str, str], typed: str, shown: str) -> None:
    line = typed.rstrip("\t")
    ask = f"source (pynet completion fish | psub); complete -C '{line}'"
    done = subprocess.run(
        [shell("fish"), "--no-config", "-c", ask],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    candidates = [candidate.partition("\t")[0] for candidate in done.stdout.splitlines()]
    *_, last = shown.split()
    assert last in candidates, (candidates, done.stderr)


@pytest.mark.parametrize(("name", "options"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_scripts_are_read_by_their_shells(tmp_path: Path, name: str, options: list[str]) -> None:
    file = tmp_path / "script"
    file.write_text(script(name))
    done = subprocess.run([shell(name), *options, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_engine_that_hangs_holds_up_no_shell(daemon: Daemon) -> None:
    import signal

    pid = daemon.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        done = daemon.pynet("__complete", "bash", "stop", "")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "words\n", "")
