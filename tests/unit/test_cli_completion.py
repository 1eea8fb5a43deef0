"""What is offered where, from the commands' own tables.  No shell, no engine."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.cli import completion
from pynet.cli.completion import FILES, WORDS, complete, declared
from pynet.cli.main import COMMANDS, GROUPS
from pynet.engine.config_file import FIREWALLS, PUBLISH_POLICIES
from pynet.netlib.driver import driver_names

from support.waiting import PATIENCE

NAMES = {
    "container": ["web", "old", "asleep"],
    "running": ["web", "asleep"],
    "stopped": ["old"],
    "paused": ["asleep"],
    "network": ["bridge", "back"],
    "image": ["busybox:latest"],
}


def names(kind: str) -> list[tuple[str, str]]:
    return [(name, "") for name in NAMES[kind]]


def offered(line: str) -> list[str]:
    """The candidates at the end of a line, whose words are parted by single blanks."""
    directive, found = complete(line.split(" "), names)
    assert directive == WORDS
    return [word for word, _ in found]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("netw", ["network"]),
        ("network con", ["connect"]),
        ("help netw", ["network"]),
        ("help network con", ["connect"]),
        ("network create --driver ", ["bridge", "macvlan", "ipvlan"]),
        ("network create --ipam-driver d", ["default", "dhcp"]),
        ("daemon --firewall n", ["nftables"]),
        ("dns ", ["query", "ls", "log"]),
        ("dns query web --type S", ["SRV"]),
        ("dns query web --from w", ["web"]),
        ("dns log ", ["web", "asleep"]),
        ("nosuch ", []),
        ("network nosuch ", []),
        ("--ro", ["--root"]),
        ("--root /x ps --no", ["--no-trunc"]),
        ("--root=/x ps --no", ["--no-trunc"]),
        ("run --read", ["--read-only"]),
        ("run --network ba", ["back"]),
        ("run --network=ba", ["--network=back"]),
        ("run --net b", ["bridge", "back"]),
        ("run -it --network=back bu", ["busybox:latest"]),
        ("run busybox:latest --rea", []),
        ("run -itw /tmp bu", ["busybox:latest"]),
        ("run --restart un", ["unless-stopped"]),
        ("run --rm=t", ["--rm=true"]),
        ("stop ", ["web", "asleep"]),
        ("start ", ["old"]),
        ("unpause ", ["asleep"]),
        ("container rm o", ["old"]),
        ("container remove o", ["old"]),
        ("rm -f web ", ["web", "old", "asleep"]),
        ("exec web l", []),
        ("network connect b", ["bridge", "back"]),
        ("network connect back w", ["web"]),
        ("network connect back web ", []),
        ("network inspect ba", ["back"]),
        ("inspect b", ["bridge", "back", "busybox:latest"]),
        ("capture -i eth0 w", ["web"]),
        ("kill -s TE", ["TERM"]),
        ("completion z", ["zsh"]),
        ("rename web ", []),
        ("port ", ["add", "rm", "stats", "web", "asleep"]),
        ("port add w", ["web"]),
        ("port add web ", []),
        ("network limit --rate-in 1mbit back w", ["web"]),
    ],
)
def test_what_is_offered(line: str, words: list[str]) -> None:
    assert offered(line) == words


@pytest.mark.parametrize(
    "line",
    [
        "daemon --config-file ",
        "capture -w ",
        "capture --write=/t",
        "load -i ",
        "import ",
        "--root ",
        "run --env-file e",
    ],
)
def test_files_are_the_shells_business(line: str) -> None:
    assert complete(line.split(" "), names) == (FILES, [])


def test_every_command_and_every_option_is_offered_with_its_help() -> None:
    commands = dict(complete([""], names)[1])
    assert commands == {name: text for name, (_, text) in COMMANDS.items()}
    rows = [(name, *row) for name, row in COMMANDS.items()]
    rows += [(f"{group} {name}", *row) for group, table in GROUPS.items() for name, row in table.items()]
    for title, entry, text in rows:
        if entry:
            parser = declared(title, entry, text)
            found = dict(complete([*title.split(), "-"], names)[1])
            assert found == {name: option.help for option in parser.options for name in option.names}, title


def test_kinds_that_are_asked_for_are_kinds_that_the_engine_is_asked() -> None:
    asked = {kind for kind in completion.ASKED.values() if kind != FILES} | set(completion.STATES.values())
    assert asked <= set(NAMES)


def test_the_names_of_an_engine_that_does_not_run_are_none_and_none_is_started(tmp_path: object) -> None:
    assert completion.names_of({"run": f"{tmp_path}/run", "root": f"{tmp_path}/root"})("container") == []
    assert completion.names_of({"host": f"unix://{tmp_path}/none.sock"})("network") == []


def test_values_are_those_that_there_are() -> None:
    assert set(completion.VALUES["--driver"].split()) == set(driver_names()) - {"host", "null"}, "of those one may make"
    assert tuple(completion.VALUES["--firewall"].split()) == FIREWALLS
    assert tuple(completion.VALUES["--publish-policy"].split()) == PUBLISH_POLICIES


class Sluggish:
    """An engine that says a byte every tenth of a second, and would be at the end of its answer's head in two hours."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.left, self.end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return  # nobody came
        with sock:
            try:
                while not self.end.wait(0.1):
                    sock.send(b"H")
            except (BrokenPipeError, ConnectionResetError):
                self.left.set()

    def close(self) -> None:
        self.end.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


@pytest.fixture
def sluggish(tmp_path: Path) -> Iterator[Sluggish]:
    engine = Sluggish(tmp_path / "s")
    closing = threading.Timer(PATIENCE, engine.end.set)  # whoever waits for it is not held up for good
    closing.start()
    yield engine
    closing.cancel()
    engine.close()


def test_an_engine_that_answers_slowly_is_not_waited_for(sluggish: Sluggish, tmp_path: Path) -> None:
    ask = completion.names_of({"host": f"unix://{tmp_path}/s"})
    assert ask("container") == []
    assert sluggish.left.wait(2 * PATIENCE), "it was the shell that left"
    assert ask("network") == [], "and it is not asked again for this line"


def test_an_engine_that_takes_no_connection_is_not_waited_for(tmp_path: Path) -> None:
    """It was stopped, and its queue is full."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        waiting: list[socket.socket] = []
        try:
            while True:
                waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                if waiting[-1].connect_ex(str(tmp_path / "s")) == errno.EAGAIN:
                    break
            assert completion.names_of({"host": f"unix://{tmp_path}/s"})("container") == []
        finally:
            for one in waiting:
                one.close()
