"""`python -m bench.relevance` (`make bench-relevance`): compares hybrid search with vector and keyword search."""

import asyncio
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from bench import machine
from bench.command import Out, benchmark
from bench.paths import E5_SMALL, REAL_DATA
from bench.relevance import corpus
from bench.relevance.corpus import Corpus, JudgedQuery
from bench.relevance.measures import MEASURES, difference, interval, mean, score_ranking, signed
from bench.relevance.searches import Encoder, Found, find, searching
from bench.tables import number, page, table
from review_service.schemas import DEFAULT_MIN_SCORE, Mode

Results = Mapping[str, Sequence[Found]]
"""Mode → what it has found, query by query."""
TOP = 3
"""A hard query is answered if one of so many first results is wanted, and nothing unwanted stands above it."""


def compare(queries: Sequence[JudgedQuery], results: Results) -> dict[str, Any]:
    """Compare the modes of search: means, gains of hybrid search with 95 % intervals, opposites above right results."""
    pairs = {mode: list(zip(queries, found, strict=True)) for mode, found in results.items()}
    scores = {mode: [score_ranking(found.ids, query.right) for query, found in each] for mode, each in pairs.items()}
    opposites = {mode: [float(_opposite_above(*pair)) for pair in each] for mode, each in pairs.items()}

    def values(mode: str, measure: str) -> list[float]:
        return [one[measure] for one in scores[mode]]

    def gains(mode: str) -> dict[str, Any]:
        return {measure: difference(values("hybrid", measure), values(mode, measure)) for measure in MEASURES}

    return {
        "queries": len(queries),
        "means": {mode: mean(each) for mode, each in scores.items()},
        "intervals": {mode: interval(values(mode, MEASURES[0]), [0.0] * len(queries)) for mode in scores},
        "gains": {mode: gains(mode) for mode in scores if mode != "hybrid"},
        "opposite_above": {mode: sum(each) / len(each) for mode, each in opposites.items()},
        "opposite_difference": difference(opposites["hybrid"], opposites["vector"]),
        "dropped": {mode: dropped(queries, found) for mode, found in results.items()},
    }


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
    parts = []
    for title, figures in document["corpora"].items():
        rows = [["", *MEASURES, "MRR@10, 95 %", "opposite above", "dropped"]]
        for mode, means in figures["means"].items():
            interval_of = "{:.3f} to {:.3f}".format(*figures["intervals"][mode])
            shares = [number(figures[share][mode], 3) for share in ("opposite_above", "dropped")]
            rows.append([mode, *(number(means[name], 3) for name in MEASURES), interval_of, *shares])
        for mode, gains in figures["gains"].items():
            rows.append([f"hybrid − {mode}", *(signed(gains[name], 3, bold=True) for name in MEASURES), "", "", ""])
        parts += [f"## {title}: {figures['queries']} queries", table(rows)]
    hard = document["hard"]
    missed = ", ".join(f"«{query}»" for query, good in hard.items() if not good)
    return page(
        "# What a search finds",
        machine.line(document["machine"]),
        "[What is measured, and what this does not say](../README.md#what-a-search-finds).",
        *parts,
        "## Hard queries and nonsense",
        f"{sum(hard.values())} of {len(hard)} hard queries find what a person would want among the first {TOP}"
        + (f": all but {missed}." if missed else "."),
        f"{len(document['nonsense_found'])} of {document['nonsense']} nonsense queries find something at the default "
        f"minimum score of {DEFAULT_MIN_SCORE}" + "".join(f", «{query}»" for query in document["nonsense_found"]) + ".",
    )


MODES: tuple[Mode, ...] = get_args(Mode)
PARTS = {
    "Even groups, chosen by": slice(0, None, 2),
    "Odd groups, judged by": slice(1, None, 2),
    "All groups": slice(None),
}


async def _all_modes(data: Corpus, encoder: Encoder) -> dict[str, list[Found]]:
    queries = [query.text for query in data.queries]
    async with searching(data, encoder) as searcher:
        return {mode: await find(searcher, queries, mode) for mode in MODES}


async def _hard(encoder: Encoder) -> dict[str, Any]:
    data, nonsense = corpus.hard(), corpus.nonsense()
    async with searching(data, encoder) as searcher:
        found = await find(searcher, [query.text for query in data.queries], "hybrid")
        nothing = await find(searcher, nonsense, "hybrid")
    return {
        "hard": {query.text: answered(query, one) for query, one in zip(data.queries, found, strict=True)},
        "nonsense": len(nonsense),
        "nonsense_found": [text for text, one in zip(nonsense, nothing, strict=True) if one.above(DEFAULT_MIN_SCORE)],
    }


async def _measure(encoder: Encoder) -> dict[str, Any]:
    compared = {}
    if corpus.STATEMENTS.exists():
        data = corpus.real()
        results = await _all_modes(data, encoder)
        for title, part in PARTS.items():
            some = {mode: found[part] for mode, found in results.items()}
            compared[title] = compare(data.queries[part], some)
    else:
        print(f"LEFT OUT: there is no real Korean text in {REAL_DATA.name}.")
    sample = corpus.sample()
    compared["Sample reviews, held-out queries"] = compare(sample.queries, await _all_modes(sample, encoder))
    return {"corpora": compared, **await _hard(encoder)}


def main(
    encoder: Annotated[Path, typer.Option(help="Folder of a sentence-transformers model.")] = E5_SMALL,
    out: Out = None,
) -> None:
    """Measure vector, keyword and hybrid search, and write relevance.json and relevance.md.

    The first run computes vectors, for minutes; later ones take them from `.onecard/bench`.
    """
    with benchmark("relevance", out) as run:
        run.head.update({name: version(name) for name in ("lancedb", "kiwipiepy", "sentence-transformers")})
        document = {"machine": run.head, **asyncio.run(_measure(Encoder(encoder)))}
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
