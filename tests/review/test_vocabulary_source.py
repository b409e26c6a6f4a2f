"""The terms of the stored reviews, counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from review_service.errors import StoreDamaged
from review_service.reviews.migration_task import migrate_terms
from review_service.reviews.migrations import MigrationProgress
from review_service.reviews.store import ReviewStore, open_store
from review_service.search import vocabulary_source
from review_service.search.vocabulary_source import VocabularySource, running_vocabulary
from review_service.words import vocabulary
from tests.review.support import OtherAnalyzer
from tests.review.test_store import put


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ReviewStore]:
    """An empty one."""
    async with open_store(str(tmp_path)) as opened:
        yield opened


async def test_terms_are_counted_again_when_there_are_many_more_reviews(store: ReviewStore) -> None:
    """Each review counts once for a term; the vocabulary is kept while hardly any reviews come or go."""
    source = VocabularySource(store)
    await source.refresh()
    assert source.current.reviews == 0
    await put(store, range(40), text="주차 주차 주차가 편해요")
    await source.refresh()
    counted = source.current
    assert (counted.reviews, counted.count("주차"), counted.count("편하다")) == (40, 40, 40)
    assert counted.mean_length == 4
    await put(store, [40, 41])
    await source.refresh()
    assert source.current is counted
    await put(store, [42], text="만두가 바삭해요")
    await source.refresh()
    again = source.current
    assert (again.reviews, again.count("주차"), again.count("만두")) == (43, 42, 1)


async def test_a_count_takes_apart_only_what_is_new(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays is looked for by its letters as well as what has come, and what has gone is not."""
    letters, taken = vocabulary._letters, list[str]()

    def recorded(word: str) -> str:
        taken.append(word)
        return letters(word)

    monkeypatch.setattr(vocabulary, "_letters", recorded)
    source = VocabularySource(store)
    await put(store, range(4), text="부대찌개가 얼큰해요")
    await put(store, range(4, 8), text="김치찌개가 얼큰해요")
    await source.refresh()
    assert {"부대찌개", "김치찌개", "찌개"} <= set(taken)
    taken.clear()
    await put(store, range(4), text="해물칼국수가 시원해요")
    await source.refresh()
    assert "해물칼국수" in taken
    assert {"김치찌개", "찌개", "얼큰하다"}.isdisjoint(taken)
    found = {
        word: [near.term for near in source.current.near(word, 3)] for word in ("김치찌게", "헤물칼극수", "부대찌게")
    }
    assert found == {"김치찌게": ["김치찌개"], "헤물칼극수": ["해물칼국수"], "부대찌게": []}


async def test_terms_are_counted_before_the_first_search_and_after_writes_of_others(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any search; a second count is not waited for."""
    monkeypatch.setattr(vocabulary_source, "POLL_SECONDS", 0.01)
    await put(store, range(3))
    async with running_vocabulary(store) as source:
        assert source.current.reviews == 3
        await put(store, range(3, 9))
        for _ in range(6000):
            if source.current.reviews == 9:
                break
            await asyncio.sleep(0.01)
        assert source.current.reviews == 9


async def replace_all(store: ReviewStore) -> None:
    await put(store, range(40), text="만두가 바삭해요")


async def exchange(store: ReviewStore) -> None:
    for number in range(3):
        assert await store.delete(f"r-{number}")
    await put(store, [40, 41, 42], text="만두가 바삭해요")


@pytest.mark.parametrize("by_others", [False, True], ids=["here", "in another process"])
@pytest.mark.parametrize(("write", "count"), [(replace_all, 40), (exchange, 3)], ids=["replaced", "exchanged"])
async def test_terms_are_counted_again_when_there_are_as_many_other_reviews(
    store: ReviewStore, tmp_path: Path, write: Callable[[ReviewStore], Awaitable[None]], count: int, by_others: bool
) -> None:
    """Whoever has replaced reviews, or has deleted some and added as many."""
    await put(store, range(40))
    source = VocabularySource(store)
    await source.refresh()
    async with open_store(str(tmp_path)) as other:
        await write(other if by_others else store)
    await source.refresh()
    found = source.current
    assert (found.reviews, found.count("주차"), found.count("만두")) == (40, 40 - count, count)


async def test_a_table_that_is_emptied_has_no_terms(store: ReviewStore) -> None:
    """As before the first import."""
    await put(store, range(2))
    source = VocabularySource(store)
    await source.refresh()
    assert source.current.reviews == 2
    for number in range(2):
        assert await store.delete(f"r-{number}")
    await source.refresh()
    assert (source.current.reviews, source.current.count("주차")) == (0, 0)


async def test_a_large_table_is_neither_compared_nor_counted_all_the_time(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its interval, and what has not changed is not read at all."""
    await put(store, range(40))
    source = VocabularySource(store)
    await source.refresh()
    monkeypatch.setattr(vocabulary_source, "SMALL_ROWS", 10)
    read, read_columns = store.read, list[Sequence[str]]()

    async def recorded(columns: Sequence[str], **rest: Any) -> Any:
        read_columns.append(columns)
        return await read(columns, **rest)

    monkeypatch.setattr(store, "read", recorded)
    await put(store, range(40), text="만두가 바삭해요")
    for name in ("MIN_RECOUNT_SECONDS", "MIN_COMPARE_SECONDS"):
        with monkeypatch.context() as rarely:
            rarely.setattr(vocabulary_source, name, 1e9)
            await source.refresh()
        assert read_columns == []
    for name in ("MIN_RECOUNT_SECONDS", "MIN_COMPARE_SECONDS"):
        monkeypatch.setattr(vocabulary_source, name, 0.0)
    await source.refresh()
    assert source.current.count("만두") == 40
    assert len(read_columns) == 2
    await source.refresh()
    assert len(read_columns) == 2


async def test_terms_are_counted_again_after_a_migration(store: ReviewStore) -> None:
    """The number of reviews is the same, and their terms are not."""
    await put(store, range(3))
    source = VocabularySource(store)
    await source.refresh()
    assert (source.current.count("주차"), source.current.count("새말")) == (3, 0)
    await migrate_terms(store, OtherAnalyzer(), MigrationProgress())  # type: ignore[arg-type]
    await source.refresh()
    assert (source.current.count("주차"), source.current.count("새말")) == (0, 3)


async def test_the_older_vocabulary_is_used_while_there_can_be_no_newer(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches go on, and counting is tried again."""
    await put(store, range(40))
    source = VocabularySource(store)
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
