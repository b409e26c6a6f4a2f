"""A request's way to its answer: off the shelf if it lies there; and a visit is noted."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from pydantic import BaseModel

from onecard.batching.queue import Lane
from onecard.cache.keys import Json
from onecard.lanes import lane_of
from onecard.leaving import while_connected
from review_service.popularity import Popularity
from review_service.precompute import canonical
from review_service.schemas import SearchRequest
from review_service.shelf import Unkept
from review_service.state import ReviewService

Compute = Callable[[Lane], Awaitable[BaseModel | Unkept]]


async def about_restaurant(
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
    versions = service.versions
    version = await (versions.of_all() if compared else versions.of_restaurant(restaurant_id))
    return await _answer(
        request, [what, restaurant_id, by], version, compute, service.traffic.restaurants, restaurant_id
    )


async def search(request: Request, given: SearchRequest) -> Response:
    """What a search finds, or has found while the reviews that it looks at were the same.

    Raises:
        InvalidRequest, ClientGone: as `about_restaurant`.
        Exception: as `Searcher.search`.
    """
    service: ReviewService = request.app.state.service
    versions, restaurant_id = service.versions, given.restaurant_id
    version = await (versions.of_all() if restaurant_id is None else versions.of_restaurant(restaurant_id))
    question = canonical(given.model_dump(mode="json"))

    async def compute(lane: Lane) -> BaseModel:
        return await service.searcher.search(given, lane)

    return await _answer(request, ["search", question], version, compute, service.traffic.queries, question)


async def _answer(
    request: Request, question: Json, version: str, compute: Compute, popularity: Popularity, subject: str
) -> Response:
    service: ReviewService = request.app.state.service
    lane = lane_of(request.headers, "interactive")
    asked = request.headers.get("cache-control")
    answering = service.shelf.answer(question, version, asked, lambda: compute(lane))
    answer = await while_connected(answering, request.receive)
    # Precomputing finds nearly all of its answers ready, 60 a minute where nobody asks for anything.
    request.state.quiet = lane == "bulk" and answer.headers.get("x-cache") == "hit"
    if lane == "interactive":  # What precomputing asks for says nothing about users.
        popularity.note(subject)
    return answer
