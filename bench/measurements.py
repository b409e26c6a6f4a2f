"""Rounds over contenders and cells, put together: medians and ratios. Pure."""

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
    """Such as the number of clients."""
    round: int
    figures: Mapping[str, float | None]
    """By name, with the unit in it; None where nothing was measured."""


def medians(visits: Iterable[Measurement], *, largest: Sequence[str] = ()) -> dict[str, dict[str, dict[str, Any]]]:
    """Contender → cell → the median of each figure over the rounds; of those in `largest`, the largest."""
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
    """The `figure` of contender `ours` over each other's, by cell."""
    mine = summary.get(ours, {})
    return {
        f"{ours}/{name}": {
            cell: rounded(ratio(mine[cell].get(figure), cells.get(cell, {}).get(figure))) for cell in mine
        }
        for name, cells in summary.items()
        if name != ours and mine
    }


def paired(visits: Sequence[Measurement], ours: str, other: str, figure: str) -> dict[str, float | None]:
    """The `figure` of contender `ours` over the other's, by cell: the median of the rounds' ratios.

    What else the machine does for longer than a round then changes both.
    """
    found: dict[str, list[float]] = {}
    rounds = {(visit.contender, visit.cell, visit.round): visit.figures.get(figure) for visit in visits}
    for (contender, cell, number), mine in rounds.items():
        if contender == ours and (one := ratio(mine, rounds.get((other, cell, number)))) is not None:
            found.setdefault(cell, []).append(one)
    return {cell: rounded(median_of_present(each)) for cell, each in found.items()}


def rounded(value: float | None) -> float | None:
    """To three places."""
    return None if value is None else round(value, 3)
