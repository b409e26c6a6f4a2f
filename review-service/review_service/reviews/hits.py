"""The hits of a search in the store. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import pyarrow as pa

from review_service.reviews.rows import TERMS_COLUMN, from_record
from review_service.schemas import StoredReview


@dataclass(frozen=True)
class Hit:
    """A review that a search has found, with everything that it had then: it is not read a second time."""

    review_id: str
    score: float
    """Cosine (vector search) or BM25 (keyword search)."""
    terms: str
    """Value of `TERMS_COLUMN`; empty if the review has none yet."""
    _rows: pa.Table = field(repr=False)
    """All hits of the search. They stay in Arrow, because most are never returned."""
    _place: int

    def review(self) -> StoredReview:
        """Build the review."""
        [record] = self._rows.slice(self._place, 1).to_pylist()
        return from_record(record)


def hits_of(rows: pa.Table, scores: Sequence[float]) -> list[Hit]:
    """Build hits.

    Args:
        rows: What a search has found, with `REVIEW_COLUMNS` and `TERMS_COLUMN`.
        scores: The score of each row.

    Returns:
        Hits in the order of the rows, without those whose score is no number: older versions stored vectors with NaN.
    """
    found = zip(rows["review_id"].to_pylist(), scores, rows[TERMS_COLUMN].to_pylist(), strict=True)
    return [
        Hit(review_id, score, terms or "", rows, place)
        for place, (review_id, score, terms) in enumerate(found)
        if isfinite(score)
    ]
