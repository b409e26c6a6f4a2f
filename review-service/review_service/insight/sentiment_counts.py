"""Counts positive and negative reviews of restaurants."""

from dataclasses import dataclass, replace

from lancedb.expr import col, lit

from review_service.reviews.store import ReviewStore


@dataclass(frozen=True)
class SentimentCounts:
    """Numbers of a restaurant's positive and negative reviews."""

    restaurant_id: str
    positive: int
    negative: int
    name: str | None = None
    """The restaurant's name; None if no review has it, or if it was not read."""

    @property
    def total(self) -> int:
        """Number of reviews."""
        return self.positive + self.negative


async def count_restaurant(store: ReviewStore, restaurant_id: str) -> SentimentCounts:
    """Count the reviews of one restaurant.

    Args:
        store: The store.
        restaurant_id: The restaurant.

    Returns:
        Its counts without its name; zeros if it has no reviews.

    Raises:
        StoreDamaged: The table cannot be read.
    """
    rows = await store.read(["sentiment"], where=col("restaurant_id") == lit(restaurant_id))
    labels = rows["sentiment"].to_pylist()
    return SentimentCounts(restaurant_id, labels.count("positive"), labels.count("negative"))


async def count_all_restaurants(store: ReviewStore) -> list[SentimentCounts]:
    """Count the reviews of every restaurant.

    Args:
        store: The store.

    Returns:
        Counts with names, most reviews first.

    Raises:
        StoreDamaged: The table cannot be read.
    """
    rows = await store.read(["restaurant_id", "restaurant_name", "sentiment"])
    groups = rows.group_by(["restaurant_id", "sentiment"]).aggregate(
        [("sentiment", "count"), ("restaurant_name", "max")]
    )
    by_id: dict[str, SentimentCounts] = {}
    for group in groups.to_pylist():
        counts = by_id.get(group["restaurant_id"], SentimentCounts(group["restaurant_id"], 0, 0))
        name = group["restaurant_name_max"] or counts.name
        by_id[counts.restaurant_id] = replace(counts, name=name, **{group["sentiment"]: group["sentiment_count"]})
    return sorted(by_id.values(), key=lambda counts: (-counts.total, counts.restaurant_id))
