"""Statistics of restaurants: sentiment counts, ranking and strengths."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import col, lit

from review_service.errors import RestaurantNotFound
from review_service.insight.percentages import percentages
from review_service.insight.sentiment_counts import (
    NeutralBand,
    RestaurantCounts,
    SentimentCounts,
    banded,
    count_restaurant,
)
from review_service.insight.strengths import AspectCounts, AspectDifference, significant_differences
from review_service.reviews.aspects import AspectCatalog
from review_service.reviews.rows import CLAUSES_COLUMN
from review_service.reviews.store import ReviewStore
from review_service.schemas import Aspect, Restaurant, RestaurantSentiment, Strengths

_NOT_FOUND = "No review of this restaurant is stored."


@dataclass(frozen=True)
class RestaurantStatistics:
    """Computes statistics of restaurants from the reviews that are stored now."""

    store: ReviewStore
    catalog: AspectCatalog
    band: NeutralBand | None = None
    """The neutral band; None if nothing is neutral."""

    @property
    def version(self) -> str:
        """Differs if the same reviews may have other statistics; part of cache keys."""
        return f"{self.catalog.version} {self.band}"

    @cached_property
    def _all_counts(self) -> RestaurantCounts:
        return RestaurantCounts(self.store, self.band)

    async def sentiment(self, restaurant_id: str) -> RestaurantSentiment:
        """Count a restaurant's positive, neutral and negative reviews.

        Args:
            restaurant_id: The restaurant.

        Returns:
            Counts and whole percentages.

        Raises:
            RestaurantNotFound: It has no reviews.
            StoreDamaged: The table cannot be read.
        """
        counts = await count_restaurant(self.store, restaurant_id, self.band)
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
        counts = await self._all_counts.current()
        ranks = dict.fromkeys(each for each in first if each in counts)
        ranking = islice(chain(ranks, (each for each in counts if each not in ranks)), limit)
        return [Restaurant(**_sentiment_fields(counts[each]), restaurant_name=counts[each].name) for each in ranking]

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
        rows = await self.store.read(["restaurant_id", CLAUSES_COLUMN])
        # In a thread, so that searches are served meanwhile: the clauses of 200,000 reviews take a tenth of a second.
        differences = await asyncio.to_thread(self._differences, rows, restaurant_id)
        return Strengths(
            restaurant_id=restaurant_id,
            strengths=[self._to_schema(item) for item in differences if item.z > 0],
            weaknesses=[self._to_schema(item) for item in reversed(differences) if item.z < 0],
        )

    def _differences(self, rows: pa.Table, restaurant_id: str) -> list[AspectDifference]:
        own = rows.filter(pc.equal(rows["restaurant_id"], restaurant_id))
        if not own.num_rows:
            raise RestaurantNotFound(_NOT_FOUND, param="restaurant_id")
        return significant_differences(count_aspects(own, self.band), count_aspects(rows, self.band))

    async def describe(self, sentiment: RestaurantSentiment) -> str:
        """Say in a sentence or two how a restaurant is rated, and for what it is praised and blamed most.

        Args:
            sentiment: Its counts.

        Returns:
            Korean text on one line.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        neutral = f" {sentiment.neutral_ratio}%는 중립," if sentiment.neutral_count else ""
        shares = f"{sentiment.positive_ratio}%는 긍정적,{neutral} {sentiment.negative_ratio}%는 부정적"
        own = await self.store.read([CLAUSES_COLUMN], where=col("restaurant_id") == lit(sentiment.restaurant_id))
        counts = count_aspects(own, self.band)
        praised = max(counts, key=lambda aspect: counts[aspect].positive, default=None)
        blamed = max(counts, key=lambda aspect: counts[aspect].negative, default=None)
        most = [
            f"{what}은 {self._label(aspect)}에 대한 것이 가장 많습니다."
            for what, aspect, number in (
                ("칭찬", praised, counts[praised].positive if praised else 0),
                ("불만", blamed, counts[blamed].negative if blamed else 0),
            )
            if aspect and number
        ]
        return " ".join([f"리뷰의 {shares}입니다.", *most])

    def _label(self, aspect: str) -> str:
        # A review may still have clauses of an aspect that is not in the file any more.
        described = self.catalog.aspects.get(aspect)
        return described.label if described else aspect

    def _to_schema(self, difference: AspectDifference) -> Aspect:
        own, others = difference.own, difference.others
        return Aspect(
            aspect=difference.aspect,
            label=self._label(difference.aspect),
            review_count=own.total,
            positive_ratio=round(100 * own.positive / own.total),
            others_positive_ratio=round(100 * others.positive / others.total),
            z=round(difference.z, 2),
        )


def count_aspects(rows: pa.Table, band: NeutralBand | None = None) -> dict[str, AspectCounts]:
    """Count the opinions on each aspect. A review has at most two on one aspect: a positive and a negative one.

    Args:
        rows: Reviews with the column of clauses, which is null for reviews that are not migrated yet.
        band: The neutral band. What is neutral is no opinion.

    Returns:
        Counts by aspect, without the aspects that no clause speaks of.
    """
    clauses = rows[CLAUSES_COLUMN].combine_chunks()
    each = pc.list_flatten(clauses)
    aspects = pc.struct_field(each, "aspects")
    of = pc.list_parent_indices(aspects)
    sentiment = banded(pc.struct_field(each, "sentiment"), pc.struct_field(each, "sentiment_score"), band)
    mentions = pa.table(
        {
            "review": pc.list_parent_indices(clauses).take(of),
            "aspect": pc.list_flatten(aspects),
            "sentiment": sentiment.take(of),
        }
    )
    opinions = mentions.group_by(["review", "aspect", "sentiment"]).aggregate([])
    groups = opinions.group_by(["aspect", "sentiment"]).aggregate([("sentiment", "count")])
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for group in groups.to_pylist():
        if group["sentiment"] != "neutral":
            counts[group["aspect"]][group["sentiment"]] = group["sentiment_count"]
    return {aspect: AspectCounts(by.get("positive", 0), sum(by.values())) for aspect, by in counts.items()}


def _sentiment_fields(counts: SentimentCounts) -> dict[str, Any]:
    positive, neutral, negative = percentages([counts.positive, counts.neutral, counts.negative])
    return {
        "restaurant_id": counts.restaurant_id,
        "positive_count": counts.positive,
        "neutral_count": counts.neutral,
        "negative_count": counts.negative,
        "total_count": counts.total,
        "positive_ratio": positive,
        "neutral_ratio": neutral,
        "negative_ratio": negative,
    }
