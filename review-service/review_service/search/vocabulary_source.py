"""The terms of the stored reviews, counted."""

import asyncio

import pyarrow as pa
import pyarrow.compute as pc

from onecard import logs
from review_service.errors import StoreDamaged
from review_service.reviews.rows import TERMS_COLUMN
from review_service.reviews.store import ReviewStore
from review_service.words.vocabulary import Vocabulary

RECOUNT_DIVISOR = 20
"""The terms are counted again when the number of reviews has changed by 1/20."""
MIN_RECOUNT_SECONDS = 20.0
"""Minimum interval between two counts. Counting the terms of 200,000 reviews takes a second of one core."""
SMALL_ROWS = 5_000
"""With fewer rows the terms are counted again at once, so that searches know the words of what was just imported."""

log = logs.logger()


class VocabularySource:
    """The vocabulary of a store. Only the first search waits for it; later ones use the last one."""

    def __init__(self, store: ReviewStore) -> None:
        self._store = store
        self._counting: asyncio.Task[None] | None = None
        self._counted_at = 0.0
        self._vocabulary = Vocabulary({}, 0)

    async def current(self) -> Vocabulary:
        """Get the vocabulary, and start to count again if the number of reviews has changed enough.

        Returns:
            The vocabulary of the latest count.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        rows = await self._store.count_rows()
        if self._is_due(rows):
            self._counting = asyncio.create_task(self._count(), name="vocabulary")
        if self._vocabulary.reviews == 0 and self._counting is not None:
            await asyncio.shield(self._counting)
        return self._vocabulary

    async def close(self) -> None:
        """Stop counting."""
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.wait([self._counting])

    def _is_due(self, rows: int) -> bool:
        counted = self._vocabulary.reviews  # Without those that have no terms yet, so that a migration is followed.
        if RECOUNT_DIVISOR * abs(rows - counted) <= counted:
            return False
        if self._counting is not None and not self._counting.done():
            return False
        waited = asyncio.get_running_loop().time() - self._counted_at
        # A small table is counted at once, so that searches see its words.
        return counted == 0 or rows < SMALL_ROWS or waited > MIN_RECOUNT_SECONDS

    async def _count(self) -> None:
        try:
            terms = await self._store.read([TERMS_COLUMN])
        except StoreDamaged:
            if self._vocabulary.reviews == 0:
                raise
            log.warning("the vocabulary is not counted again")
            return
        self._vocabulary = await asyncio.to_thread(count_terms, terms[TERMS_COLUMN])
        self._counted_at = asyncio.get_running_loop().time()


def count_terms(column: pa.ChunkedArray) -> Vocabulary:
    """Count in how many reviews each term occurs.

    Args:
        column: Terms of each review, separated by spaces; null for a review without.

    Returns:
        The vocabulary.
    """
    counts: dict[str, int] = {}
    for chunk in column.chunks:
        split = pc.split_pattern(chunk, " ")
        pairs = pa.table({"row": pc.list_parent_indices(split), "term": pc.list_flatten(split)})
        distinct = pairs.group_by(["row", "term"]).aggregate([])
        frequencies = distinct["term"].combine_chunks().value_counts()
        for term, count in zip(*(frequencies.field(name).to_pylist() for name in ("values", "counts")), strict=True):
            counts[term] = counts.get(term, 0) + count
    counts.pop("", None)
    return Vocabulary(counts, len(column) - column.null_count)
