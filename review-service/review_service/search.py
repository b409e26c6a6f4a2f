"""Search: a query's words, its meaning, or both."""

import asyncio
from dataclasses import dataclass

from onecard import logs
from onecard.batching.queue import Lane
from onecard.errors import BadUpstream
from review_service.found import Hit
from review_service.fusion import fuse
from review_service.models_client import BadAnswer, Embedded, Models
from review_service.rows import Filters
from review_service.sampling import Sampled
from review_service.schemas import SearchRequest, SearchResponse, SearchResult
from review_service.store import Store

POOL = 50
"""So many results at least are found by each half of a hybrid search."""

log = logs.logger()


@dataclass(frozen=True)
class Searcher:
    """Looks for reviews."""

    store: Store
    models: Models
    sampled: Sampled

    async def search(self, request: SearchRequest, lane: Lane) -> SearchResponse:
        """What is found, best first; the query is embedded in `lane`.

        Raises:
            Unavailable, TooBusy, DeadlineExceeded: the embedding service stays away, or full, or is late.
            BadUpstream: it answers with something else than a vector.
            StoreDamaged: the table cannot be read.
        """
        hits = await self._hits(request, lane)
        least = request.min_score
        results = [
            SearchResult(score=hit.score, review=hit.review) for hit in hits if least is None or hit.score >= least
        ]
        return SearchResponse(mode=request.mode, data=results)

    async def _hits(self, request: SearchRequest, lane: Lane) -> list[Hit]:
        filters = Filters(request.restaurant_id, request.sentiment, request.min_rating, request.since, request.until)
        if request.mode == "keyword":
            return await self.store.matching(request.query, filters, request.top_k)
        if request.mode == "vector":
            embedded = await self._embed(request.query, lane)
            return await self.store.nearest(embedded.vectors[0], embedded.model, filters, request.top_k)
        most = max(request.top_k, POOL)
        embedded, words, frequencies = await asyncio.gather(
            self._embed(request.query, lane),
            self.store.matching(request.query, filters, most),
            self.sampled.frequencies(),
        )
        vector = embedded.vectors[0]
        meaning = await self.store.nearest(vector, embedded.model, filters, most)
        by_id = {hit.review.review_id: hit.review for hit in (*meaning, *words)}
        cosines = {hit.review.review_id: hit.score for hit in meaning}
        cosines |= await self.store.cosines(vector, [one for one in by_id if one not in cosines])
        texts = {review_id: review.text for review_id, review in by_id.items()}
        fused = fuse(cosines, frequencies.rarest(request.query, texts))
        return [Hit(score, by_id[review_id]) for review_id, score in fused[: request.top_k]]

    async def _embed(self, query: str, lane: Lane) -> Embedded:
        try:
            return await self.models.embed([query], lane)
        except BadAnswer as error:
            log.warning("search failed", error=str(error))
            raise BadUpstream("The embedding service gave no vector. Tell the operator.") from None
