"""Hybrid searches while the embedding service is away, without a network."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from tenacity import wait_none

from onecard.batching.queue import Lane
from onecard.errors import TooBusy, Unavailable
from onecard.redis.circuit_breaker import MAX_BACKOFF_SECONDS
from review_service import model_services
from review_service.model_services import MAX_ATTEMPTS, EmbeddedTexts, ModelService, ModelServices
from review_service.reviews.store import open_store
from review_service.schemas import SearchRequest
from review_service.search import query_embedder
from review_service.search.cosine_scale import CosineScales
from review_service.search.query_embedder import QueryEmbedder
from review_service.search.searcher import Searcher
from review_service.search.vocabulary_source import VocabularySource
from review_service.search.word_files import WordFiles
from tests.review.support import analyzer
from tests.review.test_store import SIZE, judged, vectors

MODEL = "a/encoder"


class Encoder:
    """The embedding service's replicas: each answers what it is told to, a status or the failure to reach it."""

    def __init__(self, *replicas: str) -> None:
        self.says: dict[str, int | type[httpx.TransportError]] = dict.fromkeys(replicas, 200)
        self.asked = list[str]()
        """The replicas that were asked, in order."""
        self.begun, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, when that is allowed."""
        self.asked.append(request.url.host)
        self.begun.set()
        await self.may_answer.wait()
        says = self.says[request.url.host]
        if not isinstance(says, int):
            raise says("")
        texts = json.loads(request.content)["input"]
        rows = np.eye(SIZE, dtype="<f4")[: len(texts)]
        data = [{"embedding": base64.b64encode(row.tobytes()).decode()} for row in rows]
        return httpx.Response(says, json={"data": data, "model": MODEL})


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


@asynccontextmanager
async def services(encoder: Encoder) -> AsyncIterator[ModelServices]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(encoder.answer)) as client:
        service = ModelService("embedding", [f"http://{replica}" for replica in encoder.says], client)
        yield ModelServices(embedding=service, sentiment=service, llm=service, llm_headers={})


@asynccontextmanager
async def searching(encoder: Encoder, clock: Clock, folder: Path) -> AsyncIterator[Searcher]:
    """A searcher of one review, which knows the model's scale already."""
    async with services(encoder) as models, open_store(str(folder)) as store:
        await store.upsert([judged(1)], EmbeddedTexts(vectors(1), MODEL))
        vocabulary, scales = VocabularySource(store), CosineScales(models)
        await vocabulary.refresh()
        await scales.scale(MODEL)
        encoder.asked.clear()
        embedder = QueryEmbedder(models, clock)
        yield Searcher(store, models, analyzer(), vocabulary, WordFiles(None), scales, embedder)


async def is_degraded(searcher: Searcher, lane: Lane = "interactive") -> bool:
    found = await searcher.search(SearchRequest(query="주차"), *await searcher.parse("주차"), lane)
    assert [hit.review.review_id for hit in found.data] == ["r-1"]
    return found.degraded


@pytest.mark.parametrize("fault", [httpx.ConnectError, httpx.ReadTimeout, 503])
async def test_searches_go_on_by_words_at_once_while_the_encoder_is_away(
    tmp_path: Path, fault: int | type[httpx.TransportError]
) -> None:
    """The first one makes one attempt, the others none until some time has passed; then they have vectors again."""
    encoder, clock = Encoder("one"), Clock()
    async with searching(encoder, clock, tmp_path) as searcher:
        assert not await is_degraded(searcher)
        encoder.says["one"] = fault
        encoder.asked.clear()
        assert [await is_degraded(searcher) for _ in range(10)] == [True] * 10
        assert len(encoder.asked) == 1
        clock.now += MAX_BACKOFF_SECONDS
        assert [await is_degraded(searcher) for _ in range(10)] == [True] * 10
        assert len(encoder.asked) == 2
        encoder.says["one"] = 200
        assert await is_degraded(searcher)
        clock.now += MAX_BACKOFF_SECONDS
        assert not await is_degraded(searcher)


async def test_one_search_at_a_time_tries_an_encoder_that_was_away(tmp_path: Path) -> None:
    """The others do not wait for it; one whose client leaves while it tries leaves the next try to another."""
    encoder, clock = Encoder("one"), Clock()
    async with searching(encoder, clock, tmp_path) as searcher:
        encoder.says["one"] = 503
        assert await is_degraded(searcher)
        encoder.says["one"] = 200
        encoder.may_answer.clear()
        for leaves in (True, False):
            encoder.asked.clear()
            encoder.begun.clear()
            clock.now += MAX_BACKOFF_SECONDS
            trying = asyncio.create_task(is_degraded(searcher))
            await encoder.begun.wait()
            assert await is_degraded(searcher)
            if leaves:
                trying.cancel()
                await asyncio.wait([trying])
        encoder.may_answer.set()
        assert not await trying
        assert encoder.asked == ["one"]


async def test_an_encoder_that_hangs_is_waited_for_by_one_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for long."""
    monkeypatch.setattr(query_embedder, "QUERY_SECONDS", 0.05)
    encoder, clock = Encoder("one"), Clock()
    async with searching(encoder, clock, tmp_path) as searcher:
        encoder.may_answer.clear()
        assert [await is_degraded(searcher) for _ in range(3)] == [True] * 3
        assert len(encoder.asked) == 1


async def test_a_busy_encoder_is_asked_once_for_each_search(tmp_path: Path) -> None:
    """It answers some: the next search asks again."""
    encoder, clock = Encoder("one"), Clock()
    async with searching(encoder, clock, tmp_path) as searcher:
        encoder.says["one"] = 429
        assert [await is_degraded(searcher) for _ in range(3)] == [True] * 3
        assert len(encoder.asked) == 3
        encoder.says["one"] = 200
        assert not await is_degraded(searcher)


async def test_the_worker_waits_for_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its degraded answers would be of no use."""
    monkeypatch.setattr(model_services, "wait_random_exponential", lambda **_: wait_none())
    encoder, clock = Encoder("one"), Clock()
    async with searching(encoder, clock, tmp_path) as searcher:
        encoder.says["one"] = 503
        assert await is_degraded(searcher, "bulk")
        assert len(encoder.asked) == MAX_ATTEMPTS


@pytest.mark.parametrize("fault", [httpx.ConnectError, httpx.ConnectTimeout, 503, 429])
async def test_a_replica_that_is_away_leaves_the_next_one_at_once(fault: int | type[httpx.TransportError]) -> None:
    """Each is asked once."""
    encoder = Encoder("one", "other")
    async with services(encoder) as models:
        encoder.says["one"] = fault
        assert (await models.embed(["주차"], "interactive", "query", seconds=60)).model == MODEL
        assert encoder.asked == ["one", "other"]
        encoder.says["other"] = fault
        with pytest.raises(TooBusy if fault == 429 else Unavailable):
            await models.embed(["주차"], "interactive", "query", seconds=60)
        assert sorted(encoder.asked[2:]) == ["one", "other"]
