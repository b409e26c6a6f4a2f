"""The terms of the stored reviews, counted in the background."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pyarrow as pa
import pyarrow.compute as pc

from onecard import background, logs
from review_service.errors import StoreDamaged
from review_service.reviews.migrations import MigrationProgress
from review_service.reviews.rows import TERMS_COLUMN
from review_service.reviews.store import ReviewStore
from review_service.words.vocabulary import Vocabulary

RECOUNT_DIVISOR = 20
"""The terms are counted again when the terms of 1/20 of the reviews have changed."""
MIN_RECOUNT_SECONDS = 20.0
"""Minimum interval between two counts. Counting the terms of 200,000 reviews takes a second of one core."""
SMALL_ROWS = 5_000
"""With fewer rows the terms are counted again at once, so that searches know the words of what was just imported."""
POLL_SECONDS = 2.0
"""Interval at which the number of reviews is looked at, since other processes write too."""

log = logs.logger()


class VocabularySource:
    """The vocabulary of a store. Searches use the latest count, and never wait for one."""

    def __init__(self, store: ReviewStore, migration: MigrationProgress) -> None:
        """Count the terms of `store`, also those that `migration` makes anew."""
        self.current = Vocabulary({}, 0)
        """The vocabulary of the latest count; of no review before the first one."""
        self._store = store
        self._migration = migration
        self._migrated = 0
        self._counted_at = 0.0
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Count the terms again if enough of them have changed. If the table cannot be read, nothing changes."""
        async with self._lock:
            try:
                if self._is_due(await self._store.count_rows()):
                    await self._count()
            except StoreDamaged:
                log.warning("the vocabulary is not counted again")

    def _is_due(self, rows: int) -> bool:
        counted = self.current.reviews  # Without those that have no terms yet, so that a migration is followed.
        changed = abs(rows - counted) + abs(self._migration.done - self._migrated)
        if RECOUNT_DIVISOR * changed <= counted:
            return False
        waited = asyncio.get_running_loop().time() - self._counted_at
        return counted == 0 or rows < SMALL_ROWS or waited > MIN_RECOUNT_SECONDS

    async def _count(self) -> None:
        migrated = self._migration.done
        terms = await self._store.read([TERMS_COLUMN])
        self.current = await asyncio.to_thread(count_terms, terms[TERMS_COLUMN])
        self._migrated = migrated
        self._counted_at = asyncio.get_running_loop().time()


async def _refresh_forever(source: VocabularySource) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        await source.refresh()


@asynccontextmanager
async def running_vocabulary(store: ReviewStore, migration: MigrationProgress) -> AsyncIterator[VocabularySource]:
    """Count the terms, and again in a background task until the end of the block.

    Args:
        store: The store.
        migration: The migration of the terms that runs beside it.

    Yields:
        The vocabulary, counted once.
    """
    source = VocabularySource(store, migration)
    await source.refresh()
    async with background.running(_refresh_forever(source), name="vocabulary"):
        yield source


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
