"""A request's way to its answer: off the shelf if it lies there; and a visit is noted."""

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
from review_service.state import ReviewService

Compute = Callable[[Lane], Awaitable[BaseModel | Uncacheable]]


async def restaurant_response(
    request: Request, restaurant_id: str, what: str, compute: Compute, *, compared: bool = False, by: str = ""
) -> Response:
    """What `compute` says of a restaurant, or has said while the reviews were the same.

    Args:
        what: names the question, apart from the others about a restaurant.
        compared: the answer depends on other restaurants' reviews, too.
        by: who makes the answer, where that is a model: another one's is not given in its place.

    Raises:
        InvalidRequest: the request asks for a lane that there is not.
        ClientGone: nobody waits for the answer any more.
        Exception: whatever `compute` raises.
    """
    service: ReviewService = request.app.state.service
    versions = service.table_versions
    version = await (versions.of_all() if compared else versions.of_restaurant(restaurant_id))
    return await _respond(
        request, [what, restaurant_id, by], version, compute, service.popularity.restaurants, restaurant_id
    )


async def search_response(request: Request, given: SearchRequest) -> Response:
    """What a search finds, or has found while the reviews that it looks at were the same.

    Raises:
        InvalidRequest, ClientGone: as `restaurant_response`.
        Exception: as `Searcher.search`.
    """
    service: ReviewService = request.app.state.service
    versions, restaurant_id = service.table_versions, given.restaurant_id
    version = await (versions.of_all() if restaurant_id is None else versions.of_restaurant(restaurant_id))
    question = canonical_json(given.model_dump(mode="json"))

    async def compute(lane: Lane) -> BaseModel:
        return await service.searcher.search(given, lane)

    return await _respond(request, ["search", question], version, compute, service.popularity.queries, question)


async def _respond(
    request: Request, question: JsonValue, version: str, compute: Compute, popularity: Popularity, subject: str
) -> Response:
    service: ReviewService = request.app.state.service
    lane = requested_lane(request.headers, "interactive")
    asked = request.headers.get("cache-control")
    answering = service.response_cache.get_or_compute(question, version, asked, lambda: compute(lane))
    answer = await run_until_disconnect(answering, request.receive)
    # Precomputing finds nearly all of its answers ready, 60 a minute where nobody asks for anything.
    request.state.quiet = lane == "bulk" and answer.headers.get("x-cache") == "hit"
    if lane == "interactive":  # What precomputing asks for says nothing about users.
        popularity.record(subject)
    return answer
