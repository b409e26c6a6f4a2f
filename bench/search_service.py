"""`python -m bench.search_service` (`make bench-search`): measures searches through the gateway, in every mode."""

import asyncio
import json
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import numpy.typing as npt
import typer
import uvloop

from bench import machine
from bench.clients import HttpLoadClient, HttpResponse, closed_loop, json_request, status_failure
from bench.command import Out, benchmark, parse_numbers
from bench.measurements import Figures, percentiles
from bench.paths import E5_SMALL, WORK
from bench.relevance.corpus import STATEMENTS, rows_of
from bench.relevance.searches import Encoder
from bench.servers import ContenderServer, ServerFailed, Servers
from bench.tables import number, page, table
from bench.texts import real_reviews
from review_service.model_services import EmbeddedTexts, Prediction
from review_service.reviews.aspects import read_aspects
from review_service.reviews.clauses import version_of
from review_service.reviews.index_maintenance import maintain
from review_service.reviews.rows import ClassifiedReview, Filters, digest_of
from review_service.reviews.store import open_store
from review_service.schemas import Mode, Review
from review_service.search.word_files import WordFiles
from review_service.settings import ReviewSettings
from review_service.words.analyzer import MorphemeAnalyzer

SOURCE_TEXTS = 20_000
"""Number of real reviews; the others are the first half of one and the second half of another."""
ENCODED_TEXTS = 1_000
"""Number of reviews whose vectors the encoder computes. The others are mixtures of two of these, with noise."""
NOISE = 0.35
"""Length of the noise, as a multiple of the mixture's."""
RESTAURANTS = 600
BATCH = 2_048
SEED = 7

Vectors = npt.NDArray[np.float32]
Half = tuple[str, str]
"""Half of a text, and its terms."""


async def filled_store(rows: int, encoder: Encoder, model: str) -> Path:
    """Make a store of this many reviews, unless there is one. Returns its folder."""
    folder = WORK / "search-service" / str(rows)
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        await _fill(folder / "reviews", rows, encoder, model)
        (folder / "complete").touch()
    return folder / "reviews"


async def _fill(folder: Path, rows: int, encoder: Encoder, model: str) -> None:
    analyzer = MorphemeAnalyzer(WordFiles(None).user_words())
    texts = real_reviews()[: min(SOURCE_TEXTS, max(ENCODED_TEXTS, rows))]
    halves = [_halves(text, analyzer) for text in texts]
    known = encoder.vectors(texts[:ENCODED_TEXTS], "document")
    rng = np.random.default_rng(SEED)
    async with open_store(str(folder)) as store:
        index_rows = ReviewSettings.model_fields["review_index_rows"].default
        for number, batch in enumerate(_batches(rows, halves, analyzer)):
            await store.upsert(batch, EmbeddedTexts(_mixtures(len(batch), known, rng), model))
            if number % 20 == 0:
                await maintain(store, index_rows)
        await maintain(store, index_rows)
        await maintain(store, index_rows, settled=True)
        assert await store.keyword_search({"영화": 1.0}, Filters(), 1)
        await asyncio.sleep(0)


