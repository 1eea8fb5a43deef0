"""Rows of the proxies' table: every side's values, ratios of pairs, targets.

The sides of a repetition run one after the other, so whatever else the machine does falls on all of them; a ratio is
taken within each repetition, and the median of those is the result.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from proxy_sides import Side

OURS, THEIRS = "pynet", "docker-proxy"


@dataclass
class Row:
    name: str
    unit: str
    higher_is_better: bool
    values: dict[str, list[float]]
    """By side; the same repetition has the same index."""
    must: float | None = None
    towards: float | None = None
    ahead_of: tuple[str, ...] = ()
    """Sides that must be beaten, too, by whatever margin."""
    note: str = field(default="")

    @property
    def ours(self) -> list[float]:
        return self.values[OURS]

    @property
    def theirs(self) -> list[float]:
        return self.values.get(THEIRS, [])

    def ratios(self, other: str = THEIRS) -> list[float]:
        return sorted(a / b for a, b in zip(self.ours, self.values.get(other, [])) if b)

    @property
    def ratio(self) -> float:
        found = self.ratios()
        return statistics.median(found) if found else float("nan")

    def _reaches(self, ratio: float, bound: float) -> bool:
        return ratio >= bound if self.higher_is_better else ratio <= bound

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.must is None:
            return None
        return self._reaches(self.ratio, self.must)

    @property
    def ahead(self) -> dict[str, bool]:
        found = {name: self.ratios(name) for name in self.ahead_of}
        return {name: self._reaches(statistics.median(ratios), 1.0) for name, ratios in found.items() if ratios}

    def as_dict(self) -> dict[str, object]:
        result: dict[str, object] = dict(vars(self))
        return result | {"ratios": self.ratios(), "ratio": self.ratio, "met": self.met, "ahead": self.ahead}


Values = dict[str, list[list[float]]]
"""By side, then by metric, then by repetition."""


def interleave(
    sides: Iterable[Side], repetitions: int, measure: Callable[[Side], list[float]], warm_up: int = 1
) -> Values:
    result: Values = {}
    order = list(sides)
    for repetition in range(warm_up + repetitions):
        # nobody is always first, or always after the same one
        for side in order[repetition % len(order) :] + order[: repetition % len(order)]:
            values = measure(side)
            metrics = result.setdefault(side.name, [[] for _ in values])
            if repetition >= warm_up:
                for metric, value in zip(metrics, values, strict=True):
                    metric.append(value)
    return result


def row(
    name: str, unit: str, values: Values, metric: int, *, higher: bool = False, must: float | None = None,
    towards: float | None = None, ahead_of: tuple[str, ...] = (), note: str = "",
) -> Row:  # fmt: skip
    return Row(
        name, unit, higher, {side: metrics[metric] for side, metrics in values.items()}, must, towards, ahead_of, note
    )


# -- how they are shown --------------------------------------------------------------------------------------------


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return "/".join(f"{value:.3g}" for value in (min(values), statistics.median(values), max(values)))


def _target(row: Row) -> str:
    if row.must is None:
        return ""
    sign = ">=" if row.higher_is_better else "<="
    goal = f"{sign} {row.must:g}" + ("" if row.towards is None else f" ({row.towards:g})")
    reached = row.towards is not None and row._reaches(row.ratio, row.towards)
    return f"{goal}: {'NOT MET' if not row.met else 'met, towards too' if reached else 'met'}"


def table(rows: list[Row]) -> str:
    """Medians of every side; min/median/max of the ratios to docker-proxy; whether targets are met."""
    others = [name for name in ("haproxy", "nginx") if any(name in row.values for row in rows)]
    lines = [["", "unit", OURS, THEIRS, *others, "ratio min/med/max", "must (towards)"]]
    for row in rows:
        cells = [f"{statistics.median(values):.4g}" if values else "-" for values in (row.ours, row.theirs)]
        for name in others:
            values = row.values.get(name)
            behind = row.ahead.get(name) is False
            cells.append(f"{statistics.median(values):.4g}{' AHEAD' if behind else ''}" if values else "")
        lines.append([row.name, row.unit, *cells, _spread(row.ratios()), _target(row)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def summary(rows: list[Row]) -> str:
    asked = [row for row in rows if row.must is not None]
    missed = [row.name for row in asked if not row.met]
    text = f"{len(asked) - len(missed)} of {len(asked)} targets met"
    text += f"; not met: {', '.join(missed)}" if missed else ""
    behind = sorted({name for row in rows for name, is_ahead in row.ahead.items() if not is_ahead})
    return text + (f"; behind {' and '.join(behind)} somewhere" if behind else "")
