"""HTTP routes."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from onecard import app as base
from onecard.edge import state_of
from onecard.health import Part, Readiness, worst
from onecard.wire import media_type
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

    @router.post("/v1/reviews/search")
    async def search(body: SearchRequest, request: Request) -> SearchResponse:
        """Find reviews by meaning, by words, or by both."""
        return await state(request).searcher.search(body)

    @router.get("/v1/restaurants")
    async def restaurants(request: Request) -> RestaurantList:
        """Every restaurant, those with most reviews first."""
        found = await state(request).store.restaurants()
        return RestaurantList(data=[Restaurant(**_shares(counts), restaurant_name=counts.name) for counts in found])

    @router.get("/v1/restaurants/{restaurant_id}/sentiment")
    async def sentiment(restaurant_id: PathId, request: Request) -> Sentiment:
        """How many of a restaurant's reviews are positive."""
        return Sentiment(**_shares(await _counts(restaurant_id, state(request))))

    return router


async def ready(request: Request) -> Readiness:
    """The service is down only when its store is: the model services have a readiness of their own."""
    try:
        await state(request).store.table()
        parts = {"store": Part(status="ok")}
    except StoreDamaged:
        parts = {"store": Part(status="down", detail="cannot be read")}
    return Readiness(status=worst(parts), parts=parts)
