"""How many of the reviews of restaurants are which, counted anew from what is stored."""

from dataclasses import dataclass, replace

from lancedb.expr import col, lit

from review_service.reviews.store import ReviewStore


@dataclass(frozen=True)
class SentimentCounts:
    """How many of a restaurant's reviews are which."""

    restaurant_id: str
    positive: int
    negative: int
    name: str | None = None

    @property
    def total(self) -> int:
        """All of them."""
        return self.positive + self.negative


async def count_restaurant(store: ReviewStore, restaurant_id: str) -> SentimentCounts:
    """Counts of one restaurant; zeros for one that has no review.

    Raises:
        StoreDamaged: the table cannot be read.
    """
    found = await store.read(["sentiment"], where=col("restaurant_id") == lit(restaurant_id))
    labels = found["sentiment"].to_pylist()
    return SentimentCounts(restaurant_id, labels.count("positive"), labels.count("negative"))


async def count_all_restaurants(store: ReviewStore) -> list[SentimentCounts]:
    """Counts of every restaurant, most reviews first.

    Raises:
        StoreDamaged: the table cannot be read.
    """
    found = await store.read(["restaurant_id", "restaurant_name", "sentiment"])
    groups = found.group_by(["restaurant_id", "sentiment"]).aggregate(
        [("sentiment", "count"), ("restaurant_name", "max")]
    )
    by_id: dict[str, SentimentCounts] = {}
    for group in groups.to_pylist():
        known = by_id.get(group["restaurant_id"], SentimentCounts(group["restaurant_id"], 0, 0))
        name = group["restaurant_name_max"] or known.name
        by_id[known.restaurant_id] = replace(known, name=name, **{group["sentiment"]: group["sentiment_count"]})
    return sorted(by_id.values(), key=lambda counts: (-counts.total, counts.restaurant_id))
