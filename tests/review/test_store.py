"""The store on a real LanceDB, in good weather and bad."""

import asyncio
import json
import shutil
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from lancedb.query import AsyncVectorQuery

from onecard.errors import Unavailable
from review_service.errors import StoreDamaged
from review_service.insight.sentiment_counts import count_all_restaurants, count_restaurant
from review_service.model_services import EmbeddedTexts, Prediction
from review_service.reviews import reader
from review_service.reviews.creation_lock import LOCK_FILE, creation_lock
from review_service.reviews.index_maintenance import MAX_FILES, maintain
from review_service.reviews.rows import (
    ClassifiedReview,
    Filters,
    digest_of,
)
from review_service.reviews.store import ReviewStore, open_store
from review_service.schemas import Review
from tests.review.support import analyzer, by_vector, by_words
from tests.support import eventually

SIZE = 32
MODEL = "test/encoder"
EVERYTHING = Filters()


def judged(number: int, **fields: Any) -> ClassifiedReview:
    """Review `number`; an odd one is negative."""
    given = {"review_id": f"r-{number}", "restaurant_id": "a", "text": f"주차가 편해요 {number}", **fields}
    made = Review.model_validate(given)
    terms = analyzer().indexed(made.text, made.restaurant_name)
    prediction = Prediction("negative" if number % 2 else "positive", 0.9)
    return ClassifiedReview(made, digest_of(made), prediction, terms, analyzer().version)


