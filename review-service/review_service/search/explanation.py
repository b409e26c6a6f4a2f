"""Explains a search: how its query was taken apart, and why a review has its score."""

from dataclasses import dataclass

from onecard.batching.queue import Lane
from onecard.text import composed
from review_service.errors import ReviewNotFound
from review_service.reviews.rows import TERMS_COLUMN, VECTOR_ENGINE_COLUMN, Filters
from review_service.schemas import (
    ExplainedReview,
    ExplainedTerm,
    ExplainRequest,
    Explanation,
    TextTerm,
)
from review_service.search.fusion import Match
from review_service.search.searcher import Searcher, SearchPlan
from review_service.words.query import ParsedQuery
from review_service.words.vocabulary import Vocabulary

_COLUMNS = ("restaurant_name", "text", TERMS_COLUMN, VECTOR_ENGINE_COLUMN)


@dataclass(frozen=True)
class Explainer:
    """Explains searches."""

    searcher: Searcher

    async def explain(self, request: ExplainRequest, lane: Lane) -> Explanation:
        """Explain a query, and the score of a review if the request names one.

        Args:
            request: The query, and the id of a review.
            lane: The embedding service's queue for the query.

        Returns:
            The terms of both, and what each term adds to the score.

        Raises:
            ReviewNotFound: No such review is stored.
            StoreDamaged: The table cannot be read.
            BadUpstream: The embedding service answers with something other than a vector.
        """
        query, vocabulary = await self.searcher.parse(request.query)
        weights = query.weights(vocabulary)
        terms = [
            ExplainedTerm(
                term=term.text,
                word=term.word,
                reason=term.reason,
                synonyms=list(term.synonyms),
                review_count=vocabulary.count(term.text),
                weight=weights[term.text],
            )
            for term in query.terms
        ]
        review = None
        if request.review_id is not None:
            review = await self._review(request.review_id, query, vocabulary, lane)
        return Explanation(read_as=query.text, phrases=list(query.phrases), terms=terms, review=review)

    async def _review(self, review_id: str, query: ParsedQuery, vocabulary: Vocabulary, lane: Lane) -> ExplainedReview:
        searcher = self.searcher
        only = Filters(review_id=review_id)
        rows = await searcher.store.read(_COLUMNS, where=only.expression(), limit=1)
        if not rows.num_rows:
            raise ReviewNotFound(f"There is no review {review_id}.")
        [stored] = rows.to_pylist()
        indexed = (stored[TERMS_COLUMN] or "").split()
        plan = SearchPlan(query, vocabulary, only, "hybrid", 1)
        found = await searcher.find(plan, lane)
        match = found.matches[0] if found.matches else Match(review_id, 0.0, 0.0, 0.0)
        return ExplainedReview(
            review_id=review_id,
            score=match.score,
            words=match.words,
            meaning=None if found.degraded else match.meaning,
            matched={term: plan.word_scale.coverage(score) for term, score in plan.term_scores(indexed).items()},
            opposites=query.opposition.subjects(indexed),
            name_terms=self._terms(stored["restaurant_name"] or ""),
            text_terms=self._terms(stored["text"]),
            vector_engine=stored[VECTOR_ENGINE_COLUMN] or None,
        )

    def _terms(self, text: str) -> list[TextTerm]:
        written = composed(text)
        return [
            TextTerm(term=term.text, of=written[term.start : term.end], tag=term.tag)
            for term in self.searcher.analyzer.terms(text)
        ]
