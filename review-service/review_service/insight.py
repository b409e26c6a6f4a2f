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
class Insight:
    """Writes summaries."""

    restaurants: Restaurants
    models: Models

    async def summary(self, restaurant_id: str, *, priority: int = 0) -> Summary:
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
        told = await self._written(reviews, priority)
        source: Literal["llm", "extracted"] = "extracted" if told is None else "llm"
        told = told or extracted(positive, negative, (sentiment.positive_ratio, sentiment.negative_ratio))
        return Summary(
            restaurant_id=restaurant_id,
            overall_summary=told.overall,
            positive_summary=told.positive if positive else "",
            negative_summary=told.negative if negative else "",
            evidence=told.evidence,
            source=source,
            review_count=len(reviews),
        )

    async def _written(self, reviews: Sequence[StoredReview], priority: int) -> Told | None:
        """What the LLM says; None if none of its answers holds."""
        for temperature in TEMPERATURES:
            try:
                text = await self.models.write(request(reviews, temperature=temperature, priority=priority))
                return checked(text, reviews)
            except (BadAnswer, BadSummary) as error:
                log.warning("summary does not hold", why=str(error), temperature=temperature)
        return None
