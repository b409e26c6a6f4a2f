"""Versions of reviews, on a real LanceDB."""

from dataclasses import replace
from pathlib import Path

import pytest

from review_service.model_services import EmbeddedTexts, Prediction
from review_service.reviews.index_maintenance import maintain
from review_service.reviews.store import ReviewStore, open_store
from review_service.reviews.table_versions import TableVersions
from tests.review.test_store import MODEL, judged, put, vectors


async def both(store: ReviewStore) -> tuple[str, str]:
    """Versions of restaurant a's reviews and of all."""
    versions = TableVersions(store)
    return await versions.of_restaurant("a"), await versions.of_all()


async def test_each_write_makes_a_version_for_those_it_is_about(tmp_path: Path) -> None:
    """An addition, a change and a deletion do; another restaurant's change nothing for this one."""
    async with open_store(str(tmp_path)) as store:
        seen = [await both(store)]
        await put(store, range(10))
        seen.append(await both(store))
        await put(store, [3], text="다시 썼어요")
        seen.append(await both(store))
        await store.delete("r-4")
        seen.append(await both(store))
        assert len({own for own, _ in seen}) == len({every for _, every in seen}) == 4
        await put(store, [20], restaurant_id="b")
        own, every = await both(store)
        assert own == seen[-1][0]
        assert every != seen[-1][1]


async def test_an_index_changes_no_restaurants_version(tmp_path: Path) -> None:
    """What is answered from its reviews is the same; whoever has a version in mind sees the next write all the same."""
    async with open_store(str(tmp_path)) as store:
        versions = TableVersions(store)
        await put(store, range(10))
        before = await versions.of_restaurant("a")
        await maintain(store, 1000)
        assert await versions.of_restaurant("a") == before
        await put(store, [11])
        assert await versions.of_restaurant("a") != before


async def test_two_tables_have_no_version_in_common(tmp_path: Path) -> None:
    """Also after as many writes, such as one that was lost and begun anew, and with the same reviews."""
    found: list[str] = []
    for name in ("one", "other"):
        async with open_store(str(tmp_path / name)) as store:
            await put(store, range(5))
            found += await both(store)
    assert len(set(found)) == 4


@pytest.mark.parametrize("other", [Prediction("positive", 0.7), Prediction("negative", 0.9)])
async def test_another_classifier_makes_another_version(tmp_path: Path, other: Prediction) -> None:
    """A restaurant whose reviews are deleted, and imported again as they were, has other counts."""
    async with open_store(str(tmp_path)) as store:
        await put(store, [0])
        before = await both(store)
        await store.delete("r-0")
        await store.upsert([replace(judged(0), prediction=other)], EmbeddedTexts(vectors(1), MODEL))
        assert not set(before) & set(await both(store))


async def test_another_process_is_not_missed(tmp_path: Path) -> None:
    """A replica on the same folder writes; this one's next version is another."""
    async with open_store(str(tmp_path)) as store, open_store(str(tmp_path)) as replica:
        await put(store, range(5))
        versions = TableVersions(store)
        before = await versions.of_restaurant("a")
        await put(replica, [7])
        assert await versions.of_restaurant("a") != before
