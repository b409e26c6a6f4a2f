"""The hits of a search in the store. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """A review that matches a search."""

    review_id: str
    score: float
    """Cosine (vector search) or BM25 (keyword search)."""
    terms: str = ""
    """The review's terms (keyword search)."""
