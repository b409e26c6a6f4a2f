"""HTTP routes."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from onecard import app as base
from onecard.edge import state_of
from onecard.health import Part, Readiness, worst
from onecard.wire import media_type
from review_service import asked, precompute_routes
from review_service.errors import RestaurantNotFound, StoreDamaged
from review_service.ingest import Parsed, parse_items, parse_lines
from review_service.ratios import percentages
from review_service.schemas import (
    Deleted,
    Id,
    ImportResult,
    Restaurant,
    RestaurantList,
    Review,
    SearchRequest,
    SearchResponse,
    Sentiment,
    Sort,
)
from review_service.state import ReviewService
from review_service.store import Counts

NDJSON = "application/x-ndjson"
_REVIEW = Review.model_json_schema()
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": [_REVIEW, {"type": "array", "items": _REVIEW, "minItems": 1}]}},
            NDJSON: {"schema": {"type": "string", "description": "A review a line."}},
        },
    }
}

PathId = Annotated[Id, Path()]


def state(request: Request) -> ReviewService:
    """What the lifespan built."""
    service: ReviewService = request.app.state.service
    return service


def _parsed(request: Request, most_characters: int) -> Parsed:
    """The reviews of a body: an object, a list, or lines."""
    left = state_of(request.scope)
    if media_type(request.headers.get("content-type", "").encode()) == NDJSON.encode():
        return parse_lines(left["body"], most_characters)
    given = left.get("json", [])
    return parse_items(given if isinstance(given, list) else [given], most_characters)


async def _counts(restaurant_id: str, service: ReviewService) -> Counts:
    counts = await service.store.counts(restaurant_id)
    if not counts.total:
        raise RestaurantNotFound("No review of this restaurant is stored.", param="restaurant_id")
    return counts


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


def by_popularity(found: Sequence[Counts], top: Sequence[str]) -> list[Counts]:
    """Restaurants of these ids first, in this order; then the others, in theirs."""
    places = {restaurant_id: place for place, restaurant_id in enumerate(top)}
    return sorted(found, key=lambda counts: places.get(counts.restaurant_id, len(places)))


def routes() -> APIRouter:
    """The service's router."""
    router = base.router()

    @router.post("/v1/reviews", openapi_extra=_BODY)
    async def add(request: Request) -> ImportResult:
        """Store reviews: one, a list, or one a line. One that is there already is replaced."""
        service = state(request)
        return await service.importer.run(_parsed(request, service.settings.review_characters))

    @router.delete("/v1/reviews/{review_id}")
    async def delete(review_id: PathId, request: Request) -> Deleted:
        """Remove a review."""
        return Deleted(review_id=review_id, deleted=await state(request).store.delete(review_id))

    @router.post("/v1/reviews/search", response_model=SearchResponse)
    async def search(body: SearchRequest, request: Request) -> Response:
        """Find reviews by meaning, by words, or by both."""
        return await asked.search(request, state(request), body)

    @router.get("/v1/restaurants")
    async def restaurants(
        request: Request, sort: Sort = "popular", limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> RestaurantList:
        """Restaurants: those that are asked for most, then those with most reviews; or by reviews alone."""
        service = state(request)
        found = await service.store.restaurants()
        if sort == "popular":
            top = await service.traffic.restaurants.top(limit)
            found = by_popularity(found, [popular.subject for popular in top])
        shown = found[:limit]
        return RestaurantList(data=[Restaurant(**_shares(counts), restaurant_name=counts.name) for counts in shown])

    @router.get("/v1/restaurants/{restaurant_id}/sentiment", response_model=Sentiment)
    async def sentiment(restaurant_id: PathId, request: Request) -> Response:
        """How many of a restaurant's reviews are positive."""
        service = state(request)

        async def compute() -> Sentiment:
            return Sentiment(**_shares(await _counts(restaurant_id, service)))

        return await asked.about_restaurant(request, service, restaurant_id, "sentiment", compute)

    precompute_routes.add_routes(router)
    return router


async def ready(request: Request) -> Readiness:
    """The service is down only when its store is: the model services have a readiness of their own."""
    try:
        await state(request).store.table()
        parts = {"store": Part(status="ok")}
    except StoreDamaged:
        parts = {"store": Part(status="down", detail="cannot be read")}
    cache = state(request).cache
    parts["cache"] = Part(status=cache.status(), detail=cache.detail())
    return Readiness(status=worst(parts), parts=parts)
