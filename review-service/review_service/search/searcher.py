"""Runs searches by words, by meaning, or by both."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from onecard import logs
from onecard.batching.queue import Lane
from onecard.errors import BadUpstream, DeadlineExceeded, InvalidRequest, TooBusy, Unavailable
from onecard.text import is_visible
from review_service.model_services import EmbeddedTexts, Embedder, InvalidModelResponse
from review_service.reviews.hits import Hit
from review_service.reviews.rows import Filters
from review_service.reviews.store import ReviewStore
from review_service.schemas import Mode, SearchRequest, SearchResponse, SearchResult
from review_service.search.cosine_scale import CosineScale, CosineScales
from review_service.search.fusion import NO_WORDS, Match, WordScale, WordScore, rank, scale_meaning
from review_service.search.vocabulary_source import VocabularySource
from review_service.search.word_files import WordFiles
from review_service.words.analyzer import MorphemeAnalyzer
from review_service.words.bm25 import term_scores
from review_service.words.query import ParsedQuery, QueryParser
from review_service.words.vocabulary import Vocabulary

VECTOR_CANDIDATES = 50
"""Minimum number of candidates that the vector half of a hybrid search looks for."""
WORD_CANDIDATES = 100
"""The same of the keyword half, which costs less."""
SPARE_WORD_CANDIDATES = 20
"""So many more than are asked for are candidates of a keyword search."""
MAX_PHRASES = 8
"""Maximum number of phrases of a query: each is looked for in every text."""
SHORT_QUERY = 100
"""Maximum number of characters of a query that is taken apart on the event loop."""
ENCODER_SECONDS = 10.0
"""A hybrid search waits this long for its query's vector, and for the scale of a model that is new; then it goes on by
words. `QueryEmbedder` gives a user's query less."""

log = logs.logger()


@dataclass(frozen=True)
class EmbeddedQuery:
    """A query's vector with the scale of its model's cosines."""

    embedded: EmbeddedTexts
    scale: CosineScale


@dataclass(frozen=True)
class SearchPlan:
    """What is looked for."""

    query: ParsedQuery
    vocabulary: Vocabulary
    """The terms of the stored reviews."""
    filters: Filters
    mode: Mode
    top_k: int

    @cached_property
    def word_scale(self) -> WordScale:
        """Scale of the query's BM25 scores."""
        return WordScale(self.query.ideal_score(self.vocabulary), self.vocabulary.unique_weight)

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """Weights of the terms that are looked for."""
        return self.query.weights(self.vocabulary)

    @cached_property
    def boosts(self) -> Mapping[str, float]:
        """The terms that are looked for, each with what its weight by its own rarity has to be multiplied by."""
        return {term: weight / self.vocabulary.weight(term) for term, weight in self.weights.items()}

    def term_scores(self, terms: Sequence[str]) -> dict[str, float]:
        """Compute the BM25 score of a review, term by term.

        Args:
            terms: The review's terms as they are stored.

        Returns:
            Scores of the terms that query and review have.
        """
        return term_scores(terms, self.weights, self.vocabulary.mean_length)

    def word_score(self, terms: Sequence[str]) -> WordScore:
        """Compute what a review's words say. It does not depend on how the review was found.

        Args:
            terms: The review's terms as they are stored.

        Returns:
            The scores.
        """
        scores = self.term_scores(terms)
        if not scores:
            return NO_WORDS
        bm25, scale = sum(scores.values()), self.word_scale
        opposed = bool(self.query.opposition.subjects(terms))
        return WordScore(scale.coverage(bm25), scale.rarity(bm25), opposed)

    @cached_property
    def known(self) -> float:
        """Share of the query's words that any review has. It is of no interest where the vectors alone are asked."""
        return 1.0 if self.mode == "vector" else self.query.known_share(self.vocabulary)

    def meaning(self, score: float) -> float:
        """Score of the meaning, from the scaled cosine."""
        return scale_meaning(score, self.known)

    def limit(self, candidates: int) -> int:
        """Number of results of one half: `candidates` or more if they are fused, else about as many as asked for."""
        if self.mode == "hybrid":
            return max(self.top_k, candidates)
        # LanceDB's BM25 chooses the candidates by its own counts, and they are ranked anew.
        return self.top_k + SPARE_WORD_CANDIDATES if self.mode == "keyword" else self.top_k


@dataclass(frozen=True)
class NearHits:
    """The reviews nearest to a query in meaning."""

    asked: EmbeddedQuery
    hits: Sequence[Hit]


@dataclass(frozen=True)
class FoundReviews:
    """The candidates of a search."""

    matches: Sequence[Match]
    """Best first."""
    hits: Mapping[str, Hit]
    """The candidates by review id."""
    degraded: bool = False
    """Whether it was searched by words alone because there was no vector of the query."""


