"""HTTP routes."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from onecard.batching.queue import Lane
from onecard.inference.scheduling import requested_lane
from onecard.web import app as base
from onecard.web.health import ComponentHealth, Readiness, worst_status
from onecard.web.middleware import request_state
from onecard.web.request_parsing import media_type
from review_service.api import cached_responses, precompute_routes
from review_service.errors import StoreDamaged
from review_service.response_cache import Uncacheable
from review_service.reviews.ingest import ParsedImport, parse_items, parse_lines
from review_service.schemas import (
    Deleted,
    Id,
    ImportResult,
    RestaurantList,
    RestaurantSentiment,
    RestaurantSummary,
    Review,
    SearchRequest,
    SearchResponse,
    Sort,
    Strengths,
)
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


def service_of(request: Request) -> ReviewService:
    """What the lifespan built."""
    service: ReviewService = request.app.state.service
    return service


def _parse_body(request: Request, most_characters: int) -> ParsedImport:
    """The reviews of a body: an object, a list, or lines."""
    left = request_state(request.scope)
    if media_type(request.headers.get("content-type", "").encode()) == NDJSON.encode():
        return parse_lines(left["body"], most_characters)
    given = left.get("json", [])
    return parse_items(given if isinstance(given, list) else [given], most_characters)


async def count_request(request: Request) -> None:
    """The worker sees users by this.

    Raises:
        InvalidRequest: the request asks for a lane that there is not.
    """
    service_of(request).metrics.record(requested_lane(request.headers, "interactive"))


def routes() -> APIRouter:
    """The service's router."""
    everything = base.router()
    precompute_routes.add_routes(everything)
    everything.include_router(_review_routes(), dependencies=[Depends(count_request)])
    return everything


def _review_routes() -> APIRouter:
    router = base.router()

    @router.post("/v1/reviews", openapi_extra=_BODY)
    async def add(request: Request) -> ImportResult:
        """Store reviews: one, a list, or one a line. One that is there already is replaced."""
        service = service_of(request)
        # A body may be many lines: others are answered meanwhile.
        parsed = await asyncio.to_thread(_parse_body, request, service.settings.review_characters)
        return await service.importer.run(parsed)

    @router.delete("/v1/reviews/{review_id}")
    async def delete(review_id: PathId, request: Request) -> Deleted:
        """Remove a review."""
        return Deleted(review_id=review_id, deleted=await service_of(request).store.delete(review_id))

    @router.post("/v1/reviews/search", response_model=SearchResponse)
    async def search(body: SearchRequest, request: Request) -> Response:
        """Find reviews by meaning, by words, or by both."""
        return await cached_responses.search_response(request, body)

    @router.get("/v1/restaurants")
    async def restaurants(
        request: Request,
        sort: Annotated[Sort, Query(description="popular: those asked for most come first.")] = "popular",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> RestaurantList:
        """Restaurants, in the order that is asked for."""
        service = service_of(request)
        top = await service.popularity.restaurants.top(limit) if sort == "popular" else []
        first = [popular.subject for popular in top]
        return RestaurantList(data=await service.restaurant_statistics.ranked(limit, first))

    @router.get("/v1/restaurants/{restaurant_id}/sentiment", response_model=RestaurantSentiment)
    async def sentiment(restaurant_id: PathId, request: Request) -> Response:
        """How many of a restaurant's reviews are positive."""

        async def compute(_: Lane) -> RestaurantSentiment:
            return await service_of(request).restaurant_statistics.sentiment(restaurant_id)

        return await cached_responses.restaurant_response(request, restaurant_id, "sentiment", compute)

    @router.get("/v1/restaurants/{restaurant_id}/summary", response_model=RestaurantSummary)
    async def summary(restaurant_id: PathId, request: Request) -> Response:
        """What a restaurant's reviews say, with evidence."""

        served = service_of(request).model_watcher.model()

        async def compute(lane: Lane) -> RestaurantSummary | Uncacheable:
            priority = BULK_PRIORITY if lane == "bulk" else 0
            written = await service_of(request).summarizer.summarize(restaurant_id, priority=priority)
            return written.summary if served and written.model == served else Uncacheable(written.summary)

        return await cached_responses.restaurant_response(request, restaurant_id, "summary", compute, by=served)

    @router.get("/v1/restaurants/{restaurant_id}/strengths", response_model=Strengths)
    async def strengths(restaurant_id: PathId, request: Request) -> Response:
        """In what a restaurant is better, and worse, than the others."""

        async def compute(_: Lane) -> Strengths:
            return await service_of(request).restaurant_statistics.strengths(restaurant_id)

        return await cached_responses.restaurant_response(request, restaurant_id, "strengths", compute, compared=True)

    return router


async def ready(request: Request) -> Readiness:
    """The service is down only when its store is: the model services have a readiness of their own."""
    try:
        refusal = await service_of(request).store.check()
        parts = {
            "store": ComponentHealth(status="degraded", detail=refusal.detail)
            if refusal
            else ComponentHealth(status="ok")
        }
    except StoreDamaged:
        parts = {"store": ComponentHealth(status="down", detail="cannot be read")}
    cache = service_of(request).cache
    parts["cache"] = ComponentHealth(status=cache.status(), detail=cache.detail())
    return Readiness(status=worst_status(parts), parts=parts)
