"""The hits of a search in the store. Pure."""

from dataclasses import dataclass

from review_service.schemas import StoredReview


@dataclass(frozen=True)
class Hit:
    """A review that matches a search."""

    score: float
    """Cosine (vector search), BM25 (keyword search), or the fused score (hybrid search)."""
    review: StoredReview
