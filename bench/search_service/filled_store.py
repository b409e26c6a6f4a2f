"""Fills a store with many reviews of real length. It takes minutes, and is done once for a number of reviews."""

import asyncio
import gzip
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.paths import REAL_REVIEWS, WORK
from bench.relevance.searches import Encoder
from review_service.model_services import EmbeddedTexts, Prediction
from review_service.reviews.aspects import read_aspects
from review_service.reviews.clauses import version_of
from review_service.reviews.index_maintenance import maintain
from review_service.reviews.rows import ClassifiedReview, Filters, digest_of
from review_service.reviews.store import open_store
from review_service.schemas import Review
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
    """Make a store of this many reviews, unless there is one.

    Args:
        rows: Number of reviews.
        encoder: Computes the vectors of some of them.
        model: Name of the encoder, as the embedding service gives it.

    Returns:
        Folder of the store.
    """
    folder = WORK / "search-service" / str(rows)
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        await _fill(folder / "reviews", rows, encoder, model)
        (folder / "complete").touch()
    return folder / "reviews"


def source_texts() -> list[str]:
    """Read the real reviews."""
    with gzip.open(REAL_REVIEWS, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for _, line in zip(range(SOURCE_TEXTS), lines, strict=False)]


async def _fill(folder: Path, rows: int, encoder: Encoder, model: str) -> None:
    analyzer = MorphemeAnalyzer(WordFiles(None).user_words())
    texts = source_texts()[: max(ENCODED_TEXTS, rows)]
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
        assert await store.keyword_search("영화", Filters(), 1)
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
        for number in range(start, min(rows, start + BATCH)):
            other = number if number < len(halves) else chance.randrange(len(halves))
            (first, first_terms), (second, second_terms) = halves[number % len(halves)][0], halves[other][1]
            review = Review.model_validate(
                {
                    "review_id": f"r-{number}",
                    "restaurant_id": f"place-{number % RESTAURANTS}",
                    "text": first + second,
                    "rating": float(number % 5 + 1),
                }
            )
            terms = f"{first_terms} {second_terms}".strip()
            prediction = Prediction("positive", 0.9)
            batch.append(ClassifiedReview(review, digest_of(review), prediction, terms, analyzer.version, (), clauses))
        yield batch


def _mixtures(count: int, known: Vectors, rng: np.random.Generator) -> Vectors:
    pairs = known[rng.integers(0, len(known), (2, count))]
    shares = rng.random((count, 1), np.float32)
    mixed = pairs[0] * shares + pairs[1] * (1 - shares)
    noise = rng.standard_normal(mixed.shape, np.float32)
    mixed += noise * (
        NOISE * np.linalg.norm(mixed, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    )
    unit: Vectors = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit
