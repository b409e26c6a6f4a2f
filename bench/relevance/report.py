"""From rankings to a `.json` and a `.md` file. Pure but for `write`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import files, machine
from bench.relevance.corpus import Found, Query
from bench.relevance.measures import MEASURES, interval, mean, measured
from bench.tables import number, table
from review_service.fusion import POWER, WEIGHT, fuse


class Fusion(NamedTuple):
    """How much words count beside vectors: see `fuse`."""

    weight: float
    power: float


Asked = Sequence[tuple[Query, Found]]
Figures = Sequence[Mapping[str, float]]
"""Of one way to search, query by query."""
ByJudgement = Mapping[str, Mapping[str, float]]
"""Judgement → measure → a mean, or a gain."""

SERVICE = Fusion(WEIGHT, POWER)
HALVES = ("vector", "keyword")
JUDGEMENTS = {"says": "reviews that say what is asked for", "labelled": "reviews so labelled as a whole"}
OPINIONS, ABOUT_A_DISH, ALL = "opinions", "opinions about a dish", "all"


def kinds(queries: Sequence[Query], found: Sequence[Found]) -> dict[str, Asked]:
    """Kind of query → the queries of that kind, with what was found."""
    asked = list(zip(queries, found, strict=True))
    return {
        OPINIONS: [one for one in asked if one[0].dish is None],
        ABOUT_A_DISH: [one for one in asked if one[0].dish is not None],
        ALL: asked,
    }


def fused(found: Found, fusion: Fusion) -> list[str]:
    """What a hybrid search finds."""
    return [name for name, _ in fuse(found.cosines, found.shares, fusion.weight, fusion.power)]


def figures(asked: Asked, rankings: Iterable[Sequence[str]], judgement: str) -> Figures:
    """Of a ranking for each query."""
    return [measured(ranking, getattr(query, judgement)) for ranking, (query, _) in zip(rankings, asked, strict=True)]


def compared(asked: Asked) -> dict[str, Any]:
    """Judgement → means of each way as the service is set up, and what hybrid search gains over each half."""
    made: dict[str, Any] = {}
    for judgement in JUDGEMENTS:
        ways = {half: figures(asked, [list(getattr(found, half)) for _, found in asked], judgement) for half in HALVES}
        hybrid = figures(asked, [fused(found, SERVICE) for _, found in asked], judgement)
        gains = {
            half: {name: _difference([one[name] for one in hybrid], [one[name] for one in each]) for name in MEASURES}
            for half, each in ways.items()
        }
        made[judgement] = {"means": {way: mean(each) for way, each in {**ways, "hybrid": hybrid}.items()}}
        made[judgement]["gains"] = gains
    return made


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    return {"mean": sum(ours) / len(ours) - sum(theirs) / len(theirs), "interval": interval(ours, theirs)}


def better(asked: Asked) -> dict[str, dict[str, float]]:
    """Judgement → measure → what the better half comes to."""
    made = {}
    for judgement in JUDGEMENTS:
        means = [mean(figures(asked, [list(getattr(found, half)) for _, found in asked], judgement)) for half in HALVES]
        made[judgement] = {name: max(one[name] for one in means) for name in MEASURES}
    return made


def gain(asked: Asked, fusion: Fusion, over: ByJudgement) -> dict[str, dict[str, float]]:
    """Judgement → measure → what hybrid search gains over `better`."""
    rankings = [fused(found, fusion) for _, found in asked]
    made = {}
    for judgement in JUDGEMENTS:
        means = mean(figures(asked, rankings, judgement))
        made[judgement] = {name: means[name] - over[judgement][name] for name in MEASURES}
    return made


def comparison(title: str, count: int, made: Mapping[str, Any]) -> list[str]:
    """Markdown of one kind of queries."""
    parts = [f"## {title}: {count} queries"]
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


class Tried(NamedTuple):
    """What a fusion comes to on the tuning queries."""

    fusion: Fusion
    gains: dict[str, dict[str, ByJudgement]]
    """Set → kind of query → judgement → measure → gain over the better half."""

    def least(self, judgement: str, sets: Collection[str] = ()) -> float:
        """The smallest gain: of all measures, with a dish and without, in these sets or in all.

        The fusion is chosen whose smallest gain by what reviews say is the largest.
        """
        chosen = [self.gains[title] for title in sets or self.gains]
        return min(min(by_kind[kind][judgement].values()) for by_kind in chosen for kind in (OPINIONS, ABOUT_A_DISH))


def tuned(counts: Mapping[str, Mapping[str, int]], tried: Sequence[Tried]) -> list[str]:
    """Markdown of what fusions come to: the one to choose comes first."""
    columns = [(title, kind) for title in counts for kind in (OPINIONS, ABOUT_A_DISH)]
    names = ["least", *(f"least, {title}" for title in counts), *(f"{title}, {kind}" for title, kind in columns)]
    rows = [["weight", "power", *names, "least by labels"]]
    for one in sorted(tried, key=lambda one: -one.least("says")):
        leasts = [one.least("says"), *(one.least("says", [title]) for title in counts)]
        each = [one.gains[title][kind]["says"] for title, kind in columns]
        rows.append(
            [
                *(f"{figure:g}" for figure in one.fusion),
                *(f"{value:+.4f}" for value in leasts),
                *(" ".join(f"{gains[name]:+.3f}" for name in MEASURES) for gains in each),
                f"{one.least('labelled'):+.4f}",
            ]
        )
    numbers = "; ".join(
        f"{title}: " + ", ".join(f"{count} {kind}" for kind, count in by_kind.items())
        for title, by_kind in counts.items()
    )
    what = f"Gains over the better half by what reviews say, and the least of them: {', '.join(MEASURES)}. {numbers}."
    return [what, table(rows)]


def write_comparison(
    folder: Path, head: Mapping[str, Any], sets: Mapping[str, tuple[Sequence[Query], Sequence[Found]]]
) -> None:
    """relevance.json and relevance.md: each way to search, on each kind of queries of each set."""
    asked = {title: kinds(*one) for title, one in sets.items()}
    made = {title: {kind: compared(each) for kind, each in by_kind.items()} for title, by_kind in asked.items()}
    parts = [_top(head)]
    for title, by_kind in asked.items():
        for kind, each in by_kind.items():
            parts += comparison(f"{title.capitalize()}, {kind}", len(each), made[title][kind])
    _write(folder, "relevance", {"machine": dict(head), "sets": made}, parts)


def write_tuning(
    folder: Path,
    head: Mapping[str, Any],
    sets: Mapping[str, tuple[Sequence[Query], Sequence[Found]]],
    tried: Sequence[Fusion],
) -> None:
    """relevance-tuning.json and relevance-tuning.md: what each fusion gains over the better half."""
    asked = {title: kinds(*one) for title, one in sets.items()}
    over = {title: {kind: better(each) for kind, each in by_kind.items()} for title, by_kind in asked.items()}
    made = [
        Tried(
            fusion,
            {
                title: {kind: gain(each, fusion, over[title][kind]) for kind, each in by_kind.items()}
                for title, by_kind in asked.items()
            },
        )
        for fusion in tried
    ]
    document = {
        "machine": dict(head),
        "better": over,
        "tried": [{**one.fusion._asdict(), "least": one.least("says"), "gains": one.gains} for one in made],
    }
    counts = {title: {kind: len(each) for kind, each in by_kind.items()} for title, by_kind in asked.items()}
    _write(folder, "relevance-tuning", document, [_top(head), *tuned(counts, made)])


def _top(head: Mapping[str, Any]) -> str:
    about = "[What is measured, and what this does not say](../README.md#what-a-search-finds)."
    return f"# What a search finds\n\n{machine.line(head)}\n\n{about}"


def _write(folder: Path, name: str, document: Mapping[str, Any], parts: Sequence[str]) -> None:
    files.write(folder, name, document, "\n\n".join(parts) + "\n")
    files.show(folder, name)
