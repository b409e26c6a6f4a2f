"""The terms of the stored reviews, counted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from review_service.errors import StoreDamaged
from review_service.reviews.migration_task import migrate_terms
from review_service.reviews.migrations import MigrationProgress
from review_service.reviews.store import ReviewStore, open_store
from review_service.search import vocabulary_source
from review_service.search.vocabulary_source import VocabularySource, running_vocabulary
from tests.review.support import OtherAnalyzer
from tests.review.test_store import put


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ReviewStore]:
    """An empty one."""
    async with open_store(str(tmp_path)) as opened:
        yield opened


async def test_terms_are_counted_again_when_there_are_many_more_reviews(store: ReviewStore) -> None:
    """Each review counts once for a term; the vocabulary is kept while hardly any reviews come or go."""
    source = VocabularySource(store, MigrationProgress())
    await source.refresh()
    assert source.current.reviews == 0
    await put(store, range(40), text="주차 주차 주차가 편해요")
    await source.refresh()
    counted = source.current
    assert (counted.reviews, counted.count("주차"), counted.count("편하다")) == (40, 40, 40)
    await put(store, [40, 41])
    await source.refresh()
    assert source.current is counted
    await put(store, [42], text="만두가 바삭해요")
    await source.refresh()
    again = source.current
    assert (again.reviews, again.count("주차"), again.count("만두")) == (43, 42, 1)


async def test_terms_are_counted_before_the_first_search_and_after_writes_of_others(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any search; a second count is not waited for."""
    monkeypatch.setattr(vocabulary_source, "POLL_SECONDS", 0.01)
    await put(store, range(3))
    async with running_vocabulary(store, MigrationProgress()) as source:
        assert source.current.reviews == 3
        await put(store, range(3, 9))
        for _ in range(6000):
            if source.current.reviews == 9:
                break
            await asyncio.sleep(0.01)
        assert source.current.reviews == 9


async def test_terms_are_counted_again_after_a_migration(store: ReviewStore) -> None:
    """The number of reviews is the same, and their terms are not."""
    await put(store, range(3))
    progress = MigrationProgress()
    source = VocabularySource(store, progress)
    await source.refresh()
    assert (source.current.count("주차"), source.current.count("새말")) == (3, 0)
    await migrate_terms(store, OtherAnalyzer(), progress)  # type: ignore[arg-type]
    await source.refresh()
    assert (source.current.count("주차"), source.current.count("새말")) == (0, 3)


async def test_the_older_vocabulary_is_used_while_there_can_be_no_newer(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches go on, and counting is tried again."""
    await put(store, range(40))
    source = VocabularySource(store, MigrationProgress())
    await source.refresh()
    counted = source.current
    await put(store, range(40, 80))

    async def fail(*_: object, **__: object) -> None:
        raise StoreDamaged("away")

    with monkeypatch.context() as broken:
        broken.setattr(store, "read", fail)
        await source.refresh()
    assert source.current is counted
    await source.refresh()
    assert source.current.reviews == 80
