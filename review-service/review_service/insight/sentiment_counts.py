"""Counts positive, neutral and negative reviews of restaurants."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import col, lit

from onecard.coalescing.single_flight import SingleFlight
from review_service.reviews.reader import LATEST_FIRST
from review_service.reviews.store import ReviewStore

NeutralBand = tuple[float, float]
"""Lowest and highest probability of being positive with which a text counts as neutral."""
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SentimentCounts:
    """Numbers of a restaurant's positive, neutral and negative reviews."""

    restaurant_id: str
    positive: int
    negative: int
    neutral: int = 0
    name: str | None = None
    """The restaurant's name; None if no review has it, or if it was not read."""

    @property
    def total(self) -> int:
        """Number of reviews."""
        return self.positive + self.neutral + self.negative


def banded(sentiment: pa.ChunkedArray, score: pa.ChunkedArray, band: NeutralBand | None) -> pa.ChunkedArray:
    """Apply the neutral band.

    Args:
        sentiment: Labels of the classifier.
        score: Their probabilities.
        band: The band; None if nothing is neutral.

    Returns:
        `positive`, `neutral` or `negative` for each.
    """
    if band is None:
        return sentiment
    positive = pc.if_else(pc.equal(sentiment, "positive"), score, pc.subtract(1.0, score))
    # A stored score has single precision: 0.8 is a little more there.
    inside = pc.and_(pc.greater_equal(positive, band[0] - _TOLERANCE), pc.less_equal(positive, band[1] + _TOLERANCE))
    return pc.if_else(inside, "neutral", sentiment)


async def count_restaurant(store: ReviewStore, restaurant_id: str, band: NeutralBand | None = None) -> SentimentCounts:
    """Count the reviews of one restaurant.

    Args:
        store: The store.
        restaurant_id: The restaurant.
        band: The neutral band, if there is one.

    Returns:
        Its counts without its name; zeros if it has no reviews.

    Raises:
        StoreDamaged: The table cannot be read.
    """
    rows = await store.read(["sentiment", "sentiment_score"], where=col("restaurant_id") == lit(restaurant_id))
    labels = banded(rows["sentiment"], rows["sentiment_score"], band).to_pylist()
    positive, negative, neutral = map(labels.count, ("positive", "negative", "neutral"))
    return SentimentCounts(restaurant_id, positive, negative, neutral)


async def count_all_restaurants(store: ReviewStore, band: NeutralBand | None = None) -> list[SentimentCounts]:
    """Count the reviews of every restaurant.

    Args:
        store: The store.
        band: The neutral band, if there is one.

    Returns:
        Counts with names, most reviews first. A name is that of the restaurant's latest review that has one.

    Raises:
        StoreDamaged: The table cannot be read.
    """
    rows = await store.read(
        ["restaurant_id", "restaurant_name", "created_at", "review_id", "sentiment", "sentiment_score"]
    )
    # In a thread, so that searches are served meanwhile: to count 200,000 reviews takes some hundredths of a second.
    return await asyncio.to_thread(_count, rows, band)


class RestaurantCounts:
    """The counts of every restaurant, kept in memory until a review is written."""

    def __init__(self, store: ReviewStore, band: NeutralBand | None = None) -> None:
        self._store = store
        self._band = band
        self._version = ""
        """The version of the table that was counted."""
        self._counts: Mapping[str, SentimentCounts] = {}
        self._single_flight: SingleFlight[Mapping[str, SentimentCounts]] = SingleFlight()

    async def current(self) -> Mapping[str, SentimentCounts]:
        """Get the counts of the reviews that are stored now. Requests at the same time share one count.

        Returns:
            As `count_all_restaurants`, by restaurant.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        version = await self._store.version()
        if version == self._version:
            return self._counts
        return (await self._single_flight.do(version, lambda: self._recount(version))).result

    async def _recount(self, version: str) -> Mapping[str, SentimentCounts]:
        # A write meanwhile may be counted already; the next request sees its version and counts again.
        counted = await count_all_restaurants(self._store, self._band)
        self._counts, self._version = {counts.restaurant_id: counts for counts in counted}, version
        return self._counts


def _count(rows: pa.Table, band: NeutralBand | None) -> list[SentimentCounts]:
    """What `count_all_restaurants` returns. It blocks."""
    names = _latest_names(rows)
    sentiment = banded(rows["sentiment"], rows["sentiment_score"], band)
    rows = rows.select(["restaurant_id"]).append_column("sentiment", sentiment)
    groups = rows.group_by(["restaurant_id", "sentiment"]).aggregate([("sentiment", "count")])
    by_id: dict[str, SentimentCounts] = {}
    for group in groups.to_pylist():
        restaurant_id = group["restaurant_id"]
        counts = by_id.get(restaurant_id, SentimentCounts(restaurant_id, 0, 0, name=names.get(restaurant_id)))
        by_id[restaurant_id] = replace(counts, **{group["sentiment"]: group["sentiment_count"]})
    return sorted(by_id.values(), key=lambda counts: (-counts.total, counts.restaurant_id))


def _latest_names(rows: pa.Table) -> dict[str, str]:
    """By restaurant, the name in the latest of the reviews that have one."""
    if not rows.num_rows:
        return {}
    named = rows.filter(pc.not_equal(rows["restaurant_name"], "")).sort_by(LATEST_FIRST)
    # Threads would change the order.
    first = named.group_by("restaurant_id", use_threads=False).aggregate([("restaurant_name", "first")])
    return dict(zip(first["restaurant_id"].to_pylist(), first["restaurant_name_first"].to_pylist(), strict=True))
