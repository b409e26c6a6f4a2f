"""From rankings to a `.json` and a `.md` file. Pure but for `write`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import files, machine
from bench.relevance.corpus import Found, Query
from bench.relevance.measures import MEASURES, interval, mean, measured
from bench.tables import number, table
from review_service.fusion import MEANING, SMOOTHING, fuse

Fusion = tuple[float, float]
"""Weight of the ranks by vectors, the words having what is left of 1, and smoothing."""
Figures = Sequence[Mapping[str, float]]
"""Of one way to search, query by query."""

JUDGEMENTS = {"says": "reviews that say what is asked for", "labelled": "reviews so labelled as a whole"}


def fused(found: Found, fusion: Fusion) -> list[str]:
    """What a hybrid search finds."""
    share, smoothing = fusion
    return [name for name, _ in fuse([(share, found.vector), (1 - share, found.keyword)], smoothing)]


def ways(queries: Sequence[Query], found: Sequence[Found], fusion: Fusion, judgement: str) -> dict[str, Figures]:
    """Way to search → figures of each query."""
    rankings: dict[str, list[Sequence[str]]] = {
        "vector": [one.vector for one in found],
        "keyword": [one.keyword for one in found],
        "hybrid": [fused(one, fusion) for one in found],
    }
    relevant = [getattr(query, judgement) for query in queries]
    return {
        way: [measured(ranking, right) for ranking, right in zip(ranked, relevant, strict=True)]
        for way, ranked in rankings.items()
    }


def compared(queries: Sequence[Query], found: Sequence[Found]) -> dict[str, Any]:
    """Judgement → means of each way as the service is set up, and what hybrid search gains over each half."""
    made: dict[str, Any] = {}
    for judgement in JUDGEMENTS:
        figures = ways(queries, found, (MEANING, SMOOTHING), judgement)
        means = {way: mean(each) for way, each in figures.items()}
        gains = {
            half: {
                name: {
                    "mean": means["hybrid"][name] - means[half][name],
                    "interval": interval(
                        [one[name] for one in figures["hybrid"]], [one[name] for one in figures[half]]
                    ),
                }
                for name in MEASURES
            }
            for half in ("vector", "keyword")
        }
        made[judgement] = {"means": means, "gains": gains}
    return made


def gain(queries: Sequence[Query], found: Sequence[Found], fusion: Fusion) -> dict[str, dict[str, float]]:
    """Judgement → measure → what hybrid search gains over vectors."""
    made = {}
    for judgement in JUDGEMENTS:
        means = {way: mean(each) for way, each in ways(queries, found, fusion, judgement).items()}
        made[judgement] = {name: means["hybrid"][name] - means["vector"][name] for name in MEASURES}
    return made


def least(gains: Mapping[str, Mapping[str, float]]) -> float:
    """The smallest of all gains: what fusion is chosen by."""
    return min(value for by_measure in gains.values() for value in by_measure.values())


def comparison(title: str, count: int, made: Mapping[str, Any]) -> list[str]:
    """Markdown of one set of queries."""
    parts = [f"## {count} {title} queries"]
    for judgement, what in JUDGEMENTS.items():
        means, gains = made[judgement]["means"], made[judgement]["gains"]
        rows = [[what.capitalize(), *MEASURES]]
        rows += [[way, *(number(means[way][name], 3) for name in MEASURES)] for way in means]
        rows += [[f"hybrid − {half}", *(_gain(gains[half][name]) for name in MEASURES)] for half in gains]
        parts.append(table(rows))
    return parts


def _gain(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return f"{one['mean']:+.3f} ({low:+.3f} to {high:+.3f})"


def tuned(count: int, tried: Sequence[tuple[Fusion, Mapping[str, Mapping[str, float]]]]) -> list[str]:
    """Markdown of what other weights come to, the best first."""
    rows = [
        ["weight of vectors", "smoothing", "least gain", *(f"{j}: {name}" for j in JUDGEMENTS for name in MEASURES)]
    ]
    for (share, smoothing), gains in sorted(tried, key=lambda one: -least(one[1])):
        each = [f"{gains[judgement][name]:+.4f}" for judgement in JUDGEMENTS for name in MEASURES]
        rows.append([f"{share:g}", f"{smoothing:g}", f"{least(gains):+.4f}", *each])
    return [f"## Gains over vectors, {count} tuning queries", table(rows)]


def write_comparison(
    folder: Path, head: Mapping[str, Any], sets: Mapping[str, tuple[Sequence[Query], Sequence[Found]]]
) -> None:
    """relevance.json and relevance.md: each way to search, on each set of queries."""
    made = {title: compared(*asked) for title, asked in sets.items()}
    parts = [_top(head)]
    for title, asked in sets.items():
        parts += comparison(title, len(asked[0]), made[title])
    _write(folder, "relevance", {"machine": dict(head), "sets": made}, parts)


def write_tuning(
    folder: Path, head: Mapping[str, Any], queries: Sequence[Query], found: Sequence[Found], tried: Sequence[Fusion]
) -> None:
    """relevance-tuning.json and relevance-tuning.md: what each fusion gains over vectors."""
    gains = [(fusion, gain(queries, found, fusion)) for fusion in tried]
    document = {
        "machine": dict(head),
        "tried": [{"share": share, "smoothing": smoothing, "gains": each} for (share, smoothing), each in gains],
    }
    _write(folder, "relevance-tuning", document, [_top(head), *tuned(len(queries), gains)])


def _top(head: Mapping[str, Any]) -> str:
    about = "[What is measured, and what this does not say](../README.md#what-a-search-finds)."
    return f"# What a search finds\n\n{machine.line(head)}\n\n{about}"


def _write(folder: Path, name: str, document: Mapping[str, Any], parts: Sequence[str]) -> None:
    files.write(folder, name, document, "\n\n".join(parts) + "\n")
    files.show(folder, name)
