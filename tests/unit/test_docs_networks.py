"""docs/networks.md names the options of ``network create``, and the engine's for the default bridge: all, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from pynet.cli.commands import network
from pynet.cli.parser import Parser
from pynet.engine.grammar import network_options

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def named(heading: str) -> set[str]:
    """The options in the first column of the table under a heading."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`--.*?) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"--[\w-]+", row)}


def test_every_option_of_create_is_on_the_page_and_no_other() -> None:
    parser = Parser("network create", "")
    network.create(parser)
    own = {name for name in parser._options if name.startswith("--")} - {"--help", "--json"}  # every command has those
    assert named("`network create`, option by option") == own


def test_every_option_of_the_default_bridge_is_on_the_page_and_no_other() -> None:
    assert named("The default bridge") == set(network_options.names()) - {
        option for option, _, _ in network_options.REPEATED
    }
