"""What the store finds. Pure."""

from dataclasses import dataclass

from review_service.schemas import StoredReview


@dataclass(frozen=True)
class Counts:
    """How many of a restaurant's reviews are which."""

    restaurant_id: str
    positive: int
    negative: int
    name: str | None = None

    @property
    def total(self) -> int:
        """All of them."""
        return self.positive + self.negative


@dataclass(frozen=True)
class Hit:
    """A review that was found."""

    score: float
    """Cosine or BM25, by the kind of search."""
    review: StoredReview
