"""Summarises rounds over contenders and cells by medians and ratios. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.stats import median_of_present, ratio

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
    """Values by name, which has the unit; None: not measured."""


def medians(visits: Iterable[Measurement], *, largest: Sequence[str] = ()) -> dict[str, dict[str, dict[str, Any]]]:
    """Summarise the rounds of each cell.

    Args:
        visits: all measurements.
        largest: figures of which the maximum is taken instead of the median.

    Returns:
        Contender → cell → figures, with the number of `rounds`.
    """
    found: dict[str, dict[str, list[Mapping[str, float | None]]]] = {}
    for visit in visits:
        found.setdefault(visit.contender, {}).setdefault(visit.cell, []).append(visit.figures)
    return {name: {cell: _together(rounds, largest) for cell, rounds in cells.items()} for name, cells in found.items()}


def _together(rounds: Sequence[Mapping[str, float | None]], largest: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"rounds": len(rounds)}
    for name in dict.fromkeys(name for figures in rounds for name in figures):
        values = [figures.get(name) for figures in rounds]
        there = [value for value in values if value is not None]
        found[name] = rounded(max(there, default=None) if name in largest else median_of_present(values))
    return found


def ratios(summary: Summary, ours: str, figure: str) -> dict[str, dict[str, float | None]]:
    """Divide a figure of contender `ours` by that of each other contender, by cell."""
    mine = summary.get(ours, {})
    return {
        f"{ours}/{name}": {
            cell: rounded(ratio(mine[cell].get(figure), cells.get(cell, {}).get(figure))) for cell in mine
        }
        for name, cells in summary.items()
        if name != ours and mine
    }


def paired(visits: Sequence[Measurement], ours: str, other: str, figure: str) -> dict[str, float | None]:
    """Divide a figure of two contenders round by round, so that slow changes of the machine affect both.

    Args:
        visits: all measurements.
        ours: the contender above the line.
        other: the contender below the line.
        figure: name of the figure.

    Returns:
        The median of the rounds' ratios, by cell.
    """
    found: dict[str, list[float]] = {}
    rounds = {(visit.contender, visit.cell, visit.round): visit.figures.get(figure) for visit in visits}
    for (contender, cell, number), mine in rounds.items():
        if contender == ours and (one := ratio(mine, rounds.get((other, cell, number)))) is not None:
            found.setdefault(cell, []).append(one)
    return {cell: rounded(median_of_present(each)) for cell, each in found.items()}


def rounded(value: float | None) -> float | None:
    """Round to three decimals."""
    return None if value is None else round(value, 3)
