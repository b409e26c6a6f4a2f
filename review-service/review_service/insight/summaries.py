"""Summarises a restaurant's reviews with the LLM, and validates its answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onecard import logs
from review_service.insight.prompts import MAX_PROMPT_REVIEWS, PROMPT_VERSION, chat_request, select_reviews
from review_service.insight.restaurant_statistics import RestaurantStatistics
from review_service.insight.summary_validation import (
    InvalidSummary,
    Opinion,
    ValidatedSummary,
    extractive_summary,
    validate,
)
from review_service.model_services import InvalidModelResponse, ModelServices
from review_service.reviews.clauses import Clause
from review_service.reviews.rows import Filters
from review_service.schemas import RestaurantSentiment, RestaurantSummary, StoredReview

ATTEMPTS = ((0.3, MAX_PROMPT_REVIEWS), (0.8, MAX_PROMPT_REVIEWS // 2))
"""Temperature and maximum number of reviews of the first and the second attempt. At the same temperature the same
mistake would be likely, and the prompt of the first may be longer than the LLM's window."""

log = logs.logger()


@dataclass(frozen=True)
class GeneratedSummary:
    """A summary and the model that generated it."""

    summary: RestaurantSummary
    model: str
    """Identity of the LLM (`onecard.models.identity`) from its last answer; empty if the answer did not name it."""


@dataclass(frozen=True)
class Summarizer:
    """Summarises the reviews of restaurants."""

    restaurant_statistics: RestaurantStatistics
    models: ModelServices
    clauses_version: str
    """Version of the clauses that reviews are split into (`ClauseReader.version`)."""

    @property
    def version(self) -> str:
        """Differs if the same reviews may have another summary by the same model; part of cache keys."""
        return f"{PROMPT_VERSION} {self.clauses_version}"

    async def summarize(self, restaurant_id: str, *, priority: int = 0) -> GeneratedSummary:
        """Summarise the latest reviews of a restaurant. If no answer of the LLM is valid, build an extractive summary.

        Args:
            restaurant_id: The restaurant.
            priority: vLLM's priority. Lower numbers are served first; 0 is that of interactive requests.

        Returns:
            The summary, and which model generated it.

        Raises:
            RestaurantNotFound: It has no reviews.
            Unavailable: The LLM service is down.
            TooBusy: The LLM service is busy.
            DeadlineExceeded: The LLM service does not answer in time.
            StoreDamaged: The table cannot be read.
        """
        sentiment = await self.restaurant_statistics.sentiment(restaurant_id)
        store = self.restaurant_statistics.store
        positive = await store.latest_reviews(Filters(restaurant_id, "positive"), MAX_PROMPT_REVIEWS)
        negative = await store.latest_reviews(Filters(restaurant_id, "negative"), MAX_PROMPT_REVIEWS)
        valid, reviews, model = await self._generate(positive, negative, priority)
        source: Literal["llm", "extracted"] = "extracted" if valid is None else "llm"
        valid = valid or await self._extract(sentiment, positive, negative)
        summary = RestaurantSummary(
            restaurant_id=restaurant_id,
            overall_summary=valid.overall,
            positive_summary=valid.positive if positive else "",
            negative_summary=valid.negative if negative else "",
            evidence=valid.evidence,
            source=source,
            review_count=len(reviews),
        )
        return GeneratedSummary(summary, model)

    async def _extract(
        self, sentiment: RestaurantSentiment, positive: Sequence[StoredReview], negative: Sequence[StoredReview]
    ) -> ValidatedSummary:
        """A summary without the LLM."""
        reviews = [*positive, *negative]
        clauses = await self.restaurant_statistics.store.clauses([review.review_id for review in reviews])
        overall = await self.restaurant_statistics.describe(sentiment)
        return extractive_summary(
            overall,
            [opinion for review in positive for opinion in _opinions(review, clauses.get(review.review_id, ()))],
            [opinion for review in negative for opinion in _opinions(review, clauses.get(review.review_id, ()))],
        )

    async def _generate(
        self, positive: Sequence[StoredReview], negative: Sequence[StoredReview], priority: int
    ) -> tuple[ValidatedSummary | None, Sequence[StoredReview], str]:
        """The LLM's summary, None if no answer is valid; the reviews that it read; the model of its last answer."""
        model = ""
        for temperature, limit in ATTEMPTS:
            reviews = select_reviews(positive, negative, limit)
            try:
                answer = await self.models.generate(chat_request(reviews, temperature=temperature, priority=priority))
                model = answer.model
                return validate(answer.text, reviews), reviews, model
            except InvalidModelResponse as error:
                model = error.model
                log.warning("invalid summary", reason=str(error), temperature=temperature)
            except InvalidSummary as error:
                log.warning("invalid summary", reason=str(error), temperature=temperature)
        return None, select_reviews(positive, negative), model


def _opinions(review: StoredReview, clauses: Sequence[Clause]) -> list[Opinion]:
    """What a review says of its own kind. One that is not migrated yet, or has no such clause, says it as a whole."""
    texts = [
        (review.text[clause.start : clause.end], clause.sentiment_score)
        for clause in clauses
        if clause.sentiment == review.sentiment
    ]
    return [Opinion(review.review_id, text, score) for text, score in texts or [(review.text, review.sentiment_score)]]
