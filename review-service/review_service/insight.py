"""Summaries of a restaurant's reviews, written by the LLM and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onecard import logs
from review_service.models_client import BadAnswer, Models
from review_service.prompts import READ, BadSummary, Told, checked, chosen, extracted, request
from review_service.restaurants import Restaurants
from review_service.rows import Filters
from review_service.schemas import StoredReview, Summary

TEMPERATURES = (0.3, 0.8)
"""Of the first attempt, and of one more: at the same temperature the same mistake is likely."""

log = logs.logger()


@dataclass(frozen=True)
class WrittenSummary:
    """A summary, and who has written it."""

    summary: Summary
    by: str
    """The LLM, as it tells (`onecard.cache.identity`), that gave the last answer; empty if it did not tell."""


@dataclass(frozen=True)
class Insight:
    """Writes summaries."""

    restaurants: Restaurants
    models: Models

    async def summary(self, restaurant_id: str, *, priority: int = 0) -> WrittenSummary:
        """What the latest reviews of a restaurant say.

        Args:
            priority: as vLLM has it: larger waits for smaller.

        Raises:
            RestaurantNotFound: it has no review.
            Unavailable, TooBusy, DeadlineExceeded: the LLM service stays away, or full, or is late.
            StoreDamaged: the table cannot be read.
        """
        sentiment = await self.restaurants.sentiment(restaurant_id)
        store = self.restaurants.store
        positive = await store.reviews_of(Filters(restaurant_id, "positive"), READ)
        negative = await store.reviews_of(Filters(restaurant_id, "negative"), READ)
        reviews = chosen(positive, negative)
        told, by = await self._written(reviews, priority)
        source: Literal["llm", "extracted"] = "extracted" if told is None else "llm"
        told = told or extracted(positive, negative, (sentiment.positive_ratio, sentiment.negative_ratio))
        summary = Summary(
            restaurant_id=restaurant_id,
            overall_summary=told.overall,
            positive_summary=told.positive if positive else "",
            negative_summary=told.negative if negative else "",
            evidence=told.evidence,
            source=source,
            review_count=len(reviews),
        )
        return WrittenSummary(summary, by)

    async def _written(self, reviews: Sequence[StoredReview], priority: int) -> tuple[Told | None, str]:
        """What the LLM says, None if none of its answers holds; and who gave the last one."""
        by = ""
        for temperature in TEMPERATURES:
            try:
                written = await self.models.write(request(reviews, temperature=temperature, priority=priority))
                by = written.by
                return checked(written.text, reviews), by
            except BadAnswer as error:
                by = error.by
                log.warning("summary does not hold", why=str(error), temperature=temperature)
            except BadSummary as error:
                log.warning("summary does not hold", why=str(error), temperature=temperature)
        return None, by
