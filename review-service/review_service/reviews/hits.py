"""The hits of a search in the store. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from review_service.reviews.rows import MODEL_KEY, TERMS_COLUMN, are_comparable, from_record
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
    _vector: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    _model: str = ""
    """The model of the stored vectors."""

    def cosine(self, vector: npt.NDArray[np.float32], model: str) -> float | None:
        """Compute the cosine of the review's vector with another one.

        Args:
            vector: float32 of shape (size,), of unit length.
            model: The model that computed it, as in `EmbeddedTexts.model`.

        Returns:
            The cosine; None if the search was not to read vectors, or if the two cannot be compared.
        """
        if self._vector is None or self._vector.shape != vector.shape:
            return None
        if not are_comparable(self._model, model):
            return None
        cosine = float(self._vector @ vector)
        return cosine if isfinite(cosine) else None  # Older versions stored vectors with NaN.

    def review(self) -> StoredReview:
        """Build the review."""
        [record] = self._rows.slice(self._place, 1).to_pylist()
        return from_record(record)


def hits_of(rows: pa.Table, scores: Sequence[float]) -> list[Hit]:
    """Build hits.

    Args:
        rows: What a search has found, with `REVIEW_COLUMNS`, `TERMS_COLUMN` and perhaps the vectors.
        scores: The score of each row.

    Returns:
        Hits in the order of the rows, without those whose score is no number: older versions stored vectors with NaN.
    """
    vectors = _vectors(rows) if "vector" in rows.column_names else [None] * rows.num_rows
    model = (rows.schema.metadata or {}).get(MODEL_KEY, b"").decode()
    found = zip(rows["review_id"].to_pylist(), scores, rows[TERMS_COLUMN].to_pylist(), vectors, strict=True)
    return [
        Hit(review_id, score, terms or "", rows, place, vector, model)
        for place, (review_id, score, terms, vector) in enumerate(found)
        if isfinite(score)
    ]


def _vectors(rows: pa.Table) -> npt.NDArray[np.float32]:
    column = rows["vector"].combine_chunks()
    vectors: npt.NDArray[np.float32] = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return vectors
