"""Makes a `.json` and a `.md` file from rankings. Pure except the functions that write."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import files, machine
from bench.relevance.corpus import CandidateSets, JudgedQuery
from bench.relevance.measures import MEASURES, interval, mean, score_ranking
from bench.tables import number, table
from review_service.search.fusion import KEYWORD_WEIGHT, RARITY_POWER, fuse


class FusionParameters(NamedTuple):
    """Parameters of fusion: see `fuse`."""

    weight: float
    power: float


QueriesWithCandidates = Sequence[tuple[JudgedQuery, CandidateSets]]
Figures = Sequence[Mapping[str, float]]
"""Scores of one kind of search, by query."""
ScoresByJudgement = Mapping[str, Mapping[str, float]]
"""Judgement → measure → mean or gain."""

SERVICE = FusionParameters(KEYWORD_WEIGHT, RARITY_POWER)
HALVES = ("vector", "keyword")
JUDGEMENTS = {"says": "reviews that say what is asked for", "labelled": "reviews so labelled as a whole"}
OPINIONS, ABOUT_A_DISH, ALL = "opinions", "opinions about a dish", "all"


def by_query_kind(queries: Sequence[JudgedQuery], found: Sequence[CandidateSets]) -> dict[str, QueriesWithCandidates]:
    """Group queries and their candidates by kind of query."""
    asked = list(zip(queries, found, strict=True))
    return {
        OPINIONS: [one for one in asked if one[0].dish is None],
        ABOUT_A_DISH: [one for one in asked if one[0].dish is not None],
        ALL: asked,
    }


def fused(found: CandidateSets, fusion: FusionParameters) -> list[str]:
    """Rank candidates as hybrid search does. Returns review ids, best first."""
    return [name for name, _ in fuse(found.cosines, found.shares, fusion.weight, fusion.power)]


def figures(asked: QueriesWithCandidates, rankings: Iterable[Sequence[str]], judgement: str) -> Figures:
    """Score one ranking per query by a judgement, a field of `JudgedQuery`."""
    return [
        score_ranking(ranking, getattr(query, judgement)) for ranking, (query, _) in zip(rankings, asked, strict=True)
    ]


def compare(asked: QueriesWithCandidates) -> dict[str, Any]:
    """Compare, by judgement: the means of each kind of search, and the gains of hybrid search over each half."""
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


def best_half(asked: QueriesWithCandidates) -> dict[str, dict[str, float]]:
    """Find the mean of the better half: judgement → measure → mean."""
    made = {}
    for judgement in JUDGEMENTS:
        means = [mean(figures(asked, [list(getattr(found, half)) for _, found in asked], judgement)) for half in HALVES]
        made[judgement] = {name: max(one[name] for one in means) for name in MEASURES}
    return made


def gain(
    asked: QueriesWithCandidates, fusion: FusionParameters, over: ScoresByJudgement
) -> dict[str, dict[str, float]]:
    """Compute the gain of hybrid search over the means `over`: judgement → measure → gain."""
    rankings = [fused(found, fusion) for _, found in asked]
    made = {}
    for judgement in JUDGEMENTS:
        means = mean(figures(asked, rankings, judgement))
        made[judgement] = {name: means[name] - over[judgement][name] for name in MEASURES}
    return made


def comparison(title: str, count: int, made: Mapping[str, Any]) -> list[str]:
    """Render the comparison of one kind of queries as Markdown."""
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


class FusionTrial(NamedTuple):
    """Results of fusion parameters on the tuning queries."""

    fusion: FusionParameters
    gains: dict[str, dict[str, ScoresByJudgement]]
    """Set → kind of query → judgement → measure → gain over the better half."""

    def min_gain(self, judgement: str, sets: Collection[str] = ()) -> float:
        """Find the smallest gain of all measures, of queries with and without a dish.

        The parameters with the largest smallest gain by the judgement `says` are chosen.

        Args:
            judgement: a key of `JUDGEMENTS`.
            sets: names of sets of queries; empty: all.

        Returns:
            The smallest gain.
        """
        chosen = [self.gains[title] for title in sets or self.gains]
        return min(min(by_kind[kind][judgement].values()) for by_kind in chosen for kind in (OPINIONS, ABOUT_A_DISH))


def tuning_tables(counts: Mapping[str, Mapping[str, int]], tried: Sequence[FusionTrial]) -> list[str]:
    """Render the results of all parameters as Markdown, best first."""
    columns = [(title, kind) for title in counts for kind in (OPINIONS, ABOUT_A_DISH)]
    names = ["least", *(f"least, {title}" for title in counts), *(f"{title}, {kind}" for title, kind in columns)]
    rows = [["weight", "power", *names, "least by labels"]]
    for one in sorted(tried, key=lambda one: -one.min_gain("says")):
        leasts = [one.min_gain("says"), *(one.min_gain("says", [title]) for title in counts)]
        each = [one.gains[title][kind]["says"] for title, kind in columns]
        rows.append(
            [
                *(f"{figure:g}" for figure in one.fusion),
                *(f"{value:+.4f}" for value in leasts),
                *(" ".join(f"{gains[name]:+.3f}" for name in MEASURES) for gains in each),
                f"{one.min_gain('labelled'):+.4f}",
            ]
        )
    numbers = "; ".join(
        f"{title}: " + ", ".join(f"{count} {kind}" for kind, count in by_kind.items())
        for title, by_kind in counts.items()
    )
    what = f"Gains over the better half by what reviews say, and the least of them: {', '.join(MEASURES)}. {numbers}."
    return [what, table(rows)]


def write_comparison(
    folder: Path, head: Mapping[str, Any], sets: Mapping[str, tuple[Sequence[JudgedQuery], Sequence[CandidateSets]]]
) -> None:
    """Write relevance.json and relevance.md: each kind of search, for each kind of queries of each set."""
    asked = {title: by_query_kind(*one) for title, one in sets.items()}
    made = {title: {kind: compare(each) for kind, each in by_kind.items()} for title, by_kind in asked.items()}
    parts = [_top(head)]
    for title, by_kind in asked.items():
        for kind, each in by_kind.items():
            parts += comparison(f"{title.capitalize()}, {kind}", len(each), made[title][kind])
    _write(folder, "relevance", {"machine": dict(head), "sets": made}, parts)


def write_tuning(
    folder: Path,
    head: Mapping[str, Any],
    sets: Mapping[str, tuple[Sequence[JudgedQuery], Sequence[CandidateSets]]],
    tried: Sequence[FusionParameters],
) -> None:
    """Write relevance-tuning.json and relevance-tuning.md: gains of fusion parameters over the better half.

    Args:
        folder: folder for the files.
        head: description of the machine.
        sets: queries and candidates by name of the set.
        tried: the parameters.
    """
    asked = {title: by_query_kind(*one) for title, one in sets.items()}
    over = {title: {kind: best_half(each) for kind, each in by_kind.items()} for title, by_kind in asked.items()}
    made = [
        FusionTrial(
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
        "tried": [{**one.fusion._asdict(), "least": one.min_gain("says"), "gains": one.gains} for one in made],
    }
    counts = {title: {kind: len(each) for kind, each in by_kind.items()} for title, by_kind in asked.items()}
    _write(folder, "relevance-tuning", document, [_top(head), *tuning_tables(counts, made)])


def _top(head: Mapping[str, Any]) -> str:
    about = "[What is measured, and what this does not say](../README.md#what-a-search-finds)."
    return f"# What a search finds\n\n{machine.line(head)}\n\n{about}"


def _write(folder: Path, name: str, document: Mapping[str, Any], parts: Sequence[str]) -> None:
    files.write(folder, name, document, "\n\n".join(parts) + "\n")
    files.show(folder, name)
