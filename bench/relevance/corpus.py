"""Stores the sample reviews, and loads queries with the relevant reviews of each."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.paths import ROOT, SAMPLE_REVIEWS
from review_service.model_services import Prediction as Judgement
from review_service.reviews.hits import Hit
from review_service.reviews.index_maintenance import maintain
from review_service.reviews.rows import ClassifiedReview, Filters, digest_of
from review_service.reviews.store import ReviewStore, open_store
from review_service.schemas import Review
from review_service.search.frequency_sample import DocumentFrequencySample
from review_service.search.searcher import MIN_CANDIDATES, merge_candidates
from review_service.settings import ReviewSettings
from standins.corpus import Row
from standins.relevance import (
    CHATTY_DISH_FRAMES,
    CHATTY_FRAMES,
    DISH_FRAMES,
    HELD_OUT_DISHES,
    TUNING_DISHES,
    RelevanceJudgements,
    tuning_queries,
    with_dish_names,
)

HELD_OUT = ROOT / "data" / "heldout_queries.jsonl"
MODEL = "stand-in"

Vectors = npt.NDArray[np.float32]
"""Shape (texts, dimensions); each row has unit length."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class JudgedQuery:
    """A query and its relevant reviews."""

    text: str
    says: frozenset[str]
    """Ids of the reviews that state the opinion of the query."""
    labelled: frozenset[str]
    """Ids of the reviews that mention the aspect and have the sentiment as their overall label."""
    dish: str | None = None
    """Dish that the query names, and that all relevant reviews name too; None: no dish."""


@dataclass(frozen=True)
class CandidateSets:
    """Results of both halves of a hybrid search for a query."""

    vector: Mapping[str, float]
    """Review id → cosine, best first."""
    keyword: Mapping[str, float]
    """Review id → BM25, best first."""
    cosines: Mapping[str, float]
    """Review id → cosine, of all candidates."""
    shares: Mapping[str, float]
    """Review id → share of all reviews that have the rarest word of the query that this review has."""


def rows_of(path: Path) -> Rows:
    """Read a file of `data/` with one JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def held_out() -> list[JudgedQuery]:
    """Load the queries for measuring. They are not used for tuning."""
    return _queries(rows_of(HELD_OUT), HELD_OUT_DISHES)


def tuning() -> dict[str, list[JudgedQuery]]:
    """Load the queries for tuning, in a terse and in a chatty set."""
    rows = rows_of(HELD_OUT)
    return {
        "tuning, terse": _queries(tuning_queries(rows), TUNING_DISHES),
        "tuning, chatty": _queries(tuning_queries(rows, CHATTY_FRAMES), TUNING_DISHES, CHATTY_DISH_FRAMES),
    }


def _queries(rows: Sequence[Row], dishes: Sequence[str], frames: Sequence[str] = DISH_FRAMES) -> list[JudgedQuery]:
    """Make queries from the rows, and variants of them about dishes."""
    answers = RelevanceJudgements()
    return [
        JudgedQuery(
            str(row["text"]),
            answers.by_opinion(row),
            answers.by_label(row),
            str(row["dish"]) if "dish" in row else None,
        )
        for row in (*rows, *with_dish_names(rows, dishes, answers, frames))
    ]


class StandInEncoder:
    """The stand-in of the sentence encoder."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(folder), device="cpu")

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Encode texts into unit vectors, float32 of shape (texts, dimensions)."""
        made: Vectors = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return made


@asynccontextmanager
async def filled_store(folder: Path, encoder: StandInEncoder) -> AsyncIterator[ReviewStore]:
    """Open a store with the sample reviews, indexed as by the review service.

    Args:
        folder: folder for the store.
        encoder: the encoder.

    Yields:
        The store.
    """
    rows = rows_of(SAMPLE_REVIEWS)
    reviews = [Review.model_validate({name: row[name] for name in Review.model_fields}) for row in rows]
    judged = [
        ClassifiedReview(review, digest_of(review), Judgement(row["sentiment"], 1.0))
        for review, row in zip(reviews, rows, strict=True)
    ]
    async with open_store(str(folder)) as store:
        await store.upsert(judged, encoder.vectors([review.text for review in reviews]), MODEL)
        await maintain(store, ReviewSettings.model_fields["review_index_rows"].default)
        yield store


async def find_candidates(
    store: ReviewStore, encoder: StandInEncoder, queries: Sequence[JudgedQuery]
) -> list[CandidateSets]:
    """Run both halves of a hybrid search for each query, with the figures that fusion uses."""
    vectors = encoder.vectors([query.text for query in queries])
    frequencies = await DocumentFrequencySample(store).frequencies()
    made = []
    for query, vector in zip(queries, vectors, strict=True):
        nearest = await store.vector_search(vector, MODEL, Filters(), MIN_CANDIDATES)
        matching = await store.keyword_search(query.text, Filters(), MIN_CANDIDATES)
        both = await merge_candidates(store, vector, nearest, matching)
        shares = frequencies.rarest_frequencies(query.text, both.texts)
        made.append(CandidateSets(_scores(nearest), _scores(matching), both.cosines, shares))
    return made


def _scores(hits: Sequence[Hit]) -> dict[str, float]:
    return {hit.review.review_id: hit.score for hit in hits}
