"""What is offered where, from the commands' own tables.  No shell, no engine."""

from __future__ import annotations

import pytest

from pynet.cli import completion
from pynet.cli.completion import FILES, WORDS, complete, declared
from pynet.cli.main import COMMANDS, GROUPS

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
    "line", ["capture -w ", "capture --write=/t", "load -i ", "import ", "--root ", "run --env-file e"]
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
