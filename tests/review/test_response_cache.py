"""Which requests share a computation, and which summaries are cached."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from types import SimpleNamespace
from typing import Any, Literal

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from onecard.batching.queue import Lane
from onecard.cache.tiers import Cache, open_cache
from onecard.redis.channel import SharedBreaker
from review_service.api.routes import routes
from review_service.insight import summaries
from review_service.insight.summaries import GeneratedSummary
from review_service.response_cache import VersionedResponseCache
from review_service.reviews.migration_task import Migrations
from review_service.schemas import RestaurantSummary
from review_service.settings import ReviewSettings

MODEL = "canned"


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    """In memory."""
    async with open_cache(ReviewSettings(_env_file=None), CollectorRegistry(), SharedBreaker()) as opened:
        yield opened


class Answer(BaseModel):
    """Says who computed it."""

    lane: str


async def test_a_user_does_not_wait_for_the_workers_computation(cache: Cache) -> None:
    """Requests of a lane share one; what either lane has computed is cached for both."""
    responses, computed = VersionedResponseCache(cache, 60), list[str]()
    begun, may_end = asyncio.Event(), asyncio.Event()

    def ask(lane: Lane) -> Awaitable[Any]:
        async def compute() -> Answer:
            computed.append(lane)
            if lane == "bulk":
                begun.set()
                await may_end.wait()
            return Answer(lane=lane)

        return responses.get_or_compute("a summary", "1", None, lane, compute)

    workers = [asyncio.ensure_future(ask("bulk")) for _ in range(2)]
    async with asyncio.timeout(60):
        await begun.wait()
        user = await ask("interactive")
    assert (user.headers["x-cache"], user.body) == ("miss", b'{"lane":"interactive"}')
    assert (await ask("bulk")).headers["x-cache"] == "hit"
    may_end.set()
    answers = await asyncio.gather(*workers)
    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "coalesced"]
    assert computed == ["bulk", "interactive"]


class Summarizer:
    """Has the same summary for each restaurant."""

    version = "1"

    def __init__(self, source: Literal["llm", "extracted"]) -> None:
        self.source = source

    async def summarize(self, restaurant_id: str, *, priority: int = 0) -> GeneratedSummary:
        """Summarise nothing."""
        summary = RestaurantSummary(
            restaurant_id=restaurant_id,
            overall_summary="",
            positive_summary="",
            negative_summary="",
            evidence=[],
            source=self.source,
            review_count=0,
        )
        return GeneratedSummary(summary, MODEL)


async def same_version(_: str) -> str:
    return "1"


def app_of(cache: Cache, summarizer: Summarizer, migrations: Migrations) -> FastAPI:
    """An app with the routes, which knows of nothing but summaries."""
    app = FastAPI()
    app.include_router(routes())
    app.state.service = SimpleNamespace(
        table_versions=SimpleNamespace(of_restaurant=same_version),
        restaurant_statistics=SimpleNamespace(version="1"),
        model_watcher=SimpleNamespace(model=lambda: MODEL),
        summarizer=summarizer,
        migrations=migrations,
        response_cache=VersionedResponseCache(cache, 60),
        popularity=SimpleNamespace(restaurants=SimpleNamespace(record=lambda _: None)),
        metrics=SimpleNamespace(record=lambda _: None),
    )
    return app


async def states_of(app: FastAPI, count: int = 2) -> list[str]:
    """Whether the answers to some requests for a summary were cached."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://review") as client:
        return [(await client.get("/v1/restaurants/a/summary")).headers["x-cache"] for _ in range(count)]


@pytest.mark.parametrize(
    ("source", "complete", "states"),
    [
        ("extracted", False, ["miss", "miss"]),
        ("extracted", True, ["miss", "hit"]),
        ("llm", False, ["miss", "hit"]),
    ],
)
async def test_what_is_extracted_from_some_of_the_clauses_is_not_cached(
    cache: Cache, source: Literal["llm", "extracted"], complete: bool, states: list[str]
) -> None:
    """The restaurant's version stays the same when its other reviews get theirs. What the LLM has written is final."""
    migrations = Migrations()
    migrations.clauses.complete = complete
    assert await states_of(app_of(cache, Summarizer(source), migrations)) == states


async def test_a_summary_of_other_clauses_or_by_another_prompt_is_not_found(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start with other words of the operator or another analyzer, the same reviews have other clauses."""
    migrations = Migrations()
    migrations.clauses.complete = True
    for clauses_version in ("one", "other"):
        summarizer = Summarizer("extracted")
        summarizer.version = summaries.Summarizer(None, None, clauses_version).version  # type: ignore[arg-type]
        assert await states_of(app_of(cache, summarizer, migrations)) == ["miss", "hit"]
    monkeypatch.setattr(summaries, "PROMPT_VERSION", 0)
    summarizer.version = summaries.Summarizer(None, None, "other").version  # type: ignore[arg-type]
    assert await states_of(app_of(cache, summarizer, migrations)) == ["miss", "hit"]
