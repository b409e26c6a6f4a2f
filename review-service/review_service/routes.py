"""HTTP routes."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from onecard import app as base
from onecard.batching.queue import Lane
from onecard.edge import state_of
from onecard.health import Part, Readiness, worst
from onecard.lanes import lane_of
from onecard.wire import media_type
from review_service import asked, precompute_routes
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
from review_service.shelf import Unkept
from review_service.state import ReviewService

BULK_PRIORITY = 1
"""Of what the bulk lane asks the LLM for, as vLLM has it: larger waits for smaller."""
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


async def count(request: Request) -> None:
    """The worker sees users by this.

    Raises:
        InvalidRequest: the request asks for a lane that there is not.
    """
    state(request).metrics.asked(lane_of(request.headers, "interactive"))


def routes() -> APIRouter:
    """The service's router."""
    everything = base.router()
    precompute_routes.add_routes(everything)
    everything.include_router(_about_reviews(), dependencies=[Depends(count)])
    return everything


def _about_reviews() -> APIRouter:
    router = base.router()

    @router.post("/v1/reviews", openapi_extra=_BODY)
    async def add(request: Request) -> ImportResult:
        """Store reviews: one, a list, or one a line. One that is there already is replaced."""
        service = state(request)
        # A body may be many lines: others are answered meanwhile.
        parsed = await asyncio.to_thread(_parsed, request, service.settings.review_characters)
        return await service.importer.run(parsed)

    @router.delete("/v1/reviews/{review_id}")
    async def delete(review_id: PathId, request: Request) -> Deleted:
        """Remove a review."""
        return Deleted(review_id=review_id, deleted=await state(request).store.delete(review_id))

    @router.post("/v1/reviews/search", response_model=SearchResponse)
    async def search(body: SearchRequest, request: Request) -> Response:
        """Find reviews by meaning, by words, or by both."""
        return await asked.search(request, body)

    @router.get("/v1/restaurants")
    async def restaurants(
        request: Request,
        sort: Annotated[Sort, Query(description="popular: those asked for most come first.")] = "popular",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> RestaurantList:
        """Restaurants, in the order that is asked for."""
        service = state(request)
        top = await service.traffic.restaurants.top(limit) if sort == "popular" else []
        first = [popular.subject for popular in top]
        return RestaurantList(data=await service.restaurants.by_reviews(limit, first))

    @router.get("/v1/restaurants/{restaurant_id}/sentiment", response_model=Sentiment)
    async def sentiment(restaurant_id: PathId, request: Request) -> Response:
        """How many of a restaurant's reviews are positive."""

        async def compute(_: Lane) -> Sentiment:
            return await state(request).restaurants.sentiment(restaurant_id)

        return await asked.about_restaurant(request, restaurant_id, "sentiment", compute)

    @router.get("/v1/restaurants/{restaurant_id}/summary", response_model=Summary)
    async def summary(restaurant_id: PathId, request: Request) -> Response:
        """What a restaurant's reviews say, with evidence."""

        served = state(request).llm.told()

        async def compute(lane: Lane) -> Summary | Unkept:
            priority = BULK_PRIORITY if lane == "bulk" else 0
            written = await state(request).insight.summary(restaurant_id, priority=priority)
            return written.summary if served and written.by == served else Unkept(written.summary)

        return await asked.about_restaurant(request, restaurant_id, "summary", compute, by=served)

    @router.get("/v1/restaurants/{restaurant_id}/strengths", response_model=Strengths)
    async def strengths(restaurant_id: PathId, request: Request) -> Response:
        """In what a restaurant is better, and worse, than the others."""

        async def compute(_: Lane) -> Strengths:
            return await state(request).restaurants.strengths(restaurant_id)

        return await asked.about_restaurant(request, restaurant_id, "strengths", compute, compared=True)

    return router


async def ready(request: Request) -> Readiness:
    """The service is down only when its store is: the model services have a readiness of their own."""
    try:
        refusal = await state(request).store.check()
        parts = {"store": Part(status="degraded", detail=refusal.detail) if refusal else Part(status="ok")}
    except StoreDamaged:
        parts = {"store": Part(status="down", detail="cannot be read")}
    cache = state(request).cache
    parts["cache"] = Part(status=cache.status(), detail=cache.detail())
    return Readiness(status=worst(parts), parts=parts)
