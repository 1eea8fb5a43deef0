"""Rows of measurements, what they have to reach, and how they are shown.

A row holds the values of every repetition in order; the peers of a repetition ran one after the other, so whatever
else the machine did fell on both.  Its result is the ratio of the medians, pynet / peer.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A bound on the ratio to the peer, or on pynet's own median where ``absolute``."""

    must: float
    towards: float | None = None
    absolute: bool = False


@dataclass
class Row:
    name: str
    unit: str
    ours: list[float]
    theirs: list[float]
    peer: str = "docker"
    higher_is_better: bool = False
    target: Target | None = None
    note: str = ""
    ratio: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.ratio = None
        if self.ours and self.theirs and statistics.median(self.theirs):
            self.ratio = statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def measured(self) -> float | None:
        """What the target is about."""
        if self.target is not None and self.target.absolute:
            return statistics.median(self.ours) if self.ours else None
        return self.ratio

    @property
    def met(self) -> bool | None:
        """None when there is no target or no measurement."""
        value = self.measured
        if self.target is None or value is None:
            return None
        return value >= self.target.must if self.higher_is_better else value <= self.target.must


def spread(values: Sequence[float]) -> str:
    """min / median / max."""
    if not values:
        return "-"
    return " / ".join(f"{value:.4g}" for value in (min(values), statistics.median(values), max(values)))


def verdict(row: Row) -> str:
    if row.target is None:
        return ""
    sign = ">=" if row.higher_is_better else "<="
    unit = f" {row.unit}" if row.target.absolute else "x"
    text = f"{sign} {row.target.must:g}{unit}"
    if row.target.towards is not None:
        text += f", towards {row.target.towards:g}{unit}"
    return f"{text}: {'not measured' if row.met is None else 'met' if row.met else 'NOT MET'}"


HEADINGS = ("", "unit", "pynet", "peer", "ratio", "target")


def render(rows: Iterable[Row]) -> str:
    lines: list[tuple[str, ...]] = [HEADINGS]
    for row in rows:
        theirs = spread(row.theirs) + (f" ({row.peer})" if row.theirs and row.peer != "docker" else "")
        ratio = "-" if row.ratio is None else f"{row.ratio:.3g}x"
        lines.append((row.name, row.unit, spread(row.ours), theirs, ratio, verdict(row)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    shown.insert(1, "-" * len(max(shown, key=len)))
    return "\n".join(shown)


def summary(rows: Sequence[Row]) -> str:
    asked = [row for row in rows if row.target is not None]
    missed = [row.name for row in asked if row.met is False]
    unmeasured = [row.name for row in asked if row.met is None]
    text = f"{sum(row.met is True for row in asked)} of {len(asked)} targets met"
    text += f"; not met: {', '.join(missed)}" if missed else ""
    return text + (f"; not measured: {', '.join(unmeasured)}" if unmeasured else "")


def save(rows: Sequence[Row], directory: Path, context: Mapping[str, object]) -> Path:
    """Write everything that was measured; returns the file."""
    directory.mkdir(exist_ok=True)
    path = directory / time.strftime("%Y%m%d-%H%M%S.json")
    machine = {"kernel": platform.release(), "machine": platform.machine(), "processors": os.cpu_count()}
    content = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {**machine, "python": platform.python_version(), "load": os.getloadavg()},
        **context,
        "rows": [{**asdict(row), "met": row.met} for row in rows],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
