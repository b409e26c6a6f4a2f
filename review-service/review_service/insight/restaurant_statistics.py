"""Statistics of restaurants: sentiment counts, ranking and strengths."""

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

_NOT_FOUND = "No review of this restaurant is stored."


@dataclass(frozen=True)
class RestaurantStatistics:
    """Computes statistics of restaurants from the reviews that are stored now."""

    store: ReviewStore

    async def sentiment(self, restaurant_id: str) -> RestaurantSentiment:
        """Count a restaurant's positive and negative reviews.

        Args:
            restaurant_id: The restaurant.

        Returns:
            Counts and whole percentages.

        Raises:
            RestaurantNotFound: It has no reviews.
            StoreDamaged: The table cannot be read.
        """
        counts = await count_restaurant(self.store, restaurant_id)
        if not counts.total:
            raise RestaurantNotFound(_NOT_FOUND, param="restaurant_id")
        return RestaurantSentiment.model_validate(_sentiment_fields(counts))

    async def ranked(self, limit: int, first: Sequence[str] = ()) -> list[Restaurant]:
        """Rank restaurants: those in `first`, then the others by their number of reviews.

        Args:
            limit: Maximum number of restaurants.
            first: Ids in the order in which they come first. Restaurants without reviews are left out.

        Returns:
            The restaurants with their names and sentiment counts.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        ranking = await count_all_restaurants(self.store)
        ranks = {restaurant_id: rank for rank, restaurant_id in enumerate(first)}
        ranking.sort(key=lambda counts: ranks.get(counts.restaurant_id, len(ranks)))
        return [Restaurant(**_sentiment_fields(counts), restaurant_name=counts.name) for counts in ranking[:limit]]

    async def strengths(self, restaurant_id: str) -> Strengths:
        """Find the aspects in which a restaurant is better or worse than the others.

        Args:
            restaurant_id: The restaurant.

        Returns:
            Strengths and weaknesses, each with the largest difference first.

        Raises:
            RestaurantNotFound: It has no reviews.
            StoreDamaged: The table cannot be read.
        """
        rows = await self.store.read(["restaurant_id", "aspects", "sentiment"])
        own = rows.filter(pc.equal(rows["restaurant_id"], restaurant_id))
        if not own.num_rows:
            raise RestaurantNotFound(_NOT_FOUND, param="restaurant_id")
        differences = significant_differences(count_aspects(own), count_aspects(rows))
        return Strengths(
            restaurant_id=restaurant_id,
            strengths=[_to_schema(item) for item in differences if item.z > 0],
            weaknesses=[_to_schema(item) for item in reversed(differences) if item.z < 0],
        )


def count_aspects(rows: pa.Table) -> dict[str, AspectCounts]:
    """Count the reviews that mention each aspect.

    Args:
        rows: Reviews with the columns `aspects` (list of strings) and `sentiment`.

    Returns:
        Counts by aspect, without the aspects that no review mentions.
    """
    aspects = rows["aspects"].combine_chunks()
    mentions = pa.table(
        {"aspect": pc.list_flatten(aspects), "sentiment": rows["sentiment"].take(pc.list_parent_indices(aspects))}
    )
    groups = mentions.group_by(["aspect", "sentiment"]).aggregate([("sentiment", "count")])
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for group in groups.to_pylist():
        counts[group["aspect"]][group["sentiment"]] = group["sentiment_count"]
    return {aspect: AspectCounts(by.get("positive", 0), sum(by.values())) for aspect, by in counts.items()}


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
    own, others = difference.own, difference.others
    return Aspect(
        aspect=difference.aspect,
        label=LABELS[difference.aspect],
        review_count=own.total,
        positive_ratio=round(100 * own.positive / own.total),
        others_positive_ratio=round(100 * others.positive / others.total),
        z=round(difference.z, 2),
    )
