"""Summaries of a restaurant's reviews, written by the LLM and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onecard import logs
from review_service.insight.prompts import (
    MAX_PROMPT_REVIEWS,
    InvalidSummary,
    ValidatedSummary,
    chat_request,
    extractive_summary,
    select_reviews,
    validate,
)
from review_service.insight.restaurant_statistics import RestaurantStatistics
from review_service.model_services import InvalidModelResponse, ModelServices
from review_service.reviews.rows import Filters
from review_service.schemas import RestaurantSummary, StoredReview

TEMPERATURES = (0.3, 0.8)
"""Of the first attempt, and of one more: at the same temperature the same mistake is likely."""

log = logs.logger()


@dataclass(frozen=True)
class GeneratedSummary:
    """A summary, and who has written it."""

    summary: RestaurantSummary
    model: str
    """The LLM, as it tells (`onecard.models.identity`), that gave the last answer; empty if it did not tell."""


@dataclass(frozen=True)
class Summarizer:
    """Writes summaries."""

    restaurant_statistics: RestaurantStatistics
    models: ModelServices

    async def summarize(self, restaurant_id: str, *, priority: int = 0) -> GeneratedSummary:
        """What the latest reviews of a restaurant say.

        Args:
            priority: as vLLM has it: larger waits for smaller.

        Raises:
            RestaurantNotFound: it has no review.
            Unavailable, TooBusy, DeadlineExceeded: the LLM service stays away, or full, or is late.
            StoreDamaged: the table cannot be read.
        """
        sentiment = await self.restaurant_statistics.sentiment(restaurant_id)
        store = self.restaurant_statistics.store
        positive = await store.latest_reviews(Filters(restaurant_id, "positive"), MAX_PROMPT_REVIEWS)
        negative = await store.latest_reviews(Filters(restaurant_id, "negative"), MAX_PROMPT_REVIEWS)
        reviews = select_reviews(positive, negative)
        told, by = await self._generate(reviews, priority)
        source: Literal["llm", "extracted"] = "extracted" if told is None else "llm"
        told = told or extractive_summary(positive, negative, (sentiment.positive_ratio, sentiment.negative_ratio))
        summary = RestaurantSummary(
            restaurant_id=restaurant_id,
            overall_summary=told.overall,
            positive_summary=told.positive if positive else "",
            negative_summary=told.negative if negative else "",
            evidence=told.evidence,
            source=source,
            review_count=len(reviews),
        )
        return GeneratedSummary(summary, by)

    async def _generate(self, reviews: Sequence[StoredReview], priority: int) -> tuple[ValidatedSummary | None, str]:
        """What the LLM says, None if none of its answers holds; and who gave the last one."""
        by = ""
        for temperature in TEMPERATURES:
            try:
                written = await self.models.generate(chat_request(reviews, temperature=temperature, priority=priority))
                by = written.model
                return validate(written.text, reviews), by
            except InvalidModelResponse as error:
                by = error.model
                log.warning("summary does not hold", why=str(error), temperature=temperature)
            except InvalidSummary as error:
                log.warning("summary does not hold", why=str(error), temperature=temperature)
        return None, by
