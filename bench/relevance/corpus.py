"""The sample reviews in a store of their own, and queries with the reviews that are right for each."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.places import ROOT, SAMPLE_REVIEWS
from review_service.models_client import Opinion as Judgement
from review_service.rows import Filters, Judged, digest_of
from review_service.schemas import Review
from review_service.search import POOL
from review_service.settings import ReviewSettings
from review_service.store import Hit, Store, open_store
from review_service.upkeep import tend
from standins.grammar import Opinion
from standins.searching import sample_opinions, tuning_queries

HELD_OUT = ROOT / "data" / "heldout_queries.jsonl"
MODEL = "stand-in"

Vectors = npt.NDArray[np.float32]
"""Texts × dimensions, each of unit length."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Query:
    """What is asked, and which reviews answer it."""

    text: str
    says: frozenset[str]
    """Ids of the reviews that say what is asked for."""
    labelled: frozenset[str]
    """Ids of those that speak of the aspect, and are labelled with the sentiment as a whole."""


@dataclass(frozen=True)
class Found:
    """What each half of a hybrid search finds for a query: review ids, best first."""

    vector: tuple[str, ...]
    keyword: tuple[str, ...]


def rows_of(path: Path) -> Rows:
    """The rows of a file of `data/`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def held_out() -> list[Query]:
    """The queries that the product is measured with. Nothing is chosen by them."""
    return _queries(rows_of(HELD_OUT))


def tuning() -> list[Query]:
    """The queries that weights are chosen by."""
    return _queries([dict(row) for row in tuning_queries(rows_of(HELD_OUT))])


def _queries(rows: Rows) -> list[Query]:
    said, reviews = sample_opinions(), rows_of(SAMPLE_REVIEWS)
    queries = []
    for row in rows:
        opinion = Opinion(row["aspect"], row["sentiment"] == "positive")
        says = frozenset(review_id for review_id, opinions in said.items() if opinion in opinions)
        labelled = frozenset(
            review["review_id"]
            for review in reviews
            if row["aspect"] in review["aspects"] and row["sentiment"] == review["sentiment"]
        )
        queries.append(Query(row["text"], says, labelled))
    return queries


class Encoder:
    """The stand-in encoder."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(folder), device="cpu")

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Of texts."""
        made: Vectors = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return made


@asynccontextmanager
async def filled(folder: Path, encoder: Encoder) -> AsyncIterator[Store]:
    """A store that holds the sample reviews, with indexes as the review service makes them."""
    rows = rows_of(SAMPLE_REVIEWS)
    reviews = [Review.model_validate({name: row[name] for name in Review.model_fields}) for row in rows]
    judged = [
        Judged(review, digest_of(review), Judgement(row["sentiment"], 1.0))
        for review, row in zip(reviews, rows, strict=True)
    ]
    async with open_store(str(folder)) as store:
        await store.upsert(judged, encoder.vectors([review.text for review in reviews]), MODEL)
        await tend(store, ReviewSettings.model_fields["review_index_rows"].default)
        yield store


async def found(store: Store, encoder: Encoder, queries: Sequence[Query]) -> list[Found]:
    """What the two halves of a hybrid search find."""
    vectors = encoder.vectors([query.text for query in queries])
    return [
        Found(
            _ids(await store.nearest(vector, MODEL, Filters(), POOL)),
            _ids(await store.matching(query.text, Filters(), POOL)),
        )
        for query, vector in zip(queries, vectors, strict=True)
    ]


def _ids(hits: Sequence[Hit]) -> tuple[str, ...]:
    return tuple(hit.review.review_id for hit in hits)
