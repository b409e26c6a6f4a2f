"""How often all reviews are counted for the list of restaurants, on a real LanceDB."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from review_service.insight import restaurant_statistics, sentiment_counts
from review_service.insight.restaurant_statistics import RestaurantStatistics
from review_service.reviews.aspects import read_aspects
from review_service.reviews.store import ReviewStore, open_store
from tests.review.test_store import put


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ReviewStore]:
    """A store of four reviews of two restaurants."""
    async with open_store(str(tmp_path)) as opened:
        await put(opened, [1], restaurant_id="a")
        await put(opened, [2, 3, 4], restaurant_id="b")
        yield opened


@pytest.fixture
def reads(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The columns of each read of the store."""
    read, seen = store.read, list[Sequence[str]]()

    async def recorded(columns: Sequence[str], **rest: Any) -> Any:
        seen.append(columns)
        return await read(columns, **rest)

    monkeypatch.setattr(store, "read", recorded)
    return seen


async def ranked(statistics: RestaurantStatistics, first: Sequence[str] = ()) -> list[tuple[str, int]]:
    return [(each.restaurant_id, each.total_count) for each in await statistics.ranked(10, first)]


async def test_restaurants_are_counted_once_until_a_review_is_written(
    store: ReviewStore, reads: list[Sequence[str]]
) -> None:
    """Also for those who ask at the same time; who is popular is looked at each time."""
    statistics = RestaurantStatistics(store, read_aspects())
    together = await asyncio.gather(*(ranked(statistics) for _ in range(5)))
    assert together == [[("b", 3), ("a", 1)]] * 5
    assert await ranked(statistics, ["gone", "a", "a"]) == [("a", 1), ("b", 3)]
    assert len(reads) == 1
    await put(store, [5], restaurant_id="c")
    assert await store.delete("r-1")
    reads.clear()
    assert await ranked(statistics) == [("b", 3), ("c", 1)]
    assert await ranked(statistics) == [("b", 3), ("c", 1)]
    assert len(reads) == 1


async def test_all_reviews_are_counted_in_a_thread(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that searches are served meanwhile."""
    threads = list[threading.Thread]()
    for module in (sentiment_counts, restaurant_statistics):
        banded = module.banded

        def recorded(*given: Any, banded: Any = banded) -> Any:
            threads.append(threading.current_thread())
            return banded(*given)

        monkeypatch.setattr(module, "banded", recorded)
    statistics = RestaurantStatistics(store, read_aspects())
    assert await ranked(statistics) == [("b", 3), ("a", 1)]
    assert (await statistics.strengths("b")).strengths == []
    assert len(threads) == 3
    assert threading.main_thread() not in threads
