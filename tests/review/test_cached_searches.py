"""Which searches are answered from the cache."""

from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from prometheus_client import CollectorRegistry

from onecard.cache.tiers import open_cache
from onecard.redis.channel import SharedBreaker
from review_service.api.cached_responses import search_response
from review_service.response_cache import VersionedResponseCache
from review_service.reviews.migration_task import Migrations
from review_service.schemas import SearchRequest, SearchResponse
from review_service.search.word_files import WordFiles
from review_service.settings import ReviewSettings


class Versions:
    """No review changes."""

    async def of_restaurant(self, restaurant_id: str) -> str:
        """Always the same."""
        return f"version of {restaurant_id}"


class Searcher:
    """Finds nothing."""

    word_files = WordFiles(None)
    analyzer = SimpleNamespace(version="one")

    async def search(self, *_: object) -> SearchResponse:
        """Find nothing."""
        return SearchResponse(mode="hybrid", degraded=False, corrected_query=None, data=[])


async def cached(service: Any) -> str:
    """Search in a restaurant. Returns whether the answer was cached."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    app = SimpleNamespace(state=SimpleNamespace(service=service))
    request = Request({"type": "http", "headers": [], "app": app, "state": {}}, receive)
    return (await search_response(request, SearchRequest(query="국물", restaurant_id="a"))).headers["x-cache"]


@pytest.fixture
def settings() -> ReviewSettings:
    """A cache in memory."""
    return ReviewSettings(_env_file=None)


async def test_a_restaurants_searches_are_not_cached_across_other_terms(settings: ReviewSettings) -> None:
    """While stored reviews are taken apart anew nothing is cached, and another analyzer's answers are not used."""
    async with open_cache(settings, CollectorRegistry(), SharedBreaker()) as cache:
        service = SimpleNamespace(
            table_versions=Versions(),
            searcher=Searcher(),
            migrations=Migrations(),
            response_cache=VersionedResponseCache(cache, 60),
            popularity=SimpleNamespace(queries=SimpleNamespace(record=lambda _: None)),
        )
        assert [await cached(service) for _ in range(2)] == ["miss", "miss"]
        service.migrations.terms.complete = True
        assert [await cached(service) for _ in range(2)] == ["miss", "hit"]
        service.searcher.analyzer = SimpleNamespace(version="other")
        assert await cached(service) == "miss"