def _halves(text: str, analyzer: MorphemeAnalyzer) -> tuple[Half, Half]:
    middle = text.find(" ", len(text) // 2)
    first, second = (text[:middle], text[middle:]) if middle > 0 else (text, "")
    return (first, analyzer.indexed(first)), (second, analyzer.indexed(second))


def _batches(
    rows: int, halves: Sequence[tuple[Half, Half]], analyzer: MorphemeAnalyzer
) -> Iterator[list[ClassifiedReview]]:
    # Without clauses, which searches do not read, but with their version, so that none are made while it is measured.
    clauses = version_of(analyzer, read_aspects())
    chance = random.Random(SEED)
    for start in range(0, rows, BATCH):
        batch = []
        for place in range(start, min(rows, start + BATCH)):
            other = place if place < len(halves) else chance.randrange(len(halves))
            (first, first_terms), (second, second_terms) = halves[place % len(halves)][0], halves[other][1]
            where, stars = f"place-{place % RESTAURANTS}", float(place % 5 + 1)
            review = Review(review_id=f"r-{place}", restaurant_id=where, text=first + second, rating=stars)
            terms, said = f"{first_terms} {second_terms}".strip(), Prediction("positive", 0.9)
            batch.append(ClassifiedReview(review, digest_of(review), said, terms, analyzer.version, (), clauses))
        yield batch


def _mixtures(count: int, known: Vectors, rng: np.random.Generator) -> Vectors:
    pairs = known[rng.integers(0, len(known), (2, count))]
    shares = rng.random((count, 1), np.float32)
    mixed = pairs[0] * shares + pairs[1] * (1 - shares)
    noise = _unit(rng.standard_normal(mixed.shape, np.float32))
    return _unit(mixed + noise * NOISE * np.linalg.norm(mixed, axis=1, keepdims=True))


def _unit(rows: Vectors) -> Vectors:
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


SIZES = (10_000, 200_000)
MODES: tuple[Mode, ...] = get_args(Mode)
WARM_UP = 20
"""Queries of each mode before the clock starts."""
MAX_P99_MS = {"keyword": 15.0, "hybrid": 35.0}


def queries() -> list[str]:
    """Real queries, and the same in pairs: all are distinct."""
    if not STATEMENTS.exists():
        raise ServerFailed(f"there is no real Korean text in {STATEMENTS.parent.name}")
    asked = [row["entailment"] for row in rows_of(STATEMENTS)]
    return asked + [f"{first} {second}" for first, second in zip(asked[::2], asked[1::2], strict=True)]


def degraded(answer: HttpResponse) -> str | None:
    """Count answers without the encoder as errors, too."""
    return "degraded" if answer.status == 200 and json.loads(answer.body)["degraded"] else status_failure(answer)


def _latencies(gateway: ContenderServer, mode: Mode, asked: list[str]) -> Figures:
    bodies = [{"query": query, "mode": mode, "min_score": 0} for query in asked]
    requests = [json_request("/v1/reviews/search", body, {"cache-control": "no-store"}) for body in bodies]
    tally = uvloop.run(closed_loop(gateway.url, iter(requests), clients=1, seconds=math.inf, check=degraded))
    if tally.errors:
        raise ServerFailed(f"not every search was answered: {tally.errors}")
    return percentiles(tally.latencies_ms[WARM_UP:], 50, 95, 99)


async def _ask(server: ContenderServer, request: bytes) -> HttpResponse:
    async with HttpLoadClient(server.url) as client:
        return await client.send(request)


def measure(rows: int, encoder: Path, asked: list[str]) -> dict[str, Any]:
    """Measure a store of this many reviews: latencies by mode in ms, memory and disk in MB."""
    with Servers("search-") as servers:
        embedding = servers.start_service("embedding", {"EMBEDDING_MODEL": str(encoder), "CACHE_ENABLED": "false"})
        named = json.loads(asyncio.run(_ask(embedding, json_request("/v1/embeddings", {"input": "가"}))).body)
        store = asyncio.run(filled_store(rows, Encoder(encoder), named["model"]))
        review = servers.start_service("review", {"REVIEW_STORE": str(store)})
        gateway = servers.start_service("gateway", {})
        modes = {mode: _latencies(gateway, mode, asked) for mode in MODES}
        sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
        vectors = rows * len(named["data"][0]["embedding"]) * 4
        disk = {"disk_mb": sum(sizes) / 1e6, "files": len(sizes), "vectors_mb": vectors / 1e6}
        return {"modes": modes, "memory_mb": review.resident_mb(), **disk}


def as_markdown(document: dict[str, Any]) -> str:
    """Render the report."""
    parts = []
    for rows, figures in document["sizes"].items():
        lines = [["", "p50 ms", "p95 ms", "p99 ms", "promised"]]
        for mode, taken in figures["modes"].items():
            limit = MAX_P99_MS.get(mode)
            kept = "" if limit is None else f"< {limit:g}: {'kept' if taken['p99_ms'] < limit else '**not kept**'}"
            lines.append([mode, *(number(taken[f"p{percent}_ms"], 1) for percent in (50, 95, 99)), kept])
        parts += [
            f"## {int(rows):,} reviews",
            table(lines),
            f"The review service takes {figures['memory_mb']:.0f} MB of memory; the store {figures['disk_mb']:.0f} MB "
            f"on disk in {figures['files']} files, of which the vectors alone are {figures['vectors_mb']:.0f} MB.",
        ]
    return page("# Searches through the gateway", machine.line(document["machine"]), *parts)


def main(
    encoder: Annotated[Path, typer.Option(help="Folder of a sentence-transformers model.")] = E5_SMALL,
    sizes: Annotated[str, typer.Option(help="Numbers of reviews, separated by commas.")] = ",".join(map(str, SIZES)),
    out: Out = None,
) -> None:
    """Search one query at a time, all different, without any cache; write search-service.json and .md.

    Vectors of the reviews are made beforehand, those of the queries are computed. Stores are kept in .onecard/bench.
    """
    with benchmark("search_service", out) as run:
        asked = queries()
        run.head["lancedb"] = version("lancedb")
        measured = {str(size): measure(size, encoder, asked) for size in parse_numbers(sizes)}
        document = {"machine": run.head, "sizes": measured}
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
