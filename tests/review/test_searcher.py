"""What a search reads from the store, and what it makes of it."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lancedb.table import AsyncTable

from onecard.errors import InvalidRequest
from review_service.model_services import EmbeddedTexts
from review_service.reviews.hits import Hit
from review_service.reviews.rows import Filters
from review_service.reviews.store import ReviewStore, open_store
from review_service.schemas import ExplainedReview, ExplainRequest, Mode, SearchRequest, SearchResponse
from review_service.search.cosine_scale import CosineScales
from review_service.search.explanation import Explainer
from review_service.search.searcher import Searcher, SearchPlan
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


async def explained(store: ReviewStore, query: str, review_id: str) -> ExplainedReview:
    """Why a review has its score."""
    request = ExplainRequest(query=query, review_id=review_id)
    review = (await Explainer(await searcher_of(store)).explain(request, "interactive")).review
    assert review is not None
    return review


async def test_bm25_is_that_of_the_index(store: ReviewStore) -> None:
    """Of short and long reviews, with rare and frequent words, also such as come several times."""
    texts = ["주차", "주차 주차 주차", "주차가 편하고 국물이 진하고 직원이 친절해요", "국물이 진해요", "국물 국물 맛집"]
    await put(store, [*texts, *["친절해요"] * 20])
    searcher = await searcher_of(store)
    for query in ("주차", "주차 편한 집", "진한 국물", "친절한 직원"):
        plan = SearchPlan(*await searcher.parse(query), Filters(), "keyword", 50)
        hits = await store.keyword_search(dict.fromkeys(plan.weights, 1.0), Filters(), 50)
        own = [sum(plan.term_scores(hit.terms.split()).values()) for hit in hits]
        assert own == pytest.approx([hit.score for hit in hits], rel=1e-4)
        assert own


@pytest.mark.parametrize(
    ("start", "opposed"), [("주차가 편하고", False), ("주차는 안 편하고", True)], ids=["the same", "the opposite"]
)
async def test_a_score_does_not_depend_on_what_else_is_found(store: ReviewStore, start: str, opposed: bool) -> None:
    """Many reviews have more of the query's words, so that a longer one is found by its meaning alone."""
    await put(store, ["주차 편해요"] * 150)
    long = "국물이 진하고 직원이 친절하고 김치가 시원하고 고기가 부드럽고 창밖으로 바다가 보이고 반찬이 많아요"
    await put(store, [f"{start} {long}"], degrees=0, first=150)
    found = await search(store, "주차 편한 집")
    [score] = [one.score for one in found.data if one.review.review_id == "r-150"]
    told = await explained(store, "주차 편한 집", "r-150")
    assert told.score == pytest.approx(score, abs=1e-6)
    assert told.words > 0
    assert bool(told.opposites) == opposed
    assert "r-150" not in ids(await search(store, "주차 편한 집", "keyword", top_k=100))


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
async def test_a_rare_synonym_is_no_better_than_the_word(store: ReviewStore, mode: Mode) -> None:
    """More reviews have the synonym than there are candidates, and one has the word itself twice."""
    await put(store, ["국물이 진해요"] * 400, first=1000)
    await put(store, ["점원이 친절해요"] * 120, first=500)
    await put(store, ["직원이 친절해요"] * 200)
    await put(store, ["직원 직원"], first=400)
    assert ids(await search(store, "직원", mode, top_k=5))[0] == "r-400"
    assert (await explained(store, "직원", "r-0")).words == (await explained(store, "직원", "r-500")).words > 0


async def test_a_query_has_at_most_eight_phrases(store: ReviewStore) -> None:
    """Each costs a look into every text. The same one may come more often."""
    await put(store, [" ".join(f"{number}번" for number in range(9))])
    searcher = await searcher_of(store)
    phrases = [f'"{number}번"' for number in range(9)]
    assert ids(await search(store, " ".join([*phrases[:8], *phrases[:8]]), min_score=0)) == ["r-0"]
    with pytest.raises(InvalidRequest, match="more than 8 different phrases"):
        await searcher.parse(" ".join(phrases))


async def test_a_search_by_vectors_needs_no_word_that_reviews_have(store: ReviewStore) -> None:
    """Its score is the scaled cosine alone; a hybrid search takes such a query for nonsense."""
    await put(store, ["주차가 편해요"])
    [one] = (await search(store, "뙑뙑뙑뙑", "vector")).data
    scale = await CosineScales(Encoder()).scale(MODEL)
    assert one.score == pytest.approx(scale.score(np.cos(np.radians(FAR))), abs=1e-5)
    assert ids(await search(store, "뙑뙑뙑뙑")) == []


@pytest.mark.parametrize(("query", "found"), [("🍕🍕", ["r-0"]), ("....,,,,;;;;", [])])
async def test_a_query_without_words_is_searched_by_its_pictures(
    store: ReviewStore, query: str, found: list[str]
) -> None:
    """An emoji has a meaning, and no review needs to have it; keys that mean nothing find nothing."""
    await put(store, ["주차가 편해요"])
    assert ids(await search(store, query)) == found
