"""HTTP routes."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from onecard.batching.queue import Lane
from onecard.inference.scheduling import requested_lane
from onecard.web import app as base
from onecard.web.disconnect import run_until_disconnect
from onecard.web.health import ComponentHealth, Readiness, worst_status
from onecard.web.middleware import request_state
from onecard.web.request_parsing import media_type
from review_service.api import cached_responses, precompute_routes
from review_service.errors import StoreDamaged
from review_service.precompute.popularity import MAX_SUBJECTS
from review_service.response_cache import Uncacheable
from review_service.reviews.ingest import ParsedImport, parse_items, parse_lines
from review_service.schemas import (
    Deleted,
    ExplainRequest,
    Explanation,
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
from review_service.search.explanation import Explainer
from review_service.state import ReviewService

BULK_PRIORITY = 1
"""vLLM's priority of LLM requests in the bulk lane. Lower numbers are served first; the interactive lane has 0."""
NDJSON = "application/x-ndjson"
_REVIEW = Review.model_json_schema()
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": [_REVIEW, {"type": "array", "items": _REVIEW, "minItems": 1}]}},
            NDJSON: {"schema": {"type": "string", "description": "One review per line."}},
        },
    }
}

PathId = Annotated[Id, Path()]


def service_of(request: Request) -> ReviewService:
    """Get the app's state.

    Args:
        request: Any request to the app.

    Returns:
        The state that the app's lifespan opened.
    """
    service: ReviewService = request.app.state.service
    return service


def _parse_body(request: Request, max_characters: int) -> ParsedImport:
    """The reviews in the body: a JSON object, a JSON list, or NDJSON."""
    state = request_state(request.scope)  # The request middleware has read the body and parsed JSON.
    if media_type(request.headers.get("content-type", "").encode()) == NDJSON.encode():
        return parse_lines(state["body"], max_characters)
    parsed = state.get("json", [])
    return parse_items(parsed if isinstance(parsed, list) else [parsed], max_characters)


async def count_request(request: Request) -> None:
    """Count a request by its lane; the worker detects users by this counter.

    Args:
        request: The request; a header names its lane.

    Raises:
        InvalidRequest: The request names a lane that does not exist.
    """
    service_of(request).metrics.record(requested_lane(request.headers, "interactive"))


def routes() -> APIRouter:
    """Build the router with this service's routes and the ones that every service has.

    Returns:
        The router, ready for the app.
    """
    everything = base.router()
    precompute_routes.add_routes(everything)
    everything.include_router(_review_routes(), dependencies=[Depends(count_request)])
    return everything


def _review_routes() -> APIRouter:
    router = base.router()

    @router.post("/v1/reviews", openapi_extra=_BODY)
    async def add(request: Request) -> ImportResult:
        """Store reviews: one, a list, or one per line. A review with an id that is already stored replaces it."""
        service = service_of(request)
        # In a thread, so that other requests are served while a body of many lines is parsed.
        parsed = await asyncio.to_thread(_parse_body, request, service.settings.review_characters)
        result = await service.importer.run(parsed)
        await service.vocabulary.refresh()  # So that the next search knows the words of these reviews.
        return result

    @router.delete("/v1/reviews/{review_id}")
    async def delete(review_id: PathId, request: Request) -> Deleted:
        """Delete a review."""
        service = service_of(request)
        deleted = await service.store.delete(review_id)
        await service.vocabulary.refresh()
        return Deleted(review_id=review_id, deleted=deleted)

    @router.post("/v1/reviews/search", response_model=SearchResponse)
    async def search(body: SearchRequest, request: Request) -> Response:
        """Find reviews by meaning, by words, or by both."""
        return await cached_responses.search_response(request, body)

    @router.post("/v1/reviews/search/explain")
    async def explain(body: ExplainRequest, request: Request) -> Explanation:
        """Explain how a query is taken apart, and why a review has its score."""
        lane = requested_lane(request.headers, "interactive")
        explanation = Explainer(service_of(request).searcher).explain(body, lane)
        return await run_until_disconnect(explanation, request.receive)

    @router.get("/v1/restaurants")
    async def restaurants(
        request: Request,
        sort: Annotated[
            Sort, Query(description="popular: most requested first; reviews: most reviews first.")
        ] = "popular",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> RestaurantList:
        """List restaurants in the requested order."""
        service = service_of(request)
        # All of them, because any may have lost its reviews.
        top = await service.popularity.restaurants.top(MAX_SUBJECTS) if sort == "popular" else []
        first = [popular.subject for popular in top]
        return RestaurantList(data=await service.restaurant_statistics.ranked(limit, first))

    @router.get("/v1/restaurants/{restaurant_id}/sentiment", response_model=RestaurantSentiment)
    async def sentiment(restaurant_id: PathId, request: Request) -> Response:
        """Count a restaurant's positive and negative reviews."""

        async def compute(_: Lane) -> RestaurantSentiment:
            return await service_of(request).restaurant_statistics.sentiment(restaurant_id)

        return await cached_responses.restaurant_response(request, restaurant_id, "sentiment", compute)

    @router.get("/v1/restaurants/{restaurant_id}/summary", response_model=RestaurantSummary)
    async def summary(restaurant_id: PathId, request: Request) -> Response:
        """Summarise a restaurant's reviews, with quotations as evidence."""
        service = service_of(request)
        model = service.model_watcher.model()

        async def compute(lane: Lane) -> RestaurantSummary | Uncacheable:
            priority = BULK_PRIORITY if lane == "bulk" else 0
            has_all_clauses = service.migrations.clauses.complete  # Before the clauses are read.
            generated = await service.summarizer.summarize(restaurant_id, priority=priority)
            # During an update of the LLM service another model may have answered than the one in the cache key.
            of_model = model != "" and generated.model == model
            # A restaurant's version does not change when its reviews get clauses, of which a summary is extracted.
            final = has_all_clauses or generated.summary.source != "extracted"
            return generated.summary if of_model and final else Uncacheable(generated.summary)

        return await cached_responses.restaurant_response(
            request, restaurant_id, "summary", compute, model=model, version=service.summarizer.version
        )

    @router.get("/v1/restaurants/{restaurant_id}/strengths", response_model=Strengths)
    async def strengths(restaurant_id: PathId, request: Request) -> Response:
        """List the aspects in which a restaurant is better or worse than the others."""

        async def compute(_: Lane) -> Strengths:
            return await service_of(request).restaurant_statistics.strengths(restaurant_id)

        return await cached_responses.restaurant_response(
            request, restaurant_id, "strengths", compute, all_restaurants=True
        )

    return router


async def ready(request: Request) -> Readiness:
    """Report readiness: `down` only if the store cannot be read. The model services report their own readiness.

    Args:
        request: The readiness request.

    Returns:
        The status of the store and of the cache, and the worse of the two.
    """
    try:
        write_error = await service_of(request).store.check()
        components = {
            "store": ComponentHealth(status="degraded", detail=write_error.detail)
            if write_error
            else ComponentHealth(status="ok")
        }
    except StoreDamaged:
        components = {"store": ComponentHealth(status="down", detail="cannot be read")}
    migrations = service_of(request).migrations
    for migration in (migrations.terms, migrations.clauses):
        if migration.running:
            components[migration.of] = ComponentHealth(status="degraded", detail=migration.detail)
    cache = service_of(request).cache
    components["cache"] = ComponentHealth(status=cache.status(), detail=cache.detail())
    return Readiness(status=worst_status(components), parts=components)
