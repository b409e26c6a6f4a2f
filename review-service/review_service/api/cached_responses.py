"""Answers requests from the response cache, and records them for popularity."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from pydantic import BaseModel

from onecard.batching.queue import Lane
from onecard.cache.keys import JsonValue
from onecard.inference.scheduling import requested_lane
from onecard.web.disconnect import run_until_disconnect
from review_service.precompute.popularity import Popularity
from review_service.precompute.refresh_jobs import canonical_json
from review_service.response_cache import Uncacheable
from review_service.schemas import SearchRequest
from review_service.search.query_key import query_key
from review_service.state import ReviewService

Compute = Callable[[Lane], Awaitable[BaseModel | Uncacheable]]
_ReadVersion = Callable[[], Awaitable[str]]


async def restaurant_response(
    request: Request,
    restaurant_id: str,
    resource: str,
    compute: Compute,
    *,
    all_restaurants: bool = False,
    model: str = "",
    version: str = "",
) -> Response:
    """Answer a request about a restaurant, from the cache while its reviews are the same.

    Args:
        request: The request; its headers have the lane and the cache policy.
        restaurant_id: The restaurant, as the path names it.
        resource: What is requested about the restaurant; part of the cache key.
        compute: Computes the response in the given lane; called on a cache miss.
        all_restaurants: Whether the response also depends on the reviews of other restaurants.
        model: Identity of the model that computes the response, so that the response of another model is not used.
            Empty if there is no model, or if it is unknown.
        version: Differs if the same reviews and the same model may have another response.

    Returns:
        The response.

    Raises:
        InvalidRequest: The request names a lane that does not exist.
        ClientGone: The client disconnected before the response was computed.
        StoreDamaged: The version of the reviews cannot be read.
        Exception: What `compute` raises.
    """
    service: ReviewService = request.app.state.service
    read_version = _version_reader(service, None if all_restaurants else restaurant_id)
    key = [resource, restaurant_id, model, service.restaurant_statistics.version, version]
    return await _respond(request, key, read_version, compute, service.popularity.restaurants, restaurant_id)


async def search_response(request: Request, body: SearchRequest) -> Response:
    """Answer a search, from the cache while the reviews that it searches are the same.

    Args:
        request: The request; its headers have the lane and the cache policy.
        body: The search.

    Returns:
        The response.

    Raises:
        InvalidRequest: The request names a lane that does not exist.
        ClientGone: The client disconnected before the response was computed.
        StoreDamaged: The version of the reviews cannot be read.
        Exception: What `Searcher.search` raises.
    """
    service: ReviewService = request.app.state.service
    search = canonical_json(body.model_dump(mode="json"))
    searcher = service.searcher
    words = searcher.word_files.search_words().version, searcher.analyzer.version
    query, vocabulary = await searcher.parse(body.query)
    key = ["search", search, *words, query_key(query, vocabulary)]
    # A restaurant's version does not change when its reviews get other terms.
    cacheable = service.migrations.terms.complete

    async def compute(lane: Lane) -> BaseModel | Uncacheable:
        found = await searcher.search(body, query, vocabulary, lane)
        return found if cacheable and not found.degraded else Uncacheable(found)

    read_version = _version_reader(service, body.restaurant_id)
    return await _respond(request, key, read_version, compute, service.popularity.queries, search)


def _version_reader(service: ReviewService, restaurant_id: str | None) -> _ReadVersion:
    """Reads the version of a restaurant's reviews, or of all."""
    versions = service.table_versions
    return versions.of_all if restaurant_id is None else lambda: versions.of_restaurant(restaurant_id)


async def _respond(
    request: Request,
    key_fields: JsonValue,
    read_version: _ReadVersion,
    compute: Compute,
    popularity: Popularity,
    subject: str,
) -> Response:
    service: ReviewService = request.app.state.service
    lane = requested_lane(request.headers, "interactive")
    cache_control = request.headers.get("cache-control")
    version = await read_version()

    async def compute_of_version() -> BaseModel | Uncacheable:
        computed = await compute(lane)
        if isinstance(computed, Uncacheable) or await read_version() == version:
            return computed
        # The reviews that were read may be of either version, and the one before comes back when the write is undone.
        return Uncacheable(computed)

    response = service.response_cache.get_or_compute(key_fields, version, cache_control, lane, compute_of_version)
    answer = await run_until_disconnect(response, request.receive)
    # Not in the access log: without any users, precomputing still makes about 60 such requests a minute.
    request.state.quiet = lane == "bulk" and answer.headers.get("x-cache") == "hit"
    if lane == "interactive":  # The requests of precomputing are not a sign of popularity.
        popularity.record(subject)
    return answer
