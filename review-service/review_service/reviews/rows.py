"""Reviews as rows of the table, and filters on them. Pure."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lancedb.expr import Expr, col, lit
from lancedb.index import FTS

from review_service.model_services import Prediction
from review_service.reviews.aspects import aspects_in
from review_service.reviews.deduplication import PRIMARY_KEY, PRIMARY_KEY_METADATA
from review_service.schemas import Label, Review, StoredReview

MODEL_KEY = b"embedding_model"
"""Which model has made the vectors, in the table's metadata."""
TABLE_ID_KEY = b"table_id"
"""Also there: tells tables apart, whose versions are numbers that all begin with 1."""
JAMO_COLUMN = "letters"
"""The column that words are looked for in: `to_jamo` the text."""
KEYWORD_INDEX = FTS(
    base_tokenizer="ngram",
    # Letters: a syllable has two or three.
    ngram_min_length=2,
    ngram_max_length=4,
    stem=False,
    remove_stop_words=False,
    ascii_folding=False,
)
"""Its index."""
REVIEW_COLUMNS = (*Review.model_fields, "sentiment", "sentiment_score")
"""Columns of a `StoredReview`."""


@dataclass(frozen=True)
class ClassifiedReview:
    """A review that is ready to be stored."""

    review: Review
    digest: str
    """Of what came in: `digest_of(review)`."""
    prediction: Prediction


@dataclass(frozen=True)
class Filters:
    """Which reviews are looked at; None: all of them."""

    restaurant_id: str | None = None
    sentiment: Label | None = None
    min_rating: float | None = None
    since: datetime | None = None
    until: datetime | None = None

    def expression(self) -> Expr | None:
        """The same for LanceDB, values quoted by it."""
        conditions = [
            None if value is None else condition(lit(value))
            for value, condition in (
                (self.restaurant_id, col("restaurant_id").eq),
                (self.sentiment, col("sentiment").eq),
                (self.min_rating, col("rating").gte),
                (self.since, col("created_at").gte),
                (self.until, col("created_at").lt),
            )
        ]
        joined: Expr | None = None
        for condition in conditions:
            if condition is not None:
                joined = condition if joined is None else joined & condition
        return joined


def table_schema(size: int, model: str, table_id: str) -> pa.Schema:
    """Columns of the table, for vectors of `size` numbers. In half precision LanceDB would take much longer to
    index them."""
    fields = [
        pa.field(PRIMARY_KEY, pa.string(), nullable=False, metadata=PRIMARY_KEY_METADATA),
        pa.field("restaurant_id", pa.string(), nullable=False),
        pa.field("restaurant_name", pa.string()),
        pa.field("text", pa.string(), nullable=False),
        pa.field(JAMO_COLUMN, pa.string(), nullable=False),
        pa.field("rating", pa.float32()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
        pa.field("sentiment", pa.string(), nullable=False),
        pa.field("sentiment_score", pa.float32(), nullable=False),
        pa.field("aspects", pa.list_(pa.string()), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32(), size), nullable=False),
    ]
    return pa.schema(fields, metadata={MODEL_KEY: model.encode(), TABLE_ID_KEY: table_id.encode()})


def to_jamo(text: str) -> str:
    """A text with its Korean syllables taken apart into letters.

    An ending changes the last syllable of its stem («싱겁다», «싱거워요»), and few of its letters.
    """
    return unicodedata.normalize("NFD", text)


def query_to_jamo(query: str) -> str:
    """The same of a query, for n-grams within its words alone.

    An n-gram across two words says that these follow one another, and many reviews have the end of one and the
    beginning of another. No review has a NUL, so that n-grams across one find nothing. A space before a word is found
    where a word follows another.
    """
    return "".join(f"\0 {to_jamo(word)}" for word in query.split())


def digest_of(review: Review) -> str:
    """The same for two reviews that are alike, field by field."""
    return hashlib.blake2b(review.model_dump_json().encode(), digest_size=16).hexdigest()


def to_arrow(judged: Sequence[ClassifiedReview], vectors: npt.NDArray[np.float32], columns: pa.Schema) -> pa.Table:
    """The rows of reviews and of their vectors, shape (reviews, size)."""
    records: list[dict[str, Any]] = [
        {
            **one.review.model_dump(),
            JAMO_COLUMN: to_jamo(one.review.text),
            "sentiment": one.prediction.label,
            "sentiment_score": one.prediction.score,
            "aspects": aspects_in(one.review.text),
            "digest": one.digest,
        }
        for one in judged
    ]
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    arrays = [
        rows if field.name == "vector" else pa.array([record[field.name] for record in records], field.type)
        for field in columns
    ]
    return pa.table(arrays, schema=columns)


def from_record(record: dict[str, Any]) -> StoredReview:
    """A review as it was read from the table."""
    return StoredReview.model_validate({name: record[name] for name in REVIEW_COLUMNS})
