"""The hits of a search in the store. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """A review that matches a search."""

    row: int
    """LanceDB's id of the row, which finds it in one step. A review that is written anew gets another one."""
    score: float
    """Cosine (vector search) or BM25 (keyword search)."""
    terms: str = ""
    """The review's terms (keyword search)."""
