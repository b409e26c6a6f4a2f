"""Summarises rounds over contenders and cells by medians and ratios. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Figures = dict[str, float | None]
"""Values by name, which has the unit; None: not measured."""
Summary = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Contender → cell → figures."""


@dataclass(frozen=True)
class Measurement:
    """One cell of one contender in one round."""

    contender: str
    cell: str
    """Name of the cell, such as the number of clients."""
    round: int
    figures: Mapping[str, float | None]


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile: the smallest sample that a `share` (0 to 1) of all do not exceed; None if empty."""
    if not samples:
        return None
    rank = max(1, math.ceil(share * len(samples)))
    return sorted(samples)[rank - 1]


def percentiles(milliseconds: Sequence[float], *percents: int) -> Figures:
    """Summarise latencies: `p50_ms`, `p99_ms` and so on for each of `percents`."""
    return {f"p{percent}_ms": percentile(milliseconds, percent / 100) for percent in percents}


def median_of_present(values: Iterable[float | None]) -> float | None:
    """Median of the values that are not None; None if there are none."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Compute `ours / theirs`; None if one is missing or `theirs` is 0."""
    return ours / theirs if ours is not None and theirs else None


def rounded(value: float | None) -> float | None:
    """Round to three decimals."""
    return None if value is None else round(value, 3)


def medians(visits: Iterable[Measurement], *, largest: Sequence[str] = ()) -> dict[str, dict[str, dict[str, Any]]]:
    """Summarise the rounds of each cell by medians, or by the maximum of figures that are `largest`."""
    found: dict[str, dict[str, list[Mapping[str, float | None]]]] = {}
    for visit in visits:
        found.setdefault(visit.contender, {}).setdefault(visit.cell, []).append(visit.figures)
    return {name: {cell: _together(rounds, largest) for cell, rounds in cells.items()} for name, cells in found.items()}


def _together(rounds: Sequence[Mapping[str, float | None]], largest: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"rounds": len(rounds)}
    for name in dict.fromkeys(name for figures in rounds for name in figures):
        values = [value for figures in rounds if (value := figures.get(name)) is not None]
        found[name] = rounded(max(values, default=None) if name in largest else median_of_present(values))
    return found


def by_cell(summary: Summary, figure: str) -> dict[str, dict[str, float | None]]:
    """Take one figure out of a summary: contender → cell → value."""
    return {name: {key: cell.get(figure) for key, cell in cells.items()} for name, cells in summary.items()}


def ratios(summary: Summary, ours: str, figure: str) -> dict[str, dict[str, float | None]]:
    """Divide a figure of contender `ours` by that of each other contender, by cell."""
    values = by_cell(summary, figure)
    mine = values.get(ours, {})
    return {
        f"{ours}/{name}": {cell: rounded(ratio(value, cells.get(cell))) for cell, value in mine.items()}
        for name, cells in values.items()
        if name != ours and mine
    }


def paired(visits: Sequence[Measurement], ours: str, other: str, figure: str) -> dict[str, float | None]:
    """Divide a figure of two contenders round by round, so that slow changes affect both: medians by cell."""
    found: dict[str, list[float]] = {}
    rounds = {(visit.contender, visit.cell, visit.round): visit.figures.get(figure) for visit in visits}
    for (contender, cell, number), mine in rounds.items():
        if contender == ours and (one := ratio(mine, rounds.get((other, cell, number)))) is not None:
            found.setdefault(cell, []).append(one)
    return {cell: rounded(median_of_present(each)) for cell, each in found.items()}
