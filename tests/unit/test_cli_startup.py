"""What the command costs before it does anything, counted in modules; and that every command has a help page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pynet.cli import main as command
from pynet.cli.settings import Settings, parse_host
from pynet.netlib.errors import InvalidArgument
from pynet.netlib.version import __version__

from support.scripted import Answer, ScriptedEngine

NEEDED = {"__future__", "_json", "_socket", "select"}
"""The standard library's modules that a command may load when it talks to the engine: those of C, which cost a tenth of
what their Python dresses do (json brings re and enum, socket and signal bring enum, selectors and more)."""
CLI = {"pynet", "pynet.cli", "pynet.cli.commands", "pynet.netlib"} | {
    f"pynet.{name}"
    for name in (
        *("cli.client", "cli.http1", "cli.main", "cli.parser", "cli.settings", "cli.textjson"),
        "netlib.errors",
    )
}
"""Our own that every command loads: a module is 0.1 to 0.2 ms, and the interpreter's own start is 8."""
CREATING = {"creation", "environment", "failure", "mounts", "options", "units"}
STREAMING = {"frames", "streams"}


def modules_of(*words: str, engine: Path | None = None) -> set[str]:
    """The modules that are loaded when ``pynet WORDS`` has run, less those of a bare interpreter."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "from pynet.cli.main import main\n"
        f"code = main({list(words)!r})\n"
        "print('\\n'.join(set(sys.modules) - before), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-I", "-c", script]
    environ = {"PYNET_HOST": f"unix://{engine}"} if engine else {}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines())


def test_version_loads_next_to_nothing() -> None:
    loaded = modules_of("--version")
    ours = {"pynet", "pynet.cli", "pynet.cli.main", "pynet.netlib", "pynet.netlib.version"}
    assert loaded == ours | {"__future__"}


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ("ps", {"commands.ps", "format", "output", "shown"}),
        ("stop one", {"commands.stop", "failure", "objects"}),
        ("stop one two", {"commands.stop", "failure", "objects"}),
        ("network create net", {"commands.network", "failure", "format", "objects", "output"}),
        ("exec one true", {"commands.execute", "environment", "failure", "objects", "units", *STREAMING}),
        ("run -d -p 8080:80 busybox", {"commands.run", *CREATING}),
        ("run --rm busybox true", {"commands.run", "attached", *CREATING, *STREAMING}),
    ],
)
def test_what_a_command_loads_to_its_end(words: str, own: set[str], tmp_path: Path) -> None:
    def script(request: str) -> Answer:
        if request.endswith("/attach") or request == "POST /exec/x/start":
            return Answer(stream=lambda sock: None)
        if request == "GET /containers/json":
            return Answer([{"Id": "0" * 64, "Created": 1, "Ports": [{"PrivatePort": 80, "Type": "tcp"}]}])
        return Answer({"Id": "x", "StatusCode": 0, "ExitCode": 0})

    with ScriptedEngine(tmp_path / "s", script) as engine:
        loaded = modules_of(*words.split(), engine=engine.path)
        assert engine.requests
    foundation = {"pynet.netlib.durations", "pynet.netlib.ports", "pynet.netlib.ports.portspec"}
    foundation |= {"pynet.engine", "pynet.engine.grammar", "pynet.engine.grammar.detach"}
    assert loaded <= NEEDED | CLI | {f"pynet.cli.{name}" for name in own} | foundation


def every_command() -> list[list[str]]:
    single = [[name] for name, (module, _) in command.COMMANDS.items() if module]
    return single + [[group, name] for group, table in command.GROUPS.items() for name in table]


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*words, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: pynet {' '.join(words)} [OPTIONS]")
    assert "print this page" in out


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], ["network"], ["network", "--help"], ["help", "network"]])
def test_pages_of_groups(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage:  pynet")
    assert "disconnect" in out if "network" in words else "playground" in out


def test_help_of_a_command_by_the_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["help", "ps"]) == 0
    assert capsys.readouterr().out.startswith("usage: pynet ps [OPTIONS]")
    assert command.main(["help", "network", "create"]) == 0
    assert capsys.readouterr().out.startswith("usage: pynet network create [OPTIONS]")
    assert command.main(["help", "run", "busybox"]) == 0, "help runs nothing"
    assert capsys.readouterr().out.startswith("usage: pynet run [OPTIONS]")


def test_commands_that_ask_no_engine_do_not_care_where_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DOCKER_HOST may be in words that Docker's client alone knows."""
    monkeypatch.delenv("PYNET_HOST", raising=False)
    monkeypatch.delenv("PYNET_RUN", raising=False)
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@there")
    assert command.main(["completion", "bash"]) == 0
    assert command.main(["__complete", "bash", "netw"]) == 0
    assert "network\t" in capsys.readouterr().out
    assert command.main(["ps"]) == 125
    assert "unable to parse the engine's address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "unknown command: pynet nope"),
        (["network", "nope"], "unknown command: pynet network nope"),
        (["--nope"], "unknown option: --nope"),
        (["--host"], "option needs a value: --host"),
        (["ps", "--nope"], "unknown option: --nope"),
        (["run"], "needs IMAGE"),
        (["run", "-p", "0:80", "busybox"], "invalid hostPort: 0"),
        (["run", "--json", "busybox"], "--json is for what --dry-run prints"),
        (["create", "--json", "busybox"], "--json is for what --dry-run prints"),
        (["network", "create", "--json", "a"], "--json is for what --dry-run prints"),
        (["network", "connect", "--json", "a", "b"], "--json is for what --dry-run prints"),
        (["network", "disconnect", "--json", "a", "b"], "--json is for what --dry-run prints"),
        (["network", "limit", "--rate-in", "0", "--json", "a", "b"], "--json is for what --dry-run prints"),
        (["port", "--dry-run", "web"], "--dry-run is for add and rm"),
        (["port", "--dry-run", "stats"], "--dry-run is for add and rm"),
        (["port", "stats", "web", "db"], "has no use for 'db'"),
        (["--host", "ftp://x", "ps"], "unable to parse"),
    ],
)
def test_errors_are_two_lines_and_nothing_on_stdout(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        "PYNET_HOST", f"unix://{tmp_path}/none"
    )  # what is taken for right by a mistake starts no engine here
    code = command.main(words)
    captured = capsys.readouterr()
    assert code in (1, 125)
    assert captured.out == ""
    first, second = captured.err.rstrip("\n").split("\n")
    assert first.startswith("pynet: ")
    assert message in first
    assert second.startswith("  ")


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["rmm"], "unknown command: pynet rmm", "did you mean `pynet rm`? `pynet --help` lists the commands"),
        (["network", "conect"], "unknown command: pynet network conect",
         "did you mean `pynet network connect`? `pynet network --help` lists the commands"),
        (["network", "zzz"], "unknown command: pynet network zzz", "`pynet network --help` lists the commands"),
        (["build", "."], "pynet build is not there yet", "`pynet --help` lists those that are"),
    ],
)  # fmt: skip
def test_what_is_no_command_comes_with_what_may_be_meant(
    words: list[str], said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words) == 125
    assert capsys.readouterr() == ("", f"pynet: {said}\n  {hint}\n")


