"""What explaining a search costs, and when it ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from fastapi.routing import APIRoute
from lancedb.table import AsyncTable

from onecard.web.disconnect import ClientDisconnected
from review_service.api import routes
from review_service.reviews.store import ReviewStore, open_store
from review_service.schemas import ExplainRequest
from review_service.search.explanation import Explainer
from tests.review.test_searcher import put, searcher_of


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ReviewStore]:
    """An empty one."""
    async with open_store(str(tmp_path)) as opened:
        yield opened


@pytest.mark.parametrize("words", [1, 270])
async def test_a_review_is_read_and_searched_once_however_long_the_query_is(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    """Not once for each of its terms."""
    await put(store, [" ".join(f"{number}번" for number in range(40))])
    explainer = Explainer(await searcher_of(store))
    queries, query_of = [], AsyncTable.query

    def counted(table: AsyncTable) -> Any:
        queries.append(table)
        return query_of(table)

    monkeypatch.setattr(AsyncTable, "query", counted)
    text = " ".join(map(str, range(words)))
    told = await explainer.explain(ExplainRequest(query=text, review_id="r-0"), "interactive")
    assert told.review is not None
    assert told.review.matched
    assert len(queries) == 3


async def test_nothing_is_explained_to_a_client_that_has_gone() -> None:
    """Its request is cancelled, whatever it waits for."""
    [route] = [
        route
        for route in routes.routes().routes
        if isinstance(route, APIRoute) and route.path == "/v1/reviews/search/explain"
    ]
    asked = asyncio.Event()

    class Searcher:
        async def parse(self, text: str) -> Any:
            asked.set()
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asked.wait()
        return {"type": "http.disconnect"}

    app = SimpleNamespace(state=SimpleNamespace(service=SimpleNamespace(searcher=Searcher())))
    request = Request({"type": "http", "headers": [], "app": app, "state": {}}, receive)
    with pytest.raises(ClientDisconnected):
        async with asyncio.timeout(60):
            await route.endpoint(ExplainRequest(query="국물"), request)
