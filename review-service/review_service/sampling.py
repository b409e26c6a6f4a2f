"""Which words the stored reviews have, from a sample of them."""

import asyncio

from review_service.frequencies import DocumentFrequencies
from review_service.store import Store

SAMPLE = 2000
"""Reviews. One in some hundred is rare (`fusion.POWER`), which so many tell."""
SHARE = 20
"""A new sample is drawn once there are 1/20 more reviews, or fewer: until then nearly the same would come out."""


class Sampled:
    """Document frequencies of a store, drawn when they are first asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._drawing = asyncio.Lock()
        self._rows = 0
        self._frequencies = DocumentFrequencies([])

    async def frequencies(self) -> DocumentFrequencies:
        """As they are, or were a few reviews ago.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        async with self._drawing:
            rows = await self._store.rows()
            if SHARE * abs(rows - self._rows) > self._rows:
                texts = await self._store.sample(rows, SAMPLE)
                self._frequencies = await asyncio.to_thread(DocumentFrequencies, texts)
                self._rows = rows
        return self._frequencies
