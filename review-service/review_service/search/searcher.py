"""Runs searches by words, by meaning, or by both."""

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
"""Minimum number of candidates that each half of a hybrid search looks for."""

log = logs.logger()


@dataclass(frozen=True)
class HybridCandidates:
    """The candidates of both halves of a hybrid search."""

    reviews: dict[str, StoredReview]
    """By id."""
    cosines: dict[str, float]
    """Cosine with the query, by id. A review that was deleted during the search may be missing."""

    @property
    def texts(self) -> dict[str, str]:
        """Texts of the reviews, by id."""
        return {review_id: review.text for review_id, review in self.reviews.items()}


async def merge_candidates(
    store: ReviewStore, vector: npt.NDArray[np.float32], by_meaning: Sequence[Hit], by_words: Sequence[Hit]
) -> HybridCandidates:
    """Merge the candidates of the two halves, and compute the cosines that are missing.

    Args:
        store: Where the vectors of reviews that were found only by words are read.
        vector: The query's vector, float32 of shape (size,), of unit length.
        by_meaning: Hits of the vector search, with their cosines as scores.
        by_words: Hits of the keyword search.

    Returns:
        All candidates with their cosines.

    Raises:
        StoreDamaged: The table cannot be read.
    """
    reviews = {hit.review.review_id: hit.review for hit in (*by_meaning, *by_words)}
    cosines = {hit.review.review_id: hit.score for hit in by_meaning}
    return HybridCandidates(
        reviews, cosines | await store.cosines(vector, [review_id for review_id in reviews if review_id not in cosines])
    )


@dataclass(frozen=True)
class Searcher:
    """Searches the stored reviews."""

    store: ReviewStore
    models: ModelServices
    frequency_sample: DocumentFrequencySample

    async def search(self, request: SearchRequest, lane: Lane) -> SearchResponse:
        """Run a search.

        Args:
            request: Query, mode and filters.
            lane: The embedding service's queue for the query.

        Returns:
            The results, best first.

        Raises:
            Unavailable: The embedding service is down, or the stored vectors are of another model.
            TooBusy: The embedding service is busy.
            DeadlineExceeded: The embedding service does not answer in time.
            BadUpstream: The embedding service answers with something other than a vector.
            StoreDamaged: The table cannot be read.
        """
        hits = await self._search(request, lane)
        min_score = request.min_score
        results = [
            SearchResult(score=hit.score, review=hit.review)
            for hit in hits
            if min_score is None or hit.score >= min_score
        ]
        return SearchResponse(mode=request.mode, data=results)

    async def _search(self, request: SearchRequest, lane: Lane) -> list[Hit]:
        filters = Filters(request.restaurant_id, request.sentiment, request.min_rating, request.since, request.until)
        if request.mode == "keyword":
            return await self.store.keyword_search(request.query, filters, request.top_k)
        if request.mode == "vector":
            embedded = await self._embed(request.query, lane)
            return await self.store.vector_search(embedded.vectors[0], embedded.model, filters, request.top_k)
        limit = max(request.top_k, MIN_CANDIDATES)
        embedded, by_words, frequencies = await asyncio.gather(
            self._embed(request.query, lane),
            self.store.keyword_search(request.query, filters, limit),
            self.frequency_sample.frequencies(),
        )
        by_meaning = await self.store.vector_search(embedded.vectors[0], embedded.model, filters, limit)
        candidates = await merge_candidates(self.store, embedded.vectors[0], by_meaning, by_words)
        fused = fuse(candidates.cosines, frequencies.rarest_frequencies(request.query, candidates.texts))
        return [Hit(score, candidates.reviews[review_id]) for review_id, score in fused[: request.top_k]]

    async def _embed(self, query: str, lane: Lane) -> EmbeddedTexts:
        try:
            return await self.models.embed([query], lane, "query")
        except InvalidModelResponse as error:
            log.warning("search failed", error=str(error))
            raise BadUpstream("The embedding service gave no vector. Tell the operator.") from None
