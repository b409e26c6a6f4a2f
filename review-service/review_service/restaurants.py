"""What the reviews of restaurants come to, in figures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from review_service.aspects import LABELS
from review_service.counting import Counts, counts_of, counts_of_all
from review_service.errors import RestaurantNotFound
from review_service.ratios import percentages
from review_service.schemas import Aspect, Restaurant, Sentiment, Strengths
from review_service.store import Store
from review_service.strengths import Difference, Tally, differences


@dataclass(frozen=True)
class Restaurants:
    """Figures of restaurants, counted anew from what is stored now."""

    store: Store

    async def sentiment(self, restaurant_id: str) -> Sentiment:
        """How many of its reviews are positive.

        Raises:
            RestaurantNotFound: it has no review.
            StoreDamaged: the table cannot be read.
        """
        counts = await counts_of(self.store, restaurant_id)
        if not counts.total:
            raise not_found()
        return Sentiment.model_validate(_shares(counts))

    async def by_reviews(self, limit: int, first: Sequence[str] = ()) -> list[Restaurant]:
        """Those of the ids in `first`, in that order; then those with most reviews.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        found = await counts_of_all(self.store)
        places = {restaurant_id: place for place, restaurant_id in enumerate(first)}
        found.sort(key=lambda counts: places.get(counts.restaurant_id, len(places)))
        return [Restaurant(**_shares(counts), restaurant_name=counts.name) for counts in found[:limit]]

    async def strengths(self, restaurant_id: str) -> Strengths:
        """In what it is better, and worse, than the others.

        Raises:
            RestaurantNotFound, StoreDamaged: as `sentiment`.
        """
        rows = await self.store.read(["restaurant_id", "aspects", "sentiment"])
        own = rows.filter(pc.equal(rows["restaurant_id"], restaurant_id))
        if not own.num_rows:
            raise not_found()
        found = differences(tallies(own), tallies(rows))
        return Strengths(
            restaurant_id=restaurant_id,
            strengths=[_aspect(one) for one in found if one.z > 0],
            weaknesses=[_aspect(one) for one in reversed(found) if one.z < 0],
        )


def not_found() -> RestaurantNotFound:
    """The answer for a restaurant without reviews."""
    return RestaurantNotFound("No review of this restaurant is stored.", param="restaurant_id")


def tallies(rows: pa.Table) -> dict[str, Tally]:
    """By aspect, the reviews that speak of it.

    Args:
        rows: with the columns `aspects` and `sentiment`.
    """
    aspects = rows["aspects"].combine_chunks()
    spoken = pa.table(
        {"aspect": pc.list_flatten(aspects), "sentiment": rows["sentiment"].take(pc.list_parent_indices(aspects))}
    )
    groups = spoken.group_by(["aspect", "sentiment"]).aggregate([("sentiment", "count")])
    counted: dict[str, dict[str, int]] = defaultdict(dict)
    for group in groups.to_pylist():
        counted[group["aspect"]][group["sentiment"]] = group["sentiment_count"]
    return {aspect: Tally(by.get("positive", 0), sum(by.values())) for aspect, by in counted.items()}


def _shares(counts: Counts) -> dict[str, Any]:
    positive, negative = percentages([counts.positive, counts.negative])
    return {
        "restaurant_id": counts.restaurant_id,
        "positive_count": counts.positive,
        "negative_count": counts.negative,
        "total_count": counts.total,
        "positive_ratio": positive,
        "negative_ratio": negative,
    }


def _aspect(difference: Difference) -> Aspect:
    here, others = difference.here, difference.others
    return Aspect(
        aspect=difference.aspect,
        label=LABELS[difference.aspect],
        review_count=here.total,
        positive_ratio=round(100 * here.positive / here.total),
        others_positive_ratio=round(100 * others.positive / others.total),
        z=round(difference.z, 2),
    )
