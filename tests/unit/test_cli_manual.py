"""Manual pages: all commands and options are on them, and the formatters that are here read them without a word."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pynet.cli.completion import declared
from pynet.cli.main import COMMANDS, GROUPS
from pynet.cli.manual import escaped, pages

QUIET = ("-W", "break")
"""The grammar of --publish is one word, longer than a line."""
GUIDE = (Path(__file__).parents[2] / "docs/cli.md").read_text()
PAGES = pages(GUIDE, "2026-01-31")
ROWS = [(name, *row) for name, row in COMMANDS.items()] + [
    (f"{group} {name}", *row) for group, table in GROUPS.items() for name, row in table.items()
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("man1")
    for name, text in PAGES.items():
        (directory / name).write_text(text)
    return [directory / name for name in PAGES]


def formatted(path: Path) -> str:
    """As a reader sees it, in lines as long as they come."""
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=900", path], capture_output=True, text=True, check=True)
    return re.sub(".\b", "", done.stdout)


def test_there_is_a_page_for_every_command_and_for_each_of_a_groups() -> None:
    assert set(PAGES) == {"pynet.1"} | {f"pynet-{title.replace(' ', '-')}.1" for title, _, _ in ROWS}
    for title, _, text in ROWS:
        assert f"\\- {escaped(text)}\n" in PAGES[f"pynet-{title.replace(' ', '-')}.1"]


def test_every_option_is_on_its_commands_page_with_its_help(written: list[Path]) -> None:
    (path,) = [path for path in written if path.name == "pynet-run.1"]
    page = formatted(path)
    for option in declared("run", *COMMANDS["run"]).options:
        for name in option.names:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page), name
        assert option.help in page


def test_the_guide_is_on_the_front_page(written: list[Path]) -> None:
    (path,) = [path for path in written if path.name == "pynet.1"]
    page = formatted(path)
    for heading in re.findall(r"^## (.*)$", GUIDE, re.MULTILINE):
        assert f"\n{heading.upper()}\n" in page
    assert "-p '[::1]:8080:80'" in page, "quotes and dashes are as they are typed"
    assert "pynet ps | head -1" in page
    assert "ctrl-\\, ctrl-], ctrl-^, ctrl-_" in page
    assert "](" not in page


def test_mandoc_finds_nothing_wrong(written: list[Path]) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *written], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_groff_finds_nothing_wrong(written: list[Path]) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    for path in written:
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", *QUIET, "-z", path], capture_output=True, text=True, check=True
        )
        assert done.stderr == "", path.name


@pytest.mark.parametrize("text", [".begins like a request", "'so does this", "back\\slash", "a-b", "it's `code` ^~"])
def test_any_text_comes_out_as_it_is(tmp_path: Path, text: str) -> None:
    guide = f"# x\n\n## Head\n\n{text.replace('`', '')}\n"
    (tmp_path / "pynet.1").write_text(pages(guide, "2026-01-31")["pynet.1"])
    assert text.replace("`", "") in formatted(tmp_path / "pynet.1")
