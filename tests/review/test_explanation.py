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


async def test_a_term_weighs_what_a_search_makes_of_it(store: ReviewStore) -> None:
    """As much as the most frequent of its synonyms, in the query and in the score of a review of average length."""
    await put(store, [*["직원이 편해요"] * 20, "점원이 편해요", *["친절한 국물"] * 20])
    searcher = await searcher_of(store)
    told = await Explainer(searcher).explain(ExplainRequest(query="점원", review_id="r-0"), "interactive")
    query, vocabulary = await searcher.parse("점원")
    assert told.review is not None
    assert "직원" in told.terms[0].synonyms
    assert told.terms[0].weight < vocabulary.weight("점원")
    assert told.terms[0].weight == pytest.approx(vocabulary.weight("직원"))
    assert query.weights(vocabulary)["직원"] == told.terms[0].weight
    assert "직원" in told.review.matched


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
