"""Search: a query's words, its meaning, or both."""

from dataclasses import dataclass

from onecard import logs
from onecard.batching.queue import Lane
from onecard.errors import BadUpstream
from review_service.models_client import BadAnswer, Embedded, Models
from review_service.rows import Filters
from review_service.schemas import SearchRequest, SearchResponse, SearchResult
from review_service.store import Hit, Store

log = logs.logger()


@dataclass(frozen=True)
class Searcher:
    """Looks for reviews."""

    store: Store
    models: Models

    async def search(self, request: SearchRequest, lane: Lane) -> SearchResponse:
        """What is found, best first; the query is embedded in `lane`.

        Raises:
            Unavailable, TooBusy: the embedding service stays away, or full.
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
        query = await self._embed(request.query, lane)
        if request.mode == "vector":
            return await self.store.nearest(query.vectors[0], query.model, filters, request.top_k)
        return await self.store.fused(request.query, query.vectors[0], query.model, filters, request.top_k)

    async def _embed(self, query: str, lane: Lane) -> Embedded:
        try:
            return await self.models.embed([query], lane)
        except BadAnswer as error:
            log.warning("search failed", error=str(error))
            raise BadUpstream("The embedding service gave no vector. Tell the operator.") from None
