"""Makes a `.json` and a `.md` file from what searches have found. Pure except `write`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import files, machine
from bench.relevance.corpus import JudgedQuery
from bench.relevance.measures import MEASURES, interval, mean, score_ranking
from bench.relevance.searches import Found
from bench.tables import number, table
from review_service.schemas import DEFAULT_MIN_SCORE

Results = Mapping[str, Sequence[Found]]
"""Mode → what it has found, query by query."""
TOP = 3
"""A hard query is answered if one of so many first results is wanted, and nothing unwanted stands above it."""


def compare(queries: Sequence[JudgedQuery], results: Results) -> dict[str, Any]:
    """Compare the modes of search: means, gains of hybrid search with 95 % intervals, opposites above right results."""
    figures = {
        mode: [score_ranking(one.ids, query.right) for query, one in zip(queries, found, strict=True)]
        for mode, found in results.items()
    }
    opposites = {
        mode: [float(_opposite_above(*pair)) for pair in zip(queries, found, strict=True)]
        for mode, found in results.items()
    }
    return {
        "queries": len(queries),
        "means": {mode: mean(each) for mode, each in figures.items()},
        "intervals": {
            mode: interval([one[MEASURES[0]] for one in each], [0.0] * len(each)) for mode, each in figures.items()
        },
        "gains": {
            mode: {
                name: _gain([one[name] for one in figures["hybrid"]], [one[name] for one in each]) for name in MEASURES
            }
            for mode, each in figures.items()
            if mode != "hybrid"
        },
        "opposite_above": {mode: sum(each) / len(each) for mode, each in opposites.items()},
        "opposite_difference": _gain(opposites["hybrid"], opposites["vector"]),
        "dropped": {mode: dropped(queries, found) for mode, found in results.items()},
    }


def _gain(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    return {"mean": sum(ours) / len(ours) - sum(theirs) / len(theirs), "interval": interval(ours, theirs)}


def _opposite_above(query: JudgedQuery, found: Found) -> bool:
    places = {name: place for place, name in enumerate(found.ids)}
    last = len(found.ids)
    right = min((places.get(name, last) for name in query.right), default=last)
    return min((places.get(name, last) for name in query.opposite), default=last) < right


def dropped(queries: Sequence[JudgedQuery], found: Sequence[Found], least: float = DEFAULT_MIN_SCORE) -> float:
    """Compute the share of queries whose right results are found, and lost by the minimum score."""
    lost = [
        query.right & set(one.ids) and not query.right & set(one.above(least))
        for query, one in zip(queries, found, strict=True)
    ]
    return sum(map(bool, lost)) / len(queries)


def answered(query: JudgedQuery, found: Found) -> bool:
    """Whether a hard query finds what a person would want, at the default minimum score."""
    first = found.above(DEFAULT_MIN_SCORE)[:TOP]
    right = next((place for place, name in enumerate(first) if name in query.right), None)
    return right is not None and query.opposite.isdisjoint(first[:right])


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    parts = [
        "# What a search finds",
        machine.line(document["machine"]),
        "[What is measured, and what this does not say](../README.md#what-a-search-finds).",
    ]
    for title, figures in document["corpora"].items():
        rows = [["", *MEASURES, "MRR@10, 95 %", "opposite above", "dropped"]]
        rows += [
            [
                mode,
                *(number(means[name], 3) for name in MEASURES),
                "{:.3f} to {:.3f}".format(*figures["intervals"][mode]),
                number(figures["opposite_above"][mode], 3),
                number(figures["dropped"][mode], 3),
            ]
            for mode, means in figures["means"].items()
        ]
        rows += [
            [f"hybrid − {mode}", *(_signed(gains[name]) for name in MEASURES), "", "", ""]
            for mode, gains in figures["gains"].items()
        ]
        parts += [f"## {title}: {figures['queries']} queries", table(rows)]
    hard = document["hard"]
    parts += [
        "## Hard queries and nonsense",
        f"{sum(hard.values())} of {len(hard)} hard queries find what a person would want among the first {TOP}"
        + (
            ": all but " + ", ".join(f"«{query}»" for query, good in hard.items() if not good)
            if not all(hard.values())
            else ""
        )
        + ".",
        f"{len(document['nonsense_found'])} of {document['nonsense']} nonsense queries find something at the default "
        f"minimum score of {DEFAULT_MIN_SCORE}" + "".join(f", «{query}»" for query in document["nonsense_found"]) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _signed(gain: Mapping[str, Any]) -> str:
    low, high = gain["interval"]
    text = f"{gain['mean']:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def write(folder: Path, document: Mapping[str, Any]) -> None:
    """Write both files."""
    files.write(folder, "relevance", document, as_markdown(document))
