"""How reviews are stored as rows of the table, and how rows are filtered. Pure."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.expr import Expr, col, lit
from lancedb.index import FTS

from review_service.model_services import EmbeddedTexts, Prediction
from review_service.reviews.clauses import Clause
from review_service.reviews.deduplication import PRIMARY_KEY, PRIMARY_KEY_METADATA
from review_service.schemas import Label, Review, StoredReview

MODEL_KEY = b"embedding_model"
"""Metadata key of the model that computed the vectors: `name@revision`. Version 0.1.0 stored the name alone."""
TABLE_ID_KEY = b"table_id"
"""Metadata key of the table's random id. Versions of a table are counted from 1, so they do not identify a table."""
TERMS_COLUMN = "morphemes"
"""The column that keyword searches use: `MorphemeAnalyzer.indexed` of the review, terms separated by spaces."""
TERMS_VERSION_COLUMN = "terms_version"
"""`MorphemeAnalyzer.version` of the analyzer that made the terms; null until an older table is migrated."""
OLD_LETTERS_COLUMN = "letters"
"""The column that older versions searched: the text in NFD. It is dropped at the end of the migration."""
CLAUSES_COLUMN = "clauses"
"""The column of a review's clauses, each a `Clause`."""
CLAUSES_TYPE = pa.list_(
    pa.struct(
        [
            pa.field("start", pa.int32()),
            pa.field("end", pa.int32()),
            pa.field("sentiment", pa.string()),
            pa.field("sentiment_score", pa.float32()),
            pa.field("aspects", pa.list_(pa.string())),
        ]
    )
)
CLAUSES_VERSION_COLUMN = "clauses_version"
"""`ClauseReader.version` of the reader that made the clauses; null until an older table is migrated."""
OLD_ASPECTS_COLUMN = "aspects"
"""Aspects of the whole review, by which older versions computed strengths. Dropped at the end of the migration."""
VECTOR_ENGINE_COLUMN = "vector_engine"
"""`EmbeddedTexts.engine` of the vector; null if an older version stored it, empty if the service did not say."""
KEYWORD_INDEX = FTS(base_tokenizer="whitespace", stem=False, remove_stop_words=False, ascii_folding=False)
"""The index of `TERMS_COLUMN`."""
REVIEW_COLUMNS = (*Review.model_fields, "sentiment", "sentiment_score")
"""Columns of a `StoredReview`."""


@dataclass(frozen=True)
class ClassifiedReview:
    """A review with everything that is stored, but for its vector."""

    review: Review
    digest: str
    """`digest_of(review)`."""
    prediction: Prediction
    terms: str
    """Value of `TERMS_COLUMN`."""
    terms_version: str
    """Value of `TERMS_VERSION_COLUMN`."""
    clauses: Sequence[Clause] = ()
    clauses_version: str | None = None
    """Value of `CLAUSES_VERSION_COLUMN`; None if the clauses are to be made in the background."""


@dataclass(frozen=True)
class Filters:
    """Filters of a search. All that are set must match; None means that a filter is not set."""

    restaurant_id: str | None = None
    sentiment: Label | None = None
    min_rating: float | None = None
    """Minimum number of stars."""
    since: datetime | None = None
    """Written at this time or later."""
    until: datetime | None = None
    """Written before this time."""
    phrases: tuple[str, ...] = ()
    """Each is in the text or in the restaurant's name, word for word; capital and small letters are the same."""
    review_id: str | None = None

    def expression(self) -> Expr | None:
        """Build LanceDB's expression for the filters. LanceDB quotes the values.

        Returns:
            The expression; None if no filter is set.
        """
        conditions = [
            None if value is None else condition(lit(value))
            for value, condition in (
                (self.review_id, col("review_id").eq),
                (self.restaurant_id, col("restaurant_id").eq),
                (self.sentiment, col("sentiment").eq),
                (_stored(self.min_rating), col("rating").gte),
                (self.since, col("created_at").gte),
                (self.until, col("created_at").lt),
            )
        ]
        conditions += [_contains(phrase) for phrase in self.phrases]
        joined: Expr | None = None
        for condition in conditions:
            if condition is not None:
                joined = condition if joined is None else joined & condition
        return joined


def _stored(rating: float | None) -> float | None:
    """A rating as the column has it: 4.1 is a little more than its float32, so that `>=` left out reviews with 4.1."""
    return None if rating is None else float(np.float32(rating))


