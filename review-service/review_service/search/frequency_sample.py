"""Document frequencies of the stored reviews, estimated from a sample."""

import asyncio

from onecard import logs
from review_service.errors import StoreDamaged
from review_service.reviews.store import ReviewStore
from review_service.search.document_frequencies import DocumentFrequencies

SAMPLE_SIZE = 2000
"""Number of sampled reviews. A word counts as rare if fewer than one review in about a hundred has it
(`fusion.RARITY_POWER`); this many reviews are enough to estimate that."""
RESAMPLE_DIVISOR = 20
"""A new sample is drawn when the number of reviews has changed by 1/20. Before that it would hardly differ."""

log = logs.logger()


class DocumentFrequencySample:
    """Document frequencies of a store. Only the first search waits for a sample; later ones use the last sample."""

    def __init__(self, store: ReviewStore) -> None:
        self._store = store
        self._sampling: asyncio.Task[None] | None = None
        self._rows = 0
        self._frequencies = DocumentFrequencies([])

    async def frequencies(self) -> DocumentFrequencies:
        """Get the document frequencies, and start to draw a new sample if the number of reviews has changed enough.

        Returns:
            The frequencies of the latest sample.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        rows = await self._store.count_rows()
        if RESAMPLE_DIVISOR * abs(rows - self._rows) > self._rows and (self._sampling is None or self._sampling.done()):
            self._sampling = asyncio.create_task(self._sample(rows), name="sample")
        if self._rows == 0 and self._sampling is not None:
            await asyncio.shield(self._sampling)
        return self._frequencies

    async def close(self) -> None:
        """Stop sampling."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.wait([self._sampling])

    async def _sample(self, rows: int) -> None:
        try:
            texts = await self._store.sample_texts(rows, SAMPLE_SIZE)
        except StoreDamaged:
            if self._rows == 0:
                raise
            log.warning("no new sample")
            return
        self._frequencies = await asyncio.to_thread(DocumentFrequencies, texts, rows)
        self._rows = rows
