"""`python -m bench.relevance` (`make bench-relevance`): compares hybrid search with vector and keyword search."""

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from bench import files, machine
from bench.paths import E5_SMALL, REAL_DATA
from bench.relevance import corpus, report
from bench.relevance.corpus import Corpus
from bench.relevance.searches import Encoder, Found, find, searching
from review_service.schemas import DEFAULT_MIN_SCORE, Mode

MODES: tuple[Mode, ...] = get_args(Mode)


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
        "hard": {query.text: report.answered(query, one) for query, one in zip(data.queries, found, strict=True)},
        "nonsense": len(nonsense),
        "nonsense_found": [text for text, one in zip(nonsense, nothing, strict=True) if one.above(DEFAULT_MIN_SCORE)],
    }


async def _measure(encoder: Encoder) -> dict[str, Any]:
    compared = {}
    if corpus.STATEMENTS.exists():
        data = corpus.real()
        results = await _all_modes(data, encoder)
        for title, start, step in (
            ("Even groups, chosen by", 0, 2),
            ("Odd groups, judged by", 1, 2),
            ("All groups", 0, 1),
        ):
            part = {mode: found[start::step] for mode, found in results.items()}
            compared[title] = report.compare(data.queries[start::step], part)
    else:
        print(f"LEFT OUT: there is no real Korean text in {REAL_DATA.name}.")
    sample = corpus.sample()
    compared["Sample reviews, held-out queries"] = report.compare(sample.queries, await _all_modes(sample, encoder))
    return {"corpora": compared, **await _hard(encoder)}


def main(
    encoder: Annotated[Path, typer.Option(help="Folder of a sentence-transformers model.")] = E5_SMALL,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results by default.")] = None,
) -> None:
    """Measure vector, keyword and hybrid search, and write relevance.json and relevance.md.

    The first run computes vectors, for minutes; later ones take them from `.onecard/bench`.
    """
    head = machine.describe("python -m bench.relevance") | {
        name: version(name) for name in ("lancedb", "kiwipiepy", "sentence-transformers")
    }
    folder = files.folder_for(out, quick=False)
    report.write(folder, {"machine": head, **asyncio.run(_measure(Encoder(encoder)))})
    files.show(folder, "relevance")


if __name__ == "__main__":
    typer.run(main)
