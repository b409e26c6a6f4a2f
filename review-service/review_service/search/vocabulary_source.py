"""The terms of the stored reviews, counted in the background."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pyarrow as pa
import pyarrow.compute as pc

from onecard import background, logs
from review_service.errors import StoreDamaged
from review_service.reviews.rows import TERMS_COLUMN, TERMS_VERSION_COLUMN
from review_service.reviews.store import ReviewStore
from review_service.words.vocabulary import Vocabulary

RECOUNT_DIVISOR = 20
"""The terms are counted again when the terms of 1/20 of the reviews have changed."""
MIN_RECOUNT_SECONDS = 20.0
"""Minimum interval between two counts. Counting the terms of 200,000 reviews takes a second of one core."""
MIN_COMPARE_SECONDS = 5.0
"""Minimum interval between two comparisons of the stored reviews with the counted ones. Of 200,000 it takes 0.1 s."""
SMALL_ROWS = 5_000
"""With fewer rows there are no intervals, so that searches know the words of what was just imported."""
POLL_SECONDS = 5.0
"""Interval at which the version of the table is looked at, since other processes write too."""
_STATE_COLUMNS = ("digest", TERMS_VERSION_COLUMN)
"""Both are the same as long as a review has the same terms."""

log = logs.logger()


class VocabularySource:
    """The vocabulary of a store. Searches use the latest count, and never wait for one.

    How much has changed since then is read from the table, because writes of all processes count: a review that is
    replaced, and one that is migrated, leave the number of reviews as it is.
    """

    def __init__(self, store: ReviewStore) -> None:
        """Count the terms of `store`."""
        self.current = Vocabulary({}, 0)
        """The vocabulary of the latest count; of no review before the first one."""
        self._store = store
        self._counted = pa.array([], pa.string())
        """`review_states` of the latest count: 48 bytes a review."""
        self._counted_at = 0.0
        self._version = ""
        """The version of the table that was compared last."""
        self._compared_at = 0.0
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Count the terms again if enough of them have changed. If the table cannot be read, nothing changes."""
        async with self._lock:
            try:
                version = await self._store.version()
                if version == self._version or not self._may_compare():
                    return
                stored = await self._store.read(_STATE_COLUMNS)
                changed = await asyncio.to_thread(lambda: count_changes(self._counted, review_states(stored)))
                if RECOUNT_DIVISOR * changed > self.current.reviews:
                    await self._count()
            except StoreDamaged:
                log.warning("the vocabulary is not counted again")
            else:
                self._version = version
                self._compared_at = asyncio.get_running_loop().time()

    def _may_compare(self) -> bool:
        now = asyncio.get_running_loop().time()
        return len(self._counted) < SMALL_ROWS or (
            now - self._counted_at > MIN_RECOUNT_SECONDS and now - self._compared_at > MIN_COMPARE_SECONDS
        )

    async def _count(self) -> None:
        rows = await self._store.read([TERMS_COLUMN, *_STATE_COLUMNS])
        self.current, self._counted = await asyncio.to_thread(
            lambda: (count_terms(rows[TERMS_COLUMN], self.current), review_states(rows))
        )
        self._counted_at = asyncio.get_running_loop().time()


async def _refresh_forever(source: VocabularySource) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        await source.refresh()


@asynccontextmanager
async def running_vocabulary(store: ReviewStore) -> AsyncIterator[VocabularySource]:
    """Count the terms, and again in a background task until the end of the block.

    Args:
        store: The store.

    Yields:
        The vocabulary, counted once.
    """
    source = VocabularySource(store)
    await source.refresh()
    async with background.running(_refresh_forever(source), name="vocabulary"):
        yield source


def count_terms(column: pa.ChunkedArray, before: Vocabulary | None = None) -> Vocabulary:
    """Count in how many reviews each term occurs, and how many terms a review has.

    Args:
        column: Terms of each review, separated by spaces; null for a review without.
        before: The vocabulary of an earlier count.

    Returns:
        The vocabulary.
    """
    counts: dict[str, int] = {}
    length = 0
    for chunk in column.chunks:
        split = pc.split_pattern(chunk, " ")
        terms = pc.list_flatten(split)
        length += pc.sum(pc.not_equal(terms, "")).as_py() or 0
        pairs = pa.table({"row": pc.list_parent_indices(split), "term": terms})
        distinct = pairs.group_by(["row", "term"]).aggregate([])
        frequencies = distinct["term"].combine_chunks().value_counts()
        for term, count in zip(*(frequencies.field(name).to_pylist() for name in ("values", "counts")), strict=True):
            counts[term] = counts.get(term, 0) + count
    counts.pop("", None)
    reviews = len(column) - column.null_count
    return Vocabulary(counts, reviews, length / reviews if reviews else 0.0, before)


def review_states(rows: pa.Table) -> pa.Array:
    """Make a string for each review that changes when its terms may change.

    Args:
        rows: Reviews with the columns of their digests and of the versions of their terms.

    Returns:
        A string for each row.
    """
    columns = [rows[name].cast(pa.string()).combine_chunks() for name in _STATE_COLUMNS]
    return pc.binary_join_element_wise(*columns, "", null_handling="replace")


def count_changes(before: pa.Array, now: pa.Array) -> int:
    """Count the reviews whose terms have changed.

    Args:
        before: `review_states` of one time.
        now: `review_states` of a later time.

    Returns:
        Number of reviews that have come or gone, of which one that has gone and one that has come, such as the two
        states of a replaced review, count once.
    """
    kept = pc.sum(pc.is_in(now, value_set=before)).as_py() or 0
    return int(max(len(now), len(before)) - kept)
