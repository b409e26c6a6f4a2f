"""The embedding service answers with another model than the one whose vectors are stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onecard.batching.queue import Lane
from onecard.errors import Unavailable
from review_service.model_services import EmbeddedTexts
from review_service.reviews.store import ReviewStore, open_store
from review_service.schemas import Mode, SearchRequest, SearchResponse
from review_service.search.cosine_scale import CosineScales
from review_service.search.searcher import Searcher
from review_service.search.vocabulary_source import VocabularySource
from review_service.search.word_files import WordFiles
from tests.review.support import analyzer
from tests.review.test_store import SIZE, judged, vectors

STORED, OTHER = "a/encoder@r1", "a/encoder@r2"


class Encoders:
    """Replicas that answer in turn: models by request, with vectors of their sizes."""

    def __init__(self, *models: tuple[str, int]) -> None:
        self.models = list(models)
        self.lanes = list[Lane]()

    async def embed(self, texts: Sequence[str], lane: Lane, *_: Any) -> EmbeddedTexts:
        """Embed texts with the next model; the last one stays."""
        self.lanes.append(lane)
        model, size = self.models.pop(0) if len(self.models) > 1 else self.models[0]
        return EmbeddedTexts(np.eye(size, dtype=np.float32)[: len(texts)], model)


async def search(store: ReviewStore, encoders: Encoders, mode: Mode, lane: Lane = "interactive") -> SearchResponse:
    """Search for «주차» with a service that has just started."""
    vocabulary = VocabularySource(store)
    await vocabulary.refresh()
    searcher = Searcher(store, encoders, analyzer(), vocabulary, WordFiles(None), CosineScales(encoders))
    return await searcher.search(SearchRequest(query="주차", mode=mode), *await searcher.parse("주차"), lane)


@pytest.mark.parametrize(
    "encoders",
    [
        Encoders((OTHER, SIZE)),
        Encoders((OTHER, 2 * SIZE)),
        Encoders((STORED, SIZE), (STORED, SIZE), (OTHER, 2 * SIZE)),
        Encoders((STORED, SIZE), (OTHER, SIZE)),
    ],
    ids=["another revision", "another size", "changed between the scale's texts", "changed after the query"],
)
async def test_a_search_with_another_model_goes_on_by_words(tmp_path: Path, encoders: Encoders) -> None:
    """And says so; by vectors alone it is refused, as an import is. Nothing is compared across models."""
    before = list(encoders.models)
    async with open_store(str(tmp_path)) as store:
        await store.upsert([judged(1)], EmbeddedTexts(vectors(1), STORED))
        found = await search(store, encoders, "hybrid")
        assert found.degraded
        assert [one.review.review_id for one in found.data] == ["r-1"]
        encoders.models = before
        with pytest.raises(Unavailable):
            await search(store, encoders, "vector")
        with pytest.raises(Unavailable, match="another model"):
            await store.upsert([judged(2)], EmbeddedTexts(vectors(1), OTHER))


async def test_a_model_that_comes_back_is_used_again(tmp_path: Path) -> None:
    """Its vectors are still there."""
    async with open_store(str(tmp_path)) as store:
        await store.upsert([judged(1)], EmbeddedTexts(vectors(1), STORED))
        assert not (await search(store, Encoders((STORED, SIZE)), "hybrid")).degraded


async def test_the_workers_search_computes_a_models_scale_as_users_do(tmp_path: Path) -> None:
    """All searches wait for it; the query itself stays in the worker's lane."""
    async with open_store(str(tmp_path)) as store:
        await store.upsert([judged(1)], EmbeddedTexts(vectors(1), STORED))
        encoders = Encoders((STORED, SIZE))
        await search(store, encoders, "vector", "bulk")
        assert encoders.lanes == ["bulk", "interactive", "interactive"]
