"""What a search reads from the store, and what it makes of it."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lancedb.table import AsyncTable

from review_service.model_services import EmbeddedTexts
from review_service.reviews.hits import Hit
from review_service.reviews.store import ReviewStore, open_store
from review_service.schemas import Mode, SearchRequest, SearchResponse
from review_service.search.cosine_scale import CosineScales
from review_service.search.searcher import Searcher
from review_service.search.vocabulary_source import VocabularySource
from review_service.search.word_files import WordFiles
from tests.review.support import analyzer
from tests.review.test_store import MODEL, SIZE, judged

FAR = 40
"""Angle in degrees between the vector of every query and that of a review which is not near."""


class Encoder:
    """Gives every query the same vector."""

    async def embed(self, texts: Sequence[str], *_: Any) -> EmbeddedTexts:
        """Embed texts: the first one along the first axis."""
        return EmbeddedTexts(np.eye(SIZE, dtype=np.float32)[: len(texts)], MODEL)


async def put(store: ReviewStore, texts: Sequence[str], degrees: float = FAR, first: int = 0) -> None:
    """Store texts whose vectors lie at an angle to that of every query."""
    vector = np.zeros(SIZE, np.float32)
    vector[0], vector[-1] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    reviews = [judged(first + place, text=text) for place, text in enumerate(texts)]
    await store.upsert(reviews, EmbeddedTexts(np.tile(vector, (len(texts), 1)), MODEL))


async def searcher_of(store: ReviewStore) -> Searcher:
    vocabulary, encoder = VocabularySource(store), Encoder()
    await vocabulary.refresh()
    return Searcher(store, encoder, analyzer(), vocabulary, WordFiles(None), CosineScales(encoder))


async def search(store: ReviewStore, query: str, mode: Mode = "hybrid", **fields: Any) -> SearchResponse:
    """Search with a service that has just started."""
    searcher = await searcher_of(store)
    request = SearchRequest(query=query, mode=mode, **fields)
    return await searcher.search(request, *await searcher.parse(query), "interactive")


def ids(found: SearchResponse) -> list[str]:
    return [one.review.review_id for one in found.data]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ReviewStore]:
    """An empty one."""
    async with open_store(str(tmp_path)) as opened:
        yield opened


@pytest.mark.parametrize(("mode", "count"), [("keyword", 1), ("vector", 1), ("hybrid", 2)])
async def test_what_a_search_finds_is_not_read_again(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch, mode: Mode, count: int
) -> None:
    """One query of LanceDB finds by words and one by meaning."""
    await put(store, ["주차가 편해요", "국물이 진해요"])
    queries, query_of = [], AsyncTable.query

    def counted(table: AsyncTable) -> Any:
        queries.append(table)
        return query_of(table)

    searcher = await searcher_of(store)
    request, parsed = SearchRequest(query="주차", mode=mode), await searcher.parse("주차")
    monkeypatch.setattr(AsyncTable, "query", counted)
    assert ids(await searcher.search(request, *parsed, "interactive"))[0] == "r-0"
    assert len(queries) == count


@pytest.mark.parametrize("mode", ["keyword", "vector", "hybrid"])
async def test_a_review_that_goes_meanwhile_is_returned_as_it_was_found(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """No result is lost between two reads."""
    await put(store, ["주차가 편해요"])
    found: dict[str, Any] = {"keyword_search": store.keyword_search, "vector_search": store.vector_search}

    def and_delete(name: str) -> Any:
        async def find(*given: Any, **named: Any) -> list[Hit]:
            hits: list[Hit] = await found[name](*given, **named)
            await store.delete("r-0")
            return hits

        return find

    for name in found:
        monkeypatch.setattr(store, name, and_delete(name))
    [one] = (await search(store, "주차", mode)).data
    assert (one.review.text, one.review.sentiment, one.review.rating) == ("주차가 편해요", "positive", None)