@dataclass(frozen=True)
class Searcher:
    """Searches the stored reviews."""

    store: ReviewStore
    models: Embedder
    analyzer: MorphemeAnalyzer
    vocabulary: VocabularySource
    word_files: WordFiles
    scales: CosineScales
    query_embedder: Embedder | None = None
    """Embeds the queries of hybrid searches; None: as those of the others."""

    async def search(
        self, request: SearchRequest, query: ParsedQuery, vocabulary: Vocabulary, lane: Lane
    ) -> SearchResponse:
        """Run a search.

        Args:
            request: Query, mode and filters.
            query: `parse` of the request's query.
            vocabulary: The vocabulary by which it was corrected.
            lane: The embedding service's queue for the query.

        Returns:
            The results, best first. A hybrid search without the embedding service goes on by words.

        Raises:
            Unavailable: In the mode `vector`: the embedding service is down, or the vectors are of another model.
            TooBusy: In the mode `vector`: the embedding service is busy.
            DeadlineExceeded: In the mode `vector`: the embedding service does not answer in time.
            BadUpstream: The embedding service answers with something other than a vector.
            StoreDamaged: The table cannot be read.
        """
        filters = Filters(
            restaurant_id=request.restaurant_id,
            sentiment=request.sentiment,
            min_rating=request.min_rating,
            since=request.since,
            until=request.until,
            phrases=query.phrases,
        )
        found = await self.find(SearchPlan(query, vocabulary, filters, request.mode, request.top_k), lane)
        matches = [match for match in found.matches if match.score >= request.min_score][: request.top_k]
        return SearchResponse(
            mode=request.mode,
            degraded=found.degraded,
            corrected_query=query.text if query.corrected else None,
            data=[SearchResult(score=match.score, review=found.hits[match.review_id].review()) for match in matches],
        )

    async def parse(self, text: str) -> tuple[ParsedQuery, Vocabulary]:
        """Take a query apart.

        Args:
            text: The query.

        Returns:
            The query, and the vocabulary by which it was corrected.

        Raises:
            InvalidRequest: There is nothing but quotation marks, or there are too many of them.
        """
        vocabulary = self.vocabulary.current
        parser = QueryParser(self.analyzer.terms, vocabulary, self.word_files.search_words())
        # A short query takes less than a millisecond, which a thread would not save.
        parsed = parser.parse(text) if len(text) <= SHORT_QUERY else await asyncio.to_thread(parser.parse, text)
        if not is_visible(parsed.text):
            raise InvalidRequest("'query' has nothing between its quotation marks.", param="query")
        if len(parsed.phrases) > MAX_PHRASES:
            raise InvalidRequest(
                f"'query' has more than {MAX_PHRASES} different phrases in quotation marks.", param="query"
            )
        return parsed, vocabulary

    async def find(self, plan: SearchPlan, lane: Lane) -> FoundReviews:
        """Find the candidates of a search.

        Args:
            plan: What is looked for.
            lane: The embedding service's queue for the query.

        Returns:
            Candidates with their scores, best first.

        Raises:
            Unavailable: As `search`.
            TooBusy: As `search`.
            DeadlineExceeded: As `search`.
            BadUpstream: As `search`.
            StoreDamaged: As `search`.
        """
        if plan.mode == "keyword":
            return _ranked(plan, "keyword", await self._by_words(plan))
        if plan.mode == "vector":
            asked = await self._embed(plan.query.text, lane, self.models)
            return _ranked(plan, "vector", [], NearHits(asked, await self._by_meaning(asked, plan)))
        words, nearest = await asyncio.gather(self._by_words(plan), self._by_meaning_in_time(plan, lane))
        if nearest is None:
            return _ranked(plan, "keyword", words, degraded=True)
        return _ranked(plan, "hybrid", words, nearest)

    async def _by_words(self, plan: SearchPlan) -> list[Hit]:
        return await self.store.keyword_search(
            plan.boosts, plan.filters, plan.limit(WORD_CANDIDATES), with_vectors=plan.mode == "hybrid"
        )

    async def _by_meaning(self, asked: EmbeddedQuery, plan: SearchPlan) -> list[Hit]:
        embedded = asked.embedded
        limit = plan.limit(VECTOR_CANDIDATES)
        return await self.store.vector_search(embedded.vectors[0], embedded.model, plan.filters, limit)

    async def _by_meaning_in_time(self, plan: SearchPlan, lane: Lane) -> NearHits | None:
        """None without the embedding service, or with another model than that of the stored vectors."""
        try:
            async with asyncio.timeout(ENCODER_SECONDS):
                asked = await self._embed(plan.query.text, lane, self.query_embedder or self.models)
            return NearHits(asked, await self._by_meaning(asked, plan))
        except (Unavailable, TooBusy, DeadlineExceeded, TimeoutError) as error:
            log.warning("search without vectors", error=type(error).__name__)
            return None

    async def _embed(self, query: str, lane: Lane, models: Embedder) -> EmbeddedQuery:
        try:
            embedded = await models.embed([query], lane, "query")
            return EmbeddedQuery(embedded, await self.scales.scale(embedded.model))
        except InvalidModelResponse as error:
            log.warning("search failed", error=str(error))
            raise BadUpstream("The embedding service gave no vector. Tell the operator.") from None


def _ranked(
    plan: SearchPlan, mode: Mode, words: Sequence[Hit], nearest: NearHits | None = None, *, degraded: bool = False
) -> FoundReviews:
    near = [] if nearest is None else nearest.hits
    hits = {hit.review_id: hit for hit in (*words, *near)}
    said = {} if mode == "vector" else {name: plan.word_score(hit.terms.split()) for name, hit in hits.items()}
    meant = {} if nearest is None else _meaning(plan, words, nearest)
    return FoundReviews(rank(meant, said, mode), hits, degraded)


def _meaning(plan: SearchPlan, words: Sequence[Hit], nearest: NearHits) -> dict[str, float]:
    """Scores of the meaning by review id, also of the reviews that were found by words."""
    asked, scale = nearest.asked.embedded, nearest.asked.scale
    cosines = {hit.review_id: hit.cosine(asked.vectors[0], asked.model) for hit in words}
    cosines |= {hit.review_id: hit.score for hit in nearest.hits}
    return {name: plan.meaning(scale.score(cosine)) for name, cosine in cosines.items() if cosine is not None}