def vectors(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit vectors round a few centres, as those of reviews are."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(20, SIZE))
    made = centres[chance.integers(20, size=count)] + chance.normal(scale=0.4, size=(count, SIZE))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


async def put(store: ReviewStore, numbers: Sequence[int], **fields: Any) -> None:
    await store.upsert([judged(number, **fields) for number in numbers], EmbeddedTexts(vectors(len(numbers)), MODEL))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


async def rows(store: ReviewStore) -> int:
    return (await store.read(["review_id"])).num_rows


def waiting_for(lock: Path) -> list[str]:
    """The processes, or threads, that wait for a lock, as the kernel lists them."""
    inode = lock.stat().st_ino if lock.exists() else None
    return [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line and f":{inode} " in line]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store lies."""
    return tmp_path / "reviews"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[ReviewStore]:
    """An empty store."""
    async with open_store(str(folder)) as opened:
        yield opened


async def test_an_empty_store_answers(store: ReviewStore) -> None:
    """No table is no error: nothing is found, counted or deleted."""
    assert await by_vector(store, vectors(1)[0], MODEL, EVERYTHING, 5) == {}
    assert await by_words(store, "주차", EVERYTHING, 5) == {}
    assert (await count_restaurant(store, "a")).total == 0
    assert await count_all_restaurants(store) == []
    assert not await store.delete("r-1")
    await maintain(store, 1000)


async def test_what_is_stored_twice_is_there_once(store: ReviewStore) -> None:
    """The second time replaces the first, also in another process's eyes."""
    await put(store, range(10))
    await put(store, range(10), restaurant_id="b")
    assert await rows(store) == 10
    assert ((await count_restaurant(store, "a")).total, (await count_restaurant(store, "b")).total) == (0, 10)


async def test_a_read_sees_the_write_before_it(store: ReviewStore, folder: Path) -> None:
    """With indexes that lag, here and through another connection; a deletion, too."""
    await put(store, range(10))
    await maintain(store, 1000)
    async with open_store(str(folder)) as other:
        await put(store, [77], text="발렛 주차가 됩니다")
        for reader in (store, other):
            assert list(await by_words(reader, "발렛", EVERYTHING, 1)) == ["r-77"]
            found = await by_vector(reader, vectors(1)[0], MODEL, EVERYTHING, 11)
            assert "r-77" in found
        assert await store.delete("r-77")
        assert await by_words(other, "발렛", EVERYTHING, 1) == {}


async def test_words_are_found_in_other_forms(store: ReviewStore) -> None:
    """An ending that changes the stem's last syllable: right after the first write, in a row that the index has, and
    in one that came later."""

    async def found() -> set[str]:
        return set(await by_words(store, "싱겁다", EVERYTHING, 5))

    await put(store, [0], text="국물이 싱거워요")
    assert await found() == {"r-0"}
    await put(store, [1], text="직원이 친절해요")
    await maintain(store, 1000)
    table = await store.table()
    assert table is not None
    assert [(index.num_indexed_rows, index.num_unindexed_rows) for index in await table.list_indices()] == [(2, 0)]
    await put(store, [2], text="육수가 싱거웠어요")
    assert await found() == {"r-0", "r-2"}


async def test_a_compound_is_found_by_its_parts_and_by_its_name(store: ReviewStore) -> None:
    """Also where Kiwi knows it as one word; a restaurant's name is searched, too."""
    await put(store, [0], text="부대찌개가 푸짐해요")
    await put(store, [1], text="부대 근처라 시끄러워요")
    await put(store, [2], text="친절해요", restaurant_name="할매손칼국수")
    for query, first in (("찌개", "r-0"), ("부대찌개", "r-0"), ("국수", "r-2"), ("할매손칼국수", "r-2")):
        assert next(iter(await by_words(store, query, EVERYTHING, 1))) == first


async def test_a_phrase_is_in_each_result_word_for_word(store: ReviewStore) -> None:
    """In the text or the restaurant's name, composed or decomposed, in capital or small letters."""
    await put(store, [0], text="공영주차장이 가까워요")
    await put(store, [1], text=unicodedata.normalize("NFD", "공영주차장 옆 Pizza"))
    await put(store, [2], text="공영 주차장이 있어요")
    await put(store, [3], text="주차장", restaurant_name="공영주차장 식당")
    assert set(await by_words(store, "주차장", Filters(phrases=("공영주차장",)), 9)) == {"r-0", "r-1", "r-3"}
    assert set(await by_vector(store, vectors(1)[0], MODEL, Filters(phrases=("공영주차장", "pizza")), 9)) == {"r-1"}


async def test_several_processes_may_write_the_first_batch_at_once(tmp_path: Path) -> None:
    """One of them makes the table; all batches are in it."""
    for attempt in range(10):
        async with AsyncExitStack() as closing:
            folder = str(tmp_path / str(attempt))
            stores = [await closing.enter_async_context(open_store(folder)) for _ in range(4)]
            await asyncio.gather(*(put(each, range(5 * place, 5 * place + 5)) for place, each in enumerate(stores)))
            assert [await rows(each) for each in stores] == [20] * 4


async def test_the_first_table_is_created_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Whoever comes while another process creates the table waits, and writes into that table."""
    async with open_store(str(tmp_path)) as one, open_store(str(tmp_path)) as other:
        async with creation_lock(tmp_path):
            writing = [asyncio.create_task(put(store, [number])) for number, store in enumerate((one, other))]
            await asyncio.to_thread(eventually, lambda: len(waiting_for(tmp_path / LOCK_FILE)) == 2)
            assert not (tmp_path / "reviews.lance").exists()
        await asyncio.gather(*writing)
        assert await rows(one) == await rows(other) == 2


async def test_cosines_are_those_of_a_search(store: ReviewStore) -> None:
    """Of what was found by words, with its vectors; a vector of another size or model is not compared."""
    await put(store, range(10))
    asked = vectors(3, seed=5)[2]
    near = {hit.review_id: hit.score for hit in await store.vector_search(asked, MODEL, EVERYTHING, 10)}
    hits = await store.keyword_search({"주차": 1.0}, EVERYTHING, 10, with_vectors=True)
    assert {hit.review_id: hit.cosine(asked, MODEL) for hit in hits} == pytest.approx(near, abs=1e-5)
    for vector, model in ((asked[:-1], MODEL), (asked, "other/encoder")):
        assert [hit.cosine(vector, model) for hit in hits] == [None] * 10
    without = await store.keyword_search({"주차": 1.0}, EVERYTHING, 10)
    assert [hit.cosine(asked, MODEL) for hit in without] == [None] * 10


async def test_what_a_search_found_is_there_after_files_were_put_together(store: ReviewStore) -> None:
    """Index maintenance may move every row, and a review may be deleted: no hit is lost."""
    for first in (0, 5):
        await put(store, range(first, first + 5))
    hits = await store.vector_search(vectors(1)[0], MODEL, EVERYTHING, 10)
    await maintain(store, 1000, settled=True)
    assert await store.delete("r-0")
    found = {hit.review_id: hit.review() for hit in hits}
    assert {name: review.text for name, review in found.items()} == {f"r-{n}": f"주차가 편해요 {n}" for n in range(10)}


async def test_filters_hold_for_every_search(store: ReviewStore) -> None:
    """Each alone, with a quote in an id; what has no rating or no date is not let through."""
    when = datetime(2024, 5, 1, tzinfo=UTC)
    await put(store, [0], restaurant_id="it's", rating=5.0, created_at=when)
    await put(store, [1, 2])
    for filters in (
        Filters(restaurant_id="it's"),
        Filters(min_rating=4.5),
        Filters(since=when),
        Filters(until=datetime(2025, 1, 1, tzinfo=UTC)),
        Filters(restaurant_id="it's", sentiment="positive", min_rating=5, since=when),
    ):
        for hits in (
            await by_words(store, "주차가", filters, 9),
            await by_vector(store, vectors(1)[0], MODEL, filters, 9),
        ):
            assert list(hits) == ["r-0"]
    assert await by_words(store, "주차가", Filters(until=when), 9) == {}
    assert await by_words(store, "주차가", Filters(restaurant_id="x' OR '1'='1"), 9) == {}


async def test_counts_equal_a_recount(store: ReviewStore) -> None:
    """Of each restaurant, and in the list of all."""
    await put(store, range(0, 7), restaurant_name="하나")
    await put(store, range(7, 10), restaurant_id="b")
    assert [(c.restaurant_id, c.name, c.positive, c.negative) for c in await count_all_restaurants(store)] == [
        ("a", "하나", 4, 3),
        ("b", None, 1, 2),
    ]
    counts = await count_restaurant(store, "a")
    assert (counts.positive, counts.negative) == (4, 3)


async def test_a_renamed_restaurant_has_its_latest_name(store: ReviewStore) -> None:
    """In whatever order its reviews were stored, and whatever their sentiment; of two at once it is the first one's."""
    reviews: list[dict[str, Any]] = [
        {"restaurant_name": "옛집", "created_at": "2026-03-01"},
        {"restaurant_name": "새집", "created_at": "2026-03-02"},
        {"restaurant_name": "그 집", "created_at": "2026-03-02"},
        {"restaurant_name": None, "created_at": "2026-03-03"},
        {"restaurant_name": "흰집"},
    ]
    orders = list(permutations(enumerate(reviews)))
    rows = [
        judged(number, **review, review_id=f"{order}-{number}", restaurant_id=str(order))
        for order, given in enumerate(orders)
        for number, review in given
    ]
    await store.upsert(rows, EmbeddedTexts(vectors(len(rows)), MODEL))
    counts = await count_all_restaurants(store)
    assert [one.name for one in counts] == ["새집"] * len(orders)


@pytest.mark.parametrize("limit", [10, 50])
async def test_an_indexed_search_finds_what_an_exact_one_finds(store: ReviewStore, limit: int) -> None:
    """At least 95 of 100 of the ten nearest, over clustered vectors; also where fewer are compared for each hit."""
    made = vectors(6000)
    await store.upsert([judged(number) for number in range(6000)], EmbeddedTexts(made, MODEL))
    await maintain(store, 1000)
    table = await store.table()
    assert table is not None
    assert "vector" in [index.columns[0] for index in await table.list_indices()]
    found = 0
    for query in vectors(50, seed=0)[:50]:
        exact = {f"r-{place}" for place in np.argsort(-(made @ query))[:10]}
        found += len(exact & set(await by_vector(store, query, MODEL, EVERYTHING, limit)))
    assert found >= 0.95 * 500


@pytest.mark.parametrize(("limit", "rows"), [(1, 10), (10, 100), (50, 150), (100, 200)])
async def test_few_vectors_are_compared_again(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch, limit: int, rows: int
) -> None:
    """A hybrid search, which looks for fifty, does not read five hundred."""
    factors, refine = list[int](), AsyncVectorQuery.refine_factor

    def counted(query: AsyncVectorQuery, factor: int) -> Any:
        factors.append(factor)
        return refine(query, factor)

    monkeypatch.setattr(AsyncVectorQuery, "refine_factor", counted)
    await put(store, range(3))
    assert len(await by_vector(store, vectors(1)[0], MODEL, EVERYTHING, limit)) == min(limit, 3)
    assert [limit * factor for factor in factors] == [rows]


async def test_a_filter_finds_all_it_leaves_in_an_index(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those in partitions that lie far from the query, which a search without a filter does not look into."""
    monkeypatch.setattr(reader, "NPROBES", 2)
    made, few = vectors(6000), set(range(0, 6000, 300))
    rows_ = [judged(number, restaurant_id="few" if number in few else "many") for number in range(6000)]
    await store.upsert(rows_, EmbeddedTexts(made, MODEL))
    await maintain(store, 1000)
    for query in made[:10]:
        found = await by_vector(store, query, MODEL, Filters(restaurant_id="few"), len(few))
        assert set(found) == {f"r-{number}" for number in few}


async def test_a_rating_is_found_and_returned_as_it_was_imported(store: ReviewStore) -> None:
    """Stored in single precision it is a little less or more."""
    for tenths in range(10, 51):
        await put(store, [tenths], rating=tenths / 10)
        [review] = await store.latest_reviews(Filters(review_id=f"r-{tenths}", min_rating=tenths / 10), 1)
        assert review.rating == tenths / 10


async def test_indexes_that_are_lost_cost_nothing(store: ReviewStore, folder: Path) -> None:
    """Their files are gone: searches and writes go on at once, and the indexes are made anew."""
    await put(store, range(2000))
    await maintain(store, 1000)
    shutil.rmtree(folder / "reviews.lance" / "_indices")
    async with open_store(str(folder)) as opened:
        assert len(await by_words(opened, "주차가", EVERYTHING, 5)) == 5
        assert len(await by_vector(opened, vectors(1)[0], MODEL, EVERYTHING, 5)) == 5
        await put(opened, [5000])
        assert await rows(opened) == 2001
        await maintain(opened, 1000)
        table = await opened.table()
        assert table is not None
        assert len(await table.list_indices()) == 4


async def test_a_table_whose_making_was_broken_off_is_made_anew(store: ReviewStore, folder: Path) -> None:
    """A folder with data that no commit names: nothing had been promised."""
    (folder / "reviews.lance" / "data").mkdir(parents=True)
    (folder / "reviews.lance" / "data" / "half.lance").write_bytes(b"half")
    await put(store, range(3))
    assert await rows(store) == 3


@pytest.mark.parametrize("lost", ["_versions/*", "data/*"])
async def test_a_damaged_table_is_told_and_left_alone(folder: Path, lost: str) -> None:
    """A torn commit or lost rows: one clear error, without a path, and what is left of it stays."""
    async with open_store(str(folder)) as store:
        await put(store, range(3))
    for file in (folder / "reviews.lance").glob(lost):
        file.write_bytes(b"")
    before = files(folder)
    with pytest.raises(StoreDamaged) as told:
        async with open_store(str(folder)) as store:
            await count_restaurant(store, "a")
    assert "/" not in str(told.value.detail)
    assert set(before) <= set(files(folder))


async def test_a_folder_that_goes_away_is_told(store: ReviewStore, folder: Path) -> None:
    """Under a running service: by readiness, by reads and by writes."""
    await put(store, range(3))
    await maintain(store, 1000)
    shutil.rmtree(folder)
    for asked in (store.check(), count_restaurant(store, "a"), put(store, [9])):
        with pytest.raises(StoreDamaged):
            await asked


async def test_small_files_are_put_together(store: ReviewStore, folder: Path) -> None:
    """Reviews that come one at a time leave a file each; tending the store leaves few, and every review."""
    for number in range(MAX_FILES + 2):
        await put(store, [number])
    await maintain(store, 1000)
    table = await store.table()
    assert table is not None
    assert (await table.stats())["fragment_stats"]["num_fragments"] < MAX_FILES
    assert await rows(store) == MAX_FILES + 2


async def test_the_latest_reviews_come_first(store: ReviewStore) -> None:
    """As many as are asked for; those without a date last."""
    await put(store, [9])
    for number in range(4):
        await put(store, [number], created_at=datetime(2024, 1, 1 + number, tzinfo=UTC))
    latest = await store.latest_reviews(Filters(restaurant_id="a"), 5)
    assert [review.review_id for review in latest] == ["r-3", "r-2", "r-1", "r-0", "r-9"]
    assert [review.review_id for review in await store.latest_reviews(EVERYTHING, 2)] == ["r-3", "r-2"]


@pytest.mark.parametrize("other", ["other/encoder", "other/encoder@r1", "a/encoder@r2", "a/encoder@r1@r1", "a/encoder"])
async def test_vectors_of_another_model_are_refused(store: ReviewStore, other: str) -> None:
    """Nor those of another revision of the same: they cannot be compared, neither in the table nor with it."""
    await store.upsert([judged(1)], EmbeddedTexts(vectors(1), "a/encoder@r1"))
    with pytest.raises(Unavailable, match="another model"):
        await store.upsert([judged(4)], EmbeddedTexts(vectors(1), other))
    with pytest.raises(Unavailable, match="another model"):
        await by_vector(store, vectors(1)[0], other, EVERYTHING, 1)
    with pytest.raises(Unavailable, match="another model"):
        await by_vector(store, vectors(1)[0][:-1], "a/encoder@r1", EVERYTHING, 1)
    assert await rows(store) == 1


async def test_writers_and_the_keeper_of_indexes_get_along(folder: Path) -> None:
    """Two processes' worth of writers and constant tending: every review is there once."""
    async with open_store(str(folder)) as one, open_store(str(folder)) as other:
        await put(one, [0])

        async def write(store: ReviewStore, first: int) -> None:
            for number in range(first, first + 300, 30):
                await put(store, range(number, number + 30))

        async def keep() -> None:
            for _ in range(5):
                await maintain(one, 1000)

        await asyncio.gather(write(one, 1), write(other, 151), keep())
        ids = (await one.read(["review_id"]))["review_id"].to_pylist()
    assert sorted(ids) == sorted({f"r-{number}" for number in [0, *range(1, 451)]}), json.dumps(ids)
