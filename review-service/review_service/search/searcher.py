"""Search: a query's words, its meaning, or both."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onecard import logs
from onecard.batching.queue import Lane
from onecard.errors import BadUpstream
from review_service.model_services import EmbeddedTexts, InvalidModelResponse, ModelServices
from review_service.reviews.hits import Hit
from review_service.reviews.rows import Filters
from review_service.reviews.store import ReviewStore
from review_service.schemas import SearchRequest, SearchResponse, SearchResult, StoredReview
from review_service.search.frequency_sample import DocumentFrequencySample
from review_service.search.fusion import fuse

MIN_CANDIDATES = 50
"""So many results at least are found by each half of a hybrid search."""

log = logs.logger()


@dataclass(frozen=True)
class HybridCandidates:
    """What the two halves of a hybrid search have found together."""

    reviews: dict[str, StoredReview]
    """By id."""
    cosines: dict[str, float]
    """Of all that are still there, by id."""

    @property
    def texts(self) -> dict[str, str]:
        """Of all, by id."""
        return {review_id: review.text for review_id, review in self.reviews.items()}


async def merge_candidates(
    store: ReviewStore, vector: npt.NDArray[np.float32], meaning: Sequence[Hit], words: Sequence[Hit]
) -> HybridCandidates:
    """The two halves; what only words have found is read once more, for its cosine with the query's `vector`.

    Raises:
        StoreDamaged: the table cannot be read.
    """
    reviews = {hit.review.review_id: hit.review for hit in (*meaning, *words)}
    cosines = {hit.review.review_id: hit.score for hit in meaning}
    return HybridCandidates(
        reviews, cosines | await store.cosines(vector, [one for one in reviews if one not in cosines])
    )


@dataclass(frozen=True)
class Searcher:
    """Looks for reviews."""

    store: ReviewStore
    models: ModelServices
    frequency_sample: DocumentFrequencySample

    async def search(self, request: SearchRequest, lane: Lane) -> SearchResponse:
        """What is found, best first; the query is embedded in `lane`.

        Raises:
            Unavailable, TooBusy, DeadlineExceeded: the embedding service stays away, or full, or is late.
            BadUpstream: it answers with something else than a vector.
            StoreDamaged: the table cannot be read.
        """
        hits = await self._search(request, lane)
        least = request.min_score
        results = [
            SearchResult(score=hit.score, review=hit.review) for hit in hits if least is None or hit.score >= least
        ]
        return SearchResponse(mode=request.mode, data=results)

    async def _search(self, request: SearchRequest, lane: Lane) -> list[Hit]:
        filters = Filters(request.restaurant_id, request.sentiment, request.min_rating, request.since, request.until)
        if request.mode == "keyword":
            return await self.store.keyword_search(request.query, filters, request.top_k)
        if request.mode == "vector":
            embedded = await self._embed(request.query, lane)
            return await self.store.vector_search(embedded.vectors[0], embedded.model, filters, request.top_k)
        most = max(request.top_k, MIN_CANDIDATES)
        embedded, words, frequencies = await asyncio.gather(
            self._embed(request.query, lane),
            self.store.keyword_search(request.query, filters, most),
            self.frequency_sample.frequencies(),
        )
        meaning = await self.store.vector_search(embedded.vectors[0], embedded.model, filters, most)
        both = await merge_candidates(self.store, embedded.vectors[0], meaning, words)
        fused = fuse(both.cosines, frequencies.rarest_frequencies(request.query, both.texts))
        return [Hit(score, both.reviews[review_id]) for review_id, score in fused[: request.top_k]]

    async def _embed(self, query: str, lane: Lane) -> EmbeddedTexts:
        try:
            return await self.models.embed([query], lane)
        except InvalidModelResponse as error:
            log.warning("search failed", error=str(error))
            raise BadUpstream("The embedding service gave no vector. Tell the operator.") from None
