"""A request's way to its answer: from the shelf if it lies there, and a visit is noted."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from pydantic import BaseModel

from onecard.lanes import lane_of
from review_service.precompute import canonical
from review_service.schemas import SearchRequest
from review_service.state import ReviewService


async def about_restaurant(
    request: Request,
    service: ReviewService,
    restaurant_id: str,
    what: str,
    compute: Callable[[], Awaitable[BaseModel]],
) -> Response:
    """What `compute` says of a restaurant, or has said while its reviews were the same.

    Args:
        what: names the question, apart from the others about a restaurant.

    Raises:
        InvalidRequest: the request asks for a lane that there is not.
        Exception: whatever `compute` raises.
    """
    lane = lane_of(request.headers, "interactive")
    version = await service.versions.of_restaurant(restaurant_id)
    asked = request.headers.get("cache-control")
    answer = await service.shelf.answer([what, restaurant_id], version, asked, compute)
    if lane == "interactive":  # What precomputing asks for says nothing about users.
        service.traffic.restaurants.note(restaurant_id)
    return answer


async def search(request: Request, service: ReviewService, asked: SearchRequest) -> Response:
    """What a search finds, or has found while the reviews that it looks at were the same.

    Raises:
        InvalidRequest: the request asks for a lane that there is not.
        Exception: as `Searcher.search`.
    """
    lane = lane_of(request.headers, "interactive")
    versions, restaurant = service.versions, asked.restaurant_id
    version = await (versions.of_restaurant(restaurant) if restaurant else versions.of_all())
    question = canonical(asked.model_dump(mode="json"))
    answer = await service.shelf.answer(
        ["search", question],
        version,
        request.headers.get("cache-control"),
        lambda: service.searcher.search(asked, lane),
    )
    if lane == "interactive":
        service.traffic.queries.note(question)
    return answer
