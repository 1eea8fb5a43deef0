"""What the pages say of the tree and of the commands is true: paths exist, modules import, command lines are understood."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from pynet.cli.main import ALIASES, COMMANDS, GLOBAL_OPTIONS, GROUPS
from pynet.cli.parser import Parser, UsageError
from pynet.drivers import bridge
from pynet.netlib.errors import InvalidArgument

TOP = Path(__file__).parents[2]
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")])
MADE = {"bench/results"}
"""Not in the tree: where a program puts what it makes."""
HISTORY = {"CHANGELOG.md"}
"""Speaks of what was."""
FOLDERS = (
    *(
        "bench",
        "cli",
        "docs",
        "drivers",
        "engine",
        "ipam",
        "names",
        "netlib",
        "packaging",
        "plugins",
        "proxy",
        "runtime",
        "src",
    ),
    *("tests", r"\.ci"),
)
NAMED = re.compile(rf"(?<![\w/.:$-])((?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*])")
LINKED = re.compile(r"\]\((?!https?://|#)([^)#]+)")
pages = pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in HISTORY], ids=lambda page: page.name
)


@pages
def test_every_path_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    for name in set(NAMED.findall(text)) - MADE:
        assert list(TOP.glob(name)), f"{page.name}: there is no {name}"
    for name in LINKED.findall(text):
        assert (page.parent / name).exists(), f"{page.name}: there is no {name}"


@pages
def test_every_module_that_is_named_can_be_found(page: Path) -> None:
    for name in re.findall(r"(?<![\w./-])pynet(?:\.[a-z_]\w*)+", page.read_text()):
        try:
            found = find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        module, _, attribute = name.rpartition(".")
        top = TOP / module.partition(".")[2].partition(".")[0]
        if not found and top.exists() and not name.endswith((".db", ".sock", ".x")):
            assert hasattr(import_module(module), attribute), f"{page.name}: there is no {name}"


def command_lines(text: str) -> Iterator[tuple[str, bool]]:
    """``pynet`` command lines and whether they are whole: those of code blocks, and what stands between backticks."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    for line in "\n".join(blocks).splitlines():
        if found := re.match(r"(?: {4}|[$#] )?(?:\.venv/bin/)?(pynet [a-z-].*)", line):
            yield re.split(r"\s{2,}", found[1])[0], True  # what follows further right is its description
    for line in re.findall(r"`(pynet [a-z-][^`\n]*)`", text):
        yield line, False


def parsed(line: str) -> None:
    """Raise UsageError unless the command line is understood; nothing is run."""
    words = shlex.split(line, comments=True)[1:]
    for stop in ("|", ";", "&&", ">", "\\", "..."):
        if stop in words:
            words = words[: words.index(stop)]
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in ("--help", "--version"):
            return
        if option not in GLOBAL_OPTIONS:
            raise UsageError(f"unknown option {option}")
        words.pop(0)
    name = words.pop(0)
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name}")
    entry = COMMANDS[name][0]
    if not entry:
        name, sub = f"{name} {words[0]}", ALIASES.get((name, words[0]), words[0])
        entry = GROUPS[name.partition(" ")[0]][sub][0]
        words.pop(0)
    parser = Parser(name, "")
    module, _, configure = entry.partition(":")
    getattr(import_module(f"pynet.cli.commands.{module}"), configure)(parser)
    if words:
        parser.parse(words)


@pages
def test_every_command_line_is_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, whole in command_lines(page.read_text()):
        try:
            parsed(line)
        except UsageError as error:
            assert not whole and re.search(r" needs [A-Z]", str(error)), f"{page.name}: {line}: {error}"
        except (KeyError, ValueError) as error:
            pytest.fail(f"{page.name}: {line}: {error!r}")
    assert capsys.readouterr().err == ""


def test_a_command_line_that_is_wrong_is_seen() -> None:
    for line in ("pynet rum busybox", "pynet ps --al", "pynet network list --nonsense", "pynet network make x"):
        with pytest.raises((UsageError, KeyError)):
            parsed(line)
    text = "    pynet ps     list\n\n```console\n$ pynet images  # all\n```\n# pynet as such\n`pynet rm`\n"
    assert list(command_lines(text)) == [("pynet images", True), ("pynet ps", True), ("pynet rm", False)]


def strings(path: Path) -> Iterator[str]:
    """What a module may print: its texts, docstrings left out."""
    tree = ast.parse(path.read_text())
    documents = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


AMID_PAGES = ("demo.py", "share.py")
"""Run from a checkout: the demo shows pages, and building a wheel reads them."""


@pytest.mark.parametrize(
    "path", [path for folder in FOLDERS[:11] if (TOP / folder).exists() for path in (TOP / folder).rglob("*.py")],
    ids=lambda path: str(path.relative_to(TOP)),
)  # fmt: skip
def test_a_hint_names_no_page_and_no_command_that_is_not_there(path: Path) -> None:
    """No pages come with the wheel."""
    for text in strings(path):
        assert path.name in AMID_PAGES or not re.search(r"\bdocs/\w|\.md\b", text), (
            f"{text!r}: no pages come with the wheel"
        )
        for line in re.findall(r"`(pynet [^`\n]+)`", text):
            words = line.split()[1:]
            if words[0].islower() and words[0].isalpha():
                assert words[0] in COMMANDS, f"{text!r}: there is no such command"
                if not COMMANDS[words[0]][0]:
                    assert ALIASES.get((words[0], words[1]), words[1]) in GROUPS[words[0]], text


def test_the_bridges_options_are_on_the_page() -> None:
    """docs/networks.md lists what drivers/bridge.py reads, no more and no less."""
    text = (TOP / "docs/networks.md").read_text()
    rows = re.findall(r"^\| `([\w.-]+)` \| `(\w+)` \|", text, re.MULTILINE)
    assert {name for name, _ in rows} == set(bridge._OPTIONS)
    assert {short: name for name, short in rows} == bridge._SHORT
    with pytest.raises(InvalidArgument) as caught:
        bridge.parse_options({"misspelt": ""})
    assert all(short in caught.value.hint for _, short in rows)
