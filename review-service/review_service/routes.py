"""HTTP routes."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from onecard import app as base
from onecard.edge import state_of
from onecard.health import Part, Readiness, worst
from onecard.leaving import while_connected
from onecard.wire import media_type
from review_service.errors import StoreDamaged
from review_service.ingest import Parsed, parse_items, parse_lines
from review_service.schemas import (
    Deleted,
    Id,
    ImportResult,
    RestaurantList,
    Review,
    SearchRequest,
    SearchResponse,
    Sentiment,
    Sort,
    Strengths,
    Summary,
)
from review_service.state import ReviewService

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
    async def restaurants(
        request: Request,
        sort: Annotated[Sort, Query(description="popular: those asked for most come first.")] = "popular",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> RestaurantList:
        """Restaurants, in the order that is asked for."""
        return RestaurantList(data=await state(request).restaurants.by_reviews(limit))

    @router.get("/v1/restaurants/{restaurant_id}/sentiment")
    async def sentiment(restaurant_id: PathId, request: Request) -> Sentiment:
        """How many of a restaurant's reviews are positive."""
        return await state(request).restaurants.sentiment(restaurant_id)

    @router.get("/v1/restaurants/{restaurant_id}/summary")
    async def summary(restaurant_id: PathId, request: Request) -> Summary:
        """What a restaurant's reviews say, with evidence."""
        return await while_connected(state(request).insight.summary(restaurant_id), request.receive)

    @router.get("/v1/restaurants/{restaurant_id}/strengths")
    async def strengths(restaurant_id: PathId, request: Request) -> Strengths:
        """In what a restaurant is better, and worse, than the others."""
        return await state(request).restaurants.strengths(restaurant_id)

    return router


async def ready(request: Request) -> Readiness:
    """The service is down only when its store is: the model services have a readiness of their own."""
    try:
        await state(request).store.check()
        parts = {"store": Part(status="ok")}
    except StoreDamaged:
        parts = {"store": Part(status="down", detail="cannot be read")}
    return Readiness(status=worst(parts), parts=parts)
