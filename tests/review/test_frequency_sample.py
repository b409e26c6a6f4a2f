"""The sample by which rare words are told from common ones."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from review_service.errors import StoreDamaged
from review_service.reviews.store import ReviewStore, open_store
from review_service.search.frequency_sample import DocumentFrequencySample
from tests.review.test_store import put


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ReviewStore]:
    """An empty one."""
    async with open_store(str(tmp_path)) as opened:
        yield opened


async def test_a_sample_is_drawn_anew_when_there_are_many_more_reviews(store: ReviewStore) -> None:
    """At even distances, over all of them; it is kept while hardly any come or go."""
    sampled = DocumentFrequencySample(store)
    assert (await sampled.frequencies()).rarest_frequencies("주차", {1: "주차"}) == {1: 0}
    await put(store, range(40))
    assert [text.split()[-1] for text in await store.sample_texts(40, 15)] == [
        str(place * 40 // 15) for place in range(15)
    ]
    drawn = await sampled.frequencies()
    assert drawn.frequency("주차") == 1
    await put(store, [40, 41])
    assert await sampled.frequencies() is drawn
    await put(store, [42], text="조용해요")
    assert await sampled.frequencies() is drawn  # Nobody waits for the new one.
    for _ in range(500):
        if (now := await sampled.frequencies()) is not drawn:
            break
        await asyncio.sleep(0.01)
    assert now.frequency("주차") == 41 / 42
    await sampled.close()


async def test_an_older_sample_is_used_while_there_can_be_no_newer(store: ReviewStore) -> None:
    """Searches go on, and each time that they do a new one is tried."""
    await put(store, range(40))
    sampled = DocumentFrequencySample(store)
    drawn = await sampled.frequencies()
    await put(store, range(40, 80))

    async def fail(rows: int, most: int) -> list[str]:
        tried.append(rows)
        raise StoreDamaged("away")

    tried: list[int] = []
    store.sample_texts = fail  # type: ignore[method-assign]
    while len(tried) < 3:
        assert await sampled.frequencies() is drawn
        await asyncio.sleep(0.01)
    await sampled.close()
    with pytest.raises(StoreDamaged):
        await DocumentFrequencySample(store).frequencies()