def test_nothing_that_is_there_is_said_not_to_be_there_yet() -> None:
    known = {*command.COMMANDS, *(f"{group} {name}" for group, names in command.GROUPS.items() for name in names)}
    assert not known & set(command.NOT_YET)
    assert len(set(command.NOT_YET)) == len(command.NOT_YET)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pynet version {__version__}\n"


def test_output_into_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -I -m pynet --help | true', sys.executable],
        env={"PATH": os.environ.get("PATH", "")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


# -- where the engine is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "environ", "address", "named"),
    [
        ({}, {}, "/run/pynet/pynet.sock", False),
        ({}, {"DOCKER_HOST": "unix:///d.sock"}, "/d.sock", True),
        ({}, {"DOCKER_HOST": "unix:///d.sock", "PYNET_RUN": "/r"}, "/r/pynet.sock", False),
        ({"run": "/s"}, {"PYNET_RUN": "/r"}, "/s/pynet.sock", False),
        ({}, {"PYNET_HOST": "/p.sock", "PYNET_RUN": "/r"}, "/p.sock", True),
        ({"host": "tcp://10.0.0.1:2375"}, {"PYNET_HOST": "/p.sock"}, ("10.0.0.1", 2375), True),
        ({"host": "tcp://[::1]:2375"}, {}, ("::1", 2375), True),
        ({"host": "unix:///r/pynet.sock", "run": "/r"}, {}, "/r/pynet.sock", False),
    ],
)
def test_who_says_where_the_engine_is(
    options: dict[str, str], environ: dict[str, str], address: object, named: bool
) -> None:
    settings = Settings.resolve(options, environ)
    assert (settings.address, settings.named) == (address, named)


def test_directories() -> None:
    settings = Settings.resolve({"root": "state"}, {"PYNET_ROOT": "/other"})
    assert settings.root == os.path.abspath("state")
    assert Settings.resolve({}, {"PYNET_ROOT": "/other"}).root == "/other"


@pytest.mark.parametrize(
    "text", ["unix://", "relative", "tcp://", "tcp://host", "tcp://host:0", "tcp://:1", "http://x:1"]
)
def test_addresses_that_make_no_sense(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_host(text)
    assert caught.value.hint


def test_a_socket_path_that_is_too_long_is_refused_in_time() -> None:
    with pytest.raises(InvalidArgument, match="longer than 107 bytes"):
        Settings.resolve({"run": "/" + "x" * 120}, {})


def test_the_program_ends_with_the_code_and_all_of_its_output() -> None:
    script = "import sys; sys.argv[1:] = {!r}; from pynet.cli.main import main; main(); print('never')"
    for words, code, out in ((["--help"], 0, "Commands:"), (["nope"], 125, ""), (["ps", "--help"], 0, "--no-trunc")):
        done = subprocess.run(
            [sys.executable, "-I", "-c", script.format(words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert out in done.stdout
        assert "never" not in done.stdout
        assert bool(done.stderr) == (code != 0)
