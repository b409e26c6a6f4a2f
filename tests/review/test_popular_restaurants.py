"""Which restaurants count as popular, on a real LanceDB and a real Redis."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from review_service.api.routes import routes
from review_service.insight.restaurant_statistics import RestaurantStatistics
from review_service.precompute.refresh_jobs import refresh_jobs
from review_service.precompute.tasks import Precomputer, open_precomputer
from review_service.reviews.aspects import read_aspects
from review_service.reviews.store import open_store
from review_service.settings import WorkerSettings
from tests.review.test_store import put
from tests.shared.cache.support import running_redis


@pytest.fixture
async def precomputer(tmp_path: Path) -> AsyncIterator[Precomputer]:
    """A worker of two restaurants, with a service where those that are visited most have no reviews any more."""
    settings, app = WorkerSettings(precompute_restaurants=2, precompute_queries=0), FastAPI()
    app.include_router(routes())
    with running_redis(tmp_path) as redis:
        async with (
            open_store(str(tmp_path / "reviews")) as store,
            open_precomputer(settings.model_copy(update={"redis_port": redis.port}), CollectorRegistry()) as worker,
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=settings.review_url[0]) as http,
        ):
            for numbers, restaurant in (([1], "b"), ([2], "c"), ([3, 4, 5], "d")):
                await put(store, numbers, restaurant_id=restaurant)
            for restaurant, visits in (("dead", 5), ("dead too", 4), ("b", 3), ("c", 2)):
                for _ in range(visits):
                    worker.popularity.restaurants.record(restaurant)
            await worker.popularity.restaurants.flush()
            app.state.service = SimpleNamespace(
                popularity=worker.popularity,
                restaurant_statistics=RestaurantStatistics(store, read_aspects()),
                metrics=SimpleNamespace(record=lambda _: None),
            )
            yield replace(worker, http=http)


async def test_a_restaurant_without_reviews_takes_no_place(precomputer: Precomputer) -> None:
    """Those that are visited come first, however many reviews others have."""
    for limit, expected in ((2, ["b", "c"]), (100, ["b", "c", "d"])):
        answer = await precomputer.http.get("/v1/restaurants", params={"sort": "popular", "limit": limit})
        assert [restaurant["restaurant_id"] for restaurant in answer.json()["data"]] == expected


async def test_the_worker_makes_ready_what_is_visited_and_has_reviews(precomputer: Precomputer) -> None:
    """As many restaurants as it is to."""
    assert await precomputer.plan() == refresh_jobs(["b", "c"], [])
