"""How many of the reviews of restaurants are which, counted anew from what is stored."""

from dataclasses import dataclass, replace

from lancedb.expr import col, lit

from review_service.store import Store


@dataclass(frozen=True)
class Counts:
    """How many of a restaurant's reviews are which."""

    restaurant_id: str
    positive: int
    negative: int
    name: str | None = None

    @property
    def total(self) -> int:
        """All of them."""
        return self.positive + self.negative


async def counts_of(store: Store, restaurant_id: str) -> Counts:
    """Counts of one restaurant; zeros for one that has no review.

    Raises:
        StoreDamaged: the table cannot be read.
    """
    found = await store.read(["sentiment"], where=col("restaurant_id") == lit(restaurant_id))
    labels = found["sentiment"].to_pylist()
    return Counts(restaurant_id, labels.count("positive"), labels.count("negative"))


async def counts_of_all(store: Store) -> list[Counts]:
    """Counts of every restaurant, most reviews first.

    Raises:
        StoreDamaged: the table cannot be read.
    """
    found = await store.read(["restaurant_id", "restaurant_name", "sentiment"])
    groups = found.group_by(["restaurant_id", "sentiment"]).aggregate(
        [("sentiment", "count"), ("restaurant_name", "max")]
    )
    by_id: dict[str, Counts] = {}
    for group in groups.to_pylist():
        known = by_id.get(group["restaurant_id"], Counts(group["restaurant_id"], 0, 0))
        name = group["restaurant_name_max"] or known.name
        by_id[known.restaurant_id] = replace(known, name=name, **{group["sentiment"]: group["sentiment_count"]})
    return sorted(by_id.values(), key=lambda counts: (-counts.total, counts.restaurant_id))
