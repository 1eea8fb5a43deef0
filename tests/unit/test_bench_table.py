"""What the benchmark claims must follow from what it measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def table() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("bench_table", BENCH / "table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_table"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_table"]


def test_the_ratio_is_that_of_the_medians_and_decides(table: ModuleType) -> None:
    quick = table.Row("a", "ms", [1, 2, 90], [8, 10, 11], target=table.Target(0.25, 0.1))
    assert (quick.ratio, quick.met) == (0.2, True)
    slow = table.Row("b", "ms", [3, 3, 3], [10], target=table.Target(0.25))
    assert (slow.ratio, slow.met) == (0.3, False)
    assert table.Row("c", "GB/s", [3], [4], higher_is_better=True, target=table.Target(0.9)).met is False
    assert table.Row("d", "GB/s", [4], [4], higher_is_better=True, target=table.Target(0.9)).met is True
    absolute = table.Row("e", "ms", [4, 6, 7], [100], target=table.Target(5.0, absolute=True))
    assert (absolute.ratio, absolute.met) == (0.06, False)
    assert table.summary([quick, slow]) == "1 of 2 targets met; not met: b"


def test_what_was_not_measured_is_not_met(table: ModuleType) -> None:
    rows = [
        table.Row("no peer", "ms", [1], [], target=table.Target(0.5)),
        table.Row("failed", "ms", [], [1], target=table.Target(0.5)),
        table.Row("no target", "ms", [1], [2]),
    ]
    assert [row.met for row in rows] == [None, None, None]
    assert table.summary(rows) == "0 of 2 targets met; not measured: no peer, failed"
    shown = table.render(rows)
    assert shown.count("not measured") == 2 and "0.5x" in shown.splitlines()[-1]


def test_every_value_is_written(table: ModuleType, tmp_path: Path) -> None:
    row = table.Row("a", "ms", [1.5, 2.5], [3.5], target=table.Target(1.0))
    path = table.save([row], tmp_path / "results", {"quick": True})
    content = json.loads(path.read_text())
    assert content["rows"][0]["ours"] == [1.5, 2.5] and content["rows"][0]["met"] is True and content["quick"] is True
