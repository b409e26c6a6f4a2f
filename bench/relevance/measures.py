"""Scores rankings, and computes confidence intervals of differences. Pure."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt

DEPTH = 10
"""Number of results that count."""
SAMPLES = 10_000
"""Samples of the bootstrap."""

MEASURES = ("MRR@10", "nDCG@10", "recall@10")


def score_ranking(ranking: Sequence[Hashable], relevant: Collection[Hashable]) -> dict[str, float]:
    """Score a ranking: MRR, nDCG with binary gains, and recall out of min(10, relevant ones), at `DEPTH` results."""
    hits = [thing in relevant for thing in ranking[:DEPTH]]
    room = min(DEPTH, len(relevant))
    gain = sum(1 / log2(place + 1) for place, hit in enumerate(hits, 1) if hit)
    ideal = sum(1 / log2(place + 1) for place in range(1, room + 1))
    first = next((1 / place for place, hit in enumerate(hits, 1) if hit), 0.0)
    return {
        "MRR@10": first,
        "nDCG@10": gain / ideal if room else 0.0,
        "recall@10": sum(hits) / room if room else 0.0,
    }


def mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Compute the mean of each measure over queries."""
    return {name: sum(one[name] for one in figures) / len(figures) for name in MEASURES}


def interval(ours: Sequence[float], theirs: Sequence[float], seed: int = 7) -> tuple[float, float]:
    """Compute the 95 % interval of the mean difference `ours - theirs` by a paired bootstrap over queries."""
    differences: npt.NDArray[np.float64] = np.subtract(ours, theirs)
    drawn = np.random.default_rng(seed).integers(0, len(differences), (SAMPLES, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Compute the difference of the means, with its interval."""
    return {"mean": float(np.mean(ours) - np.mean(theirs)), "interval": interval(ours, theirs)}


def signed(found: Mapping[str, Any], digits: int, *, bold: bool = False) -> str:
    """Render a difference with its interval; one that is surely not 0 in bold, if wished."""
    low, high = found["interval"]
    text = f"{found['mean']:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return f"**{text}**" if bold and (low > 0 or high < 0) else text
