"""What the reviews of restaurants come to, in figures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from review_service.errors import RestaurantNotFound
from review_service.insight.percentages import percentages
from review_service.insight.sentiment_counts import SentimentCounts, count_all_restaurants, count_restaurant
from review_service.insight.strengths import AspectCounts, AspectDifference, significant_differences
from review_service.reviews.aspects import LABELS
from review_service.reviews.store import ReviewStore
from review_service.schemas import Aspect, Restaurant, RestaurantSentiment, Strengths


@dataclass(frozen=True)
class RestaurantStatistics:
    """Figures of restaurants, counted anew from what is stored now."""

    store: ReviewStore

    async def sentiment(self, restaurant_id: str) -> RestaurantSentiment:
        """How many of its reviews are positive.

        Raises:
            RestaurantNotFound: it has no review.
            StoreDamaged: the table cannot be read.
        """
        counts = await count_restaurant(self.store, restaurant_id)
        if not counts.total:
            raise restaurant_not_found()
        return RestaurantSentiment.model_validate(_sentiment_fields(counts))

    async def ranked(self, limit: int, first: Sequence[str] = ()) -> list[Restaurant]:
        """Those of the ids in `first`, in that order; then those with most reviews.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        found = await count_all_restaurants(self.store)
        places = {restaurant_id: place for place, restaurant_id in enumerate(first)}
        found.sort(key=lambda counts: places.get(counts.restaurant_id, len(places)))
        return [Restaurant(**_sentiment_fields(counts), restaurant_name=counts.name) for counts in found[:limit]]

    async def strengths(self, restaurant_id: str) -> Strengths:
        """In what it is better, and worse, than the others.

        Raises:
            RestaurantNotFound, StoreDamaged: as `sentiment`.
        """
        rows = await self.store.read(["restaurant_id", "aspects", "sentiment"])
        own = rows.filter(pc.equal(rows["restaurant_id"], restaurant_id))
        if not own.num_rows:
            raise restaurant_not_found()
        found = significant_differences(count_aspects(own), count_aspects(rows))
        return Strengths(
            restaurant_id=restaurant_id,
            strengths=[_to_schema(one) for one in found if one.z > 0],
            weaknesses=[_to_schema(one) for one in reversed(found) if one.z < 0],
        )


def restaurant_not_found() -> RestaurantNotFound:
    """The answer for a restaurant without reviews."""
    return RestaurantNotFound("No review of this restaurant is stored.", param="restaurant_id")


def count_aspects(rows: pa.Table) -> dict[str, AspectCounts]:
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
    return {aspect: AspectCounts(by.get("positive", 0), sum(by.values())) for aspect, by in counted.items()}


def _sentiment_fields(counts: SentimentCounts) -> dict[str, Any]:
    positive, negative = percentages([counts.positive, counts.negative])
    return {
        "restaurant_id": counts.restaurant_id,
        "positive_count": counts.positive,
        "negative_count": counts.negative,
        "total_count": counts.total,
        "positive_ratio": positive,
        "negative_ratio": negative,
    }


def _to_schema(difference: AspectDifference) -> Aspect:
    here, others = difference.own, difference.others
    return Aspect(
        aspect=difference.aspect,
        label=LABELS[difference.aspect],
        review_count=here.total,
        positive_ratio=round(100 * here.positive / here.total),
        others_positive_ratio=round(100 * others.positive / others.total),
        z=round(difference.z, 2),
    )
