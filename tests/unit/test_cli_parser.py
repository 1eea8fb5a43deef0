"""Docker's grammar on the command line: options between arguments, --, switches with values, and where options end."""

from __future__ import annotations

import pytest

from pynet.cli.parser import Parser, UsageError


def make(*, stops: bool = False) -> Parser:
    parser = Parser("thing do", "Does things")
    parser.stops_at_first_argument = stops
    parser.flag("-d", "--detach")
    parser.flag("-i", "--interactive")
    parser.flag("--proxy", default=True)
    parser.option("-n", "--name")
    parser.option("--count", type=int, default=3)
    parser.repeated("-e", "--env")
    parser.argument("target")
    parser.rest("words")
    return parser


def test_options_stand_between_arguments_and_double_dash_ends_them() -> None:
    parser = Parser("rm", "Remove")
    parser.flag("-f", "--force")
    parser.argument("name", count="+")
    args = parser.parse(["a", "-f", "b", "--", "-c"])
    assert args is not None
    assert (args.name, args.force) == (["a", "b", "-c"], True)


def test_after_the_first_argument_everything_belongs_to_the_container() -> None:
    args = make(stops=True).parse(["-d", "-e", "A=1", "-eB=2", "image", "sh", "-d", "--", "--env", "x"])
    assert args is not None
    assert (args.detach, args.env, args.target) == (True, ["A=1", "B=2"], "image")
    assert args.words == ["sh", "-d", "--", "--env", "x"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--proxy=false", "x"], False),
        (["--proxy=0", "x"], False),
        (["--proxy=true", "x"], True),
        (["--proxy", "x"], True),
        (["x"], True),
        (["--proxy=false", "--proxy", "x"], True),
    ],
)
def test_switches_take_values(words: list[str], expected: bool) -> None:
    args = make().parse(words)
    assert args is not None
    assert args.proxy is expected


def test_short_switches_are_combined_and_the_last_one_may_take_a_value() -> None:
    args = make().parse(["-din", "web", "x"])
    assert args is not None
    assert (args.detach, args.interactive, args.name) == (True, True, "web")
    args = make().parse(["-dnweb", "x"])
    assert args is not None
    assert args.name == "web"


@pytest.mark.parametrize("value", ["-x", "--name", "", "a b", "a=b", "-1"])
def test_a_value_may_be_anything(value: str) -> None:
    for words in (["-n", value, "x"], ["--name", value, "x"], [f"--name={value}", "x"]):
        args = make().parse(words)
        assert args is not None
        assert args.name == value


def test_lists_are_not_shared_between_parsers() -> None:
    first = make().parse(["-e", "A", "x"])
    second = make().parse(["x"])
    assert first is not None
    assert second is not None
    assert second.env == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope", "x"], "unknown option: --nope"),
        (["-dz", "x"], "unknown option: -z in -dz"),
        (["-n"], "option needs a value: -n"),
        (["--proxy=maybe", "x"], 'invalid value "maybe" for --proxy'),
        (["--count", "many", "x"], "--count"),
        (["--count", "1_000", "x"], 'invalid value "1_000" for --count'),
        (["--count", " 1", "x"], 'invalid value " 1" for --count'),
        ([], "TARGET"),
        (["--det", "x"], "unknown option: --det"),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make().parse(words)


def test_surplus_arguments_are_named() -> None:
    parser = Parser("ps", "List")
    with pytest.raises(UsageError, match="takes no arguments, 'foo'"):
        parser.parse(["foo"])


def test_help_prints_the_usage_and_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert make().parse(["--help"]) is None
    assert capsys.readouterr().out.startswith("usage: pynet thing do [OPTIONS] TARGET [ARG...]\n")


def test_a_command_knows_its_group() -> None:
    parser = Parser("network ls", "List")
    args = parser.parse([])
    assert args is not None
    assert (args.group, args.command) == ("network", "ls")
