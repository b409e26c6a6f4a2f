"""Which words the stored reviews have, from a sample of them."""

import asyncio

from onecard import logs
from review_service.errors import StoreDamaged
from review_service.frequencies import DocumentFrequencies
from review_service.store import Store

SAMPLE = 2000
"""Reviews. One in some hundred is rare (`fusion.POWER`), which so many tell."""
SHARE = 20
"""A new sample is drawn once there are 1/20 more reviews, or fewer: until then nearly the same would come out."""

log = logs.logger()


class Sampled:
    """Document frequencies of a store. Only who asks first waits for a sample; later ones are drawn meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._drawing: asyncio.Task[None] | None = None
        self._rows = 0
        self._frequencies = DocumentFrequencies([])

    async def frequencies(self) -> DocumentFrequencies:
        """As they are, or were a few reviews ago.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        rows = await self._store.rows()
        if SHARE * abs(rows - self._rows) > self._rows and (self._drawing is None or self._drawing.done()):
            self._drawing = asyncio.create_task(self._draw(rows), name="sample")
        if self._rows == 0 and self._drawing is not None:
            await asyncio.shield(self._drawing)
        return self._frequencies

    async def close(self) -> None:
        """Draw no more."""
        if self._drawing is not None:
            self._drawing.cancel()
            await asyncio.wait([self._drawing])

    async def _draw(self, rows: int) -> None:
        try:
            texts = await self._store.sample(rows, SAMPLE)
        except StoreDamaged:
            if self._rows == 0:
                raise
            log.warning("no new sample")
            return
        self._frequencies = await asyncio.to_thread(DocumentFrequencies, texts, rows)
        self._rows = rows
