"""The documents' Python passes the type checkers that the package itself passes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GIVEN = {
    "proxy.md": """
from pynet.proxy.api import Port

run: str = ""

async def serve_until_told(port: Port) -> None: ...
""",
    "docker-proxy.md": "",
}
"""Pages that are checked, each with what its examples leave to the reader."""


def test_the_examples_pass_mypy_strict(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    for page, given in GIVEN.items():
        blocks = BLOCK.findall((TOP / "docs" / page).read_text())
        assert blocks, page
        imports = "from __future__ import annotations\n"
        (tmp_path / page.replace("-", "_").replace(".md", "_examples.py")).write_text(imports + given + "".join(blocks))
    words = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    checked = subprocess.run(
        [*words, *map(str, tmp_path.glob("*.py"))], cwd=TOP / "docs", capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout
