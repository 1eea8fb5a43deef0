"""docs/dns.md, docs/library.md, docs/live.md and docs/traffic.md: their examples run, in order, and print what the pages say."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest

from pynet.plugins.testhost import Host

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("page", "least"), [("dns.md", 7), ("library.md", 9), ("live.md", 5), ("traffic.md", 3)])
def test_the_examples_do_what_the_page_says(host: Host, tmp_path: Path, page: str, least: int) -> None:
    names: dict[str, Any] = {"root": tmp_path / "root", "run": tmp_path / "run", "os": os}
    blocks = BLOCK.findall((DOCS / page).read_text())
    assert len(blocks) >= least
    shown = ""
    for number, (kind, text) in enumerate(blocks):
        if kind == "output":
            assert shown == text, f"block {number}"
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(text, f"docs/{page} block {number}", "exec"), names)
        shown = output.getvalue()
    controller = names["controller"]
    again = type(controller)(tmp_path / "root", tmp_path / "run")
    again.tools.firewall.destroy()
    again.close()
