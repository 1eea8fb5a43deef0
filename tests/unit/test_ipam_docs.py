"""The examples of docs/ipam.md do what their comments say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "ipam.md"


def test_the_examples_run_and_give_what_they_promise() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: list[dict[str, Any]] = [{} for _ in blocks]
    for block, namespace in zip(blocks, names, strict=True):
        # One line promises a value of its own: "expression   # 'value'".
        for expression, promised in re.findall(r"^(pool\.\w+\(\))\s+# ('.+')$", block, re.MULTILINE):
            block = block.replace(expression, f"assert {expression} == {promised} ", 1)
        exec(compile(block, str(PAGE), "exec"), namespace)
    assert names[0]["opened"].gateway == "10.1.0.1"
    assert len(names[1]["table"]) == 0
