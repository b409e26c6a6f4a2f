"""What the store finds. Pure."""

from dataclasses import dataclass

from review_service.schemas import StoredReview


@dataclass(frozen=True)
class Hit:
    """A review that was found."""

    score: float
    """Cosine, BM25, or what `fusion` makes of both kinds of search."""
    review: StoredReview
