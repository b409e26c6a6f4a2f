"""Which searches are answered from the cache."""

from collections.abc import AsyncIterator
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
from review_service.words.query import ParsedQuery, QueryParser
from review_service.words.vocabulary import Vocabulary
from tests.review.support import analyzer


class Versions:
    """No review changes, unless a test says so."""

    current = "1"

    async def of_restaurant(self, restaurant_id: str) -> str:
        """The current version."""
        return f"version {self.current} of {restaurant_id}"


class Searcher:
    """Finds nothing, by the words of the latest count."""

    word_files = WordFiles(None)
    analyzer = SimpleNamespace(version="one")
    vocabulary = Vocabulary({"주차": 400}, 10_000)

    async def parse(self, text: str) -> tuple[ParsedQuery, Vocabulary]:
        """Take a query apart."""
        return QueryParser(analyzer().terms, self.vocabulary, self.word_files.search_words()).parse(
            text
        ), self.vocabulary

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
async def service() -> AsyncIterator[Any]:
    """What a search needs, with a cache in memory."""
    settings = ReviewSettings(_env_file=None)
    async with open_cache(settings, CollectorRegistry(), SharedBreaker()) as cache:
        yield SimpleNamespace(
            table_versions=Versions(),
            searcher=Searcher(),
            migrations=Migrations(),
            response_cache=VersionedResponseCache(cache, 60),
            popularity=SimpleNamespace(queries=SimpleNamespace(record=lambda _: None)),
        )


async def test_a_restaurants_searches_are_not_cached_across_other_terms(service: Any) -> None:
    """While stored reviews are taken apart anew nothing is cached, and another analyzer's answers are not used."""
    assert [await cached(service) for _ in range(2)] == ["miss", "miss"]
    service.migrations.terms.complete = True
    assert [await cached(service) for _ in range(2)] == ["miss", "hit"]
    service.searcher.analyzer = SimpleNamespace(version="other")
    assert await cached(service) == "miss"


async def test_an_answer_of_before_a_count_is_not_found_after_it(service: Any) -> None:
    """If the count has learned a word of the query. Other words, and some reviews more, change nothing."""
    service.migrations.terms.complete = True
    assert await cached(service) == "miss"
    service.searcher.vocabulary = Vocabulary({"주차": 900, "만두": 30}, 10_100)
    assert await cached(service) == "hit"
    service.searcher.vocabulary = Vocabulary({"주차": 900, "국물": 300}, 10_100)
    assert [await cached(service) for _ in range(2)] == ["miss", "hit"]


async def test_an_answer_that_was_computed_during_a_write_is_not_cached(service: Any) -> None:
    """It may be of the reviews before or after; the version before comes back when an added review is deleted."""
    service.migrations.terms.complete = True
    versions, search = service.table_versions, service.searcher.search

    async def search_during_write(*given: object) -> SearchResponse:
        versions.current = "2"
        found: SearchResponse = await search(*given)
        return found

    service.searcher.search = search_during_write
    assert await cached(service) == "miss"
    versions.current, service.searcher.search = "1", search
    assert [await cached(service) for _ in range(2)] == ["miss", "hit"]
