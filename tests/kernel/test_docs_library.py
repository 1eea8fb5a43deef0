"""docs/library.md: its examples run, in order, and print what the page says."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from pynet.plugins.testhost import Host

PAGE = Path(__file__).parents[2] / "docs/library.md"
BLOCK = re.compile(r"^```(python|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_do_what_the_page_says(host: Host, tmp_path: Path) -> None:
    names: dict[str, Any] = {"root": tmp_path / "root", "run": tmp_path / "run", "os": os}
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 8
    shown = ""
    for number, (kind, text) in enumerate(blocks):
        if kind == "output":
            assert shown == text, f"block {number}"
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(text, f"docs/library.md block {number}", "exec"), names)
        shown = output.getvalue()
    controller = names["controller"]
    again = type(controller)(tmp_path / "root", tmp_path / "run")
    again.tools.firewall.destroy()
    again.close()
