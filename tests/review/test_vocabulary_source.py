"""The terms of the stored reviews, counted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from review_service.errors import StoreDamaged
from review_service.reviews.store import ReviewStore, open_store
from review_service.search.vocabulary_source import VocabularySource
from review_service.words.vocabulary import Vocabulary
from tests.review.test_store import put


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ReviewStore]:
    """An empty one."""
    async with open_store(str(tmp_path)) as opened:
        yield opened


async def next_after(source: VocabularySource, counted: Vocabulary) -> Vocabulary:
    for _ in range(2000):
        if (now := await source.current()) is not counted:
            return now
        await asyncio.sleep(0.01)
    raise AssertionError("the terms were not counted again")


async def test_terms_are_counted_again_when_there_are_many_more_reviews(store: ReviewStore) -> None:
    """Each review counts once for a term; the vocabulary is kept while hardly any reviews come or go."""
    source = VocabularySource(store)
    assert (await source.current()).reviews == 0
    await put(store, range(40), text="주차 주차 주차가 편해요")
    counted = await source.current()
    assert (counted.reviews, counted.count("주차"), counted.count("편하다")) == (40, 40, 40)
    await put(store, [40, 41])
    assert await source.current() is counted
    await put(store, [42], text="만두가 바삭해요")
    assert await source.current() is counted  # Nobody waits for the new one.
    again = await next_after(source, counted)
    assert (again.reviews, again.count("주차"), again.count("만두")) == (43, 42, 1)
    await source.close()


async def test_the_older_vocabulary_is_used_while_there_can_be_no_newer(store: ReviewStore) -> None:
    """Searches go on, and each time that they do counting is tried again; without any it is an error."""
    await put(store, range(40))
    source = VocabularySource(store)
    counted = await source.current()
    await put(store, range(40, 80))
    tried = 0

    async def fail(*_: object, **__: object) -> None:
        nonlocal tried
        tried += 1
        raise StoreDamaged("away")

    store.read = fail  # type: ignore[assignment,method-assign]
    while tried < 3:
        assert await source.current() is counted
        await asyncio.sleep(0.01)
    await source.close()
    with pytest.raises(StoreDamaged):
        await VocabularySource(store).current()