def _contains(phrase: str) -> Expr:
    # Texts are stored as they were written: composed (NFC), or decomposed (NFD) if they come from a Mac.
    forms = {unicodedata.normalize(form, phrase).lower() for form in ("NFC", "NFD")}
    either = [col(name).lower().contains(lit(form)) for name in ("text", "restaurant_name") for form in sorted(forms)]
    return reduce(or_, either)


def table_schema(size: int, model: str, table_id: str) -> pa.Schema:
    """Build the schema of a new table.

    Args:
        size: Number of components of a vector.
        model: The model that computes the vectors, as in `EmbeddedTexts.model`.
        table_id: Random id of the table.

    Returns:
        The schema, with model and id in its metadata.
    """
    fields = [
        pa.field(PRIMARY_KEY, pa.string(), nullable=False, metadata=PRIMARY_KEY_METADATA),
        pa.field("restaurant_id", pa.string(), nullable=False),
        pa.field("restaurant_name", pa.string()),
        pa.field("text", pa.string(), nullable=False),
        pa.field(TERMS_COLUMN, pa.string()),
        pa.field(TERMS_VERSION_COLUMN, pa.string()),
        pa.field("rating", pa.float32()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
        pa.field("sentiment", pa.string(), nullable=False),
        pa.field("sentiment_score", pa.float32(), nullable=False),
        pa.field(CLAUSES_COLUMN, CLAUSES_TYPE),
        pa.field(CLAUSES_VERSION_COLUMN, pa.string()),
        pa.field("digest", pa.string(), nullable=False),
        pa.field(VECTOR_ENGINE_COLUMN, pa.string()),
        # Not float16: LanceDB takes much longer to index it.
        pa.field("vector", pa.list_(pa.float32(), size), nullable=False),
    ]
    return pa.schema(fields, metadata={MODEL_KEY: model.encode(), TABLE_ID_KEY: table_id.encode()})


def are_comparable(stored_model: str, model: str) -> bool:
    """Check whether vectors of a table can be compared with new ones.

    Args:
        stored_model: Value of `MODEL_KEY` in the table's metadata.
        model: The model that computed the new vectors, as in `EmbeddedTexts.model`.

    Returns:
        Whether name and revision are equal; of a table of version 0.1.0, the name.
    """
    return stored_model == model or ("@" not in stored_model and stored_model == model.rpartition("@")[0] != "")


def digest_of(review: Review) -> str:
    """Hash a review, to find out whether it has changed.

    Args:
        review: A review as it is imported.

    Returns:
        32 hexadecimal digits; equal for reviews whose fields are all equal.
    """
    return hashlib.blake2b(review.model_dump_json().encode(), digest_size=16).hexdigest()


def to_arrow(reviews: Sequence[ClassifiedReview], embedded: EmbeddedTexts, columns: pa.Schema) -> pa.Table:
    """Build the rows of reviews.

    Args:
        reviews: The reviews.
        embedded: Their vectors in the same order.
        columns: The table's schema.

    Returns:
        A row for each review.
    """
    has_letters = OLD_LETTERS_COLUMN in columns.names
    records: list[dict[str, Any]] = [
        {
            **item.review.model_dump(),
            TERMS_COLUMN: item.terms,
            TERMS_VERSION_COLUMN: item.terms_version,
            CLAUSES_COLUMN: [asdict(clause) for clause in item.clauses],
            CLAUSES_VERSION_COLUMN: item.clauses_version,
            # For a table that is not migrated yet, in which they must not be null.
            **({OLD_LETTERS_COLUMN: unicodedata.normalize("NFD", item.review.text)} if has_letters else {}),
            OLD_ASPECTS_COLUMN: [],
            "sentiment": item.prediction.label,
            "sentiment_score": item.prediction.score,
            "digest": item.digest,
            VECTOR_ENGINE_COLUMN: embedded.engine,
        }
        for item in reviews
    ]
    vectors = embedded.vectors
    vector_column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    arrays = [
        vector_column if field.name == "vector" else pa.array([record[field.name] for record in records], field.type)
        for field in columns
    ]
    return pa.table(arrays, schema=columns)


def from_record(record: dict[str, Any]) -> StoredReview:
    """Build a review from a row that has at least `REVIEW_COLUMNS`; other columns are ignored."""
    fields = {name: record[name] for name in REVIEW_COLUMNS}
    if fields["rating"] is not None:
        fields["rating"] = float(str(np.float32(fields["rating"])))  # 4.1 as it was imported, not 4.099999904632568
    return StoredReview.model_validate(fields)
