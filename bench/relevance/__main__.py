"""`python -m bench.relevance` (`make bench-relevance`): compares hybrid search with vector and keyword search."""

import asyncio
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from bench import files, machine
from bench.paths import ROOT
from bench.relevance import corpus, report
from bench.relevance.corpus import CandidateSets, JudgedQuery
from bench.relevance.report import FusionParameters

MODELS = ROOT / ".onecard" / "models"
ENCODER = "onecard--standin-ko-sbert"
WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Values that `--tune` tries: see `review_service.search.fusion`."""
POWERS = (32, 64, 96, 128, 192, 256, 384)

Sets = dict[str, tuple[list[JudgedQuery], list[CandidateSets]]]
"""Name of a set of queries → the queries and their candidates."""


async def search(encoder: Path, sets: dict[str, list[JudgedQuery]]) -> Sets:
    """Import the sample reviews and run all queries."""
    loaded = corpus.StandInEncoder(encoder)
    with TemporaryDirectory() as folder:
        async with corpus.filled_store(Path(folder) / "reviews", loaded) as store:
            return {
                name: (queries, await corpus.find_candidates(store, loaded, queries)) for name, queries in sets.items()
            }


def main(
    models: Annotated[Path, typer.Option(help="Folder with the stand-ins.")] = MODELS,
    tune: Annotated[bool, typer.Option("--tune", help="Try parameters of fusion on the tuning queries.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results by default.")] = None,
) -> None:
    """Measure vector, keyword and hybrid search on the sample reviews, and write relevance.json and relevance.md.

    It takes a minute. --tune writes relevance-tuning.json and .md instead: the gains of other parameters of fusion, on
    the tuning queries.
    """
    sets = corpus.tuning()
    if not tune:
        sets["held-out"] = corpus.held_out()
    asked = asyncio.run(search(models / ENCODER, sets))
    head = machine.describe("python -m bench.relevance" + (" --tune" if tune else "")) | {"lancedb": version("lancedb")}
    folder = files.folder_for(out, quick=False)
    if tune:
        report.write_tuning(folder, head, asked, [FusionParameters(*figures) for figures in product(WEIGHTS, POWERS)])
    else:
        report.write_comparison(folder, head, asked)


if __name__ == "__main__":
    typer.run(main)
