"""Stores of older versions are brought over while they answer."""

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lancedb.index import FTS
from lancedb.table import AsyncTable

from onecard.errors import Unavailable
from review_service.errors import StoreNotWritable
from review_service.insight.restaurant_statistics import RestaurantStatistics
from review_service.model_services import EmbeddedTexts, Prediction
from review_service.reviews import migrations, table_access
from review_service.reviews.aspects import read_aspects
from review_service.reviews.clauses import ClauseReader
from review_service.reviews.index_maintenance import maintain
from review_service.reviews.migration_task import migrate_clauses, migrate_terms
from review_service.reviews.migrations import MigrationProgress, add_terms
from review_service.reviews.rows import (
    CLAUSES_COLUMN,
    CLAUSES_VERSION_COLUMN,
    OLD_ASPECTS_COLUMN,
    OLD_LETTERS_COLUMN,
    TERMS_COLUMN,
    TERMS_VERSION_COLUMN,
    VECTOR_ENGINE_COLUMN,
)
from review_service.reviews.store import ReviewStore, open_store
from review_service.words.analyzer import MorphemeAnalyzer
from review_service.words.user_words import parse_user_words
from tests.review.support import OtherAnalyzer, analyzer, by_vector, by_words
from tests.review.test_store import EVERYTHING, MODEL, folder, judged, put, rows, store, vectors

__all__ = ["folder", "store"]


async def test_a_table_of_before_knows_the_name_alone(store: ReviewStore) -> None:
    """Version 0.1.0 stored no revision: its tables go on with any of their model's, and with no other model."""
    await store.upsert([judged(1)], EmbeddedTexts(vectors(1), "a/encoder"))
    await store.upsert([judged(2)], EmbeddedTexts(vectors(1), "a/encoder@r1"))
    assert len(await by_vector(store, vectors(1)[0], "a/encoder@r1", EVERYTHING, 5)) == 2
    with pytest.raises(Unavailable, match="another model"):
        await by_vector(store, vectors(1)[0], "other/encoder@r1", EVERYTHING, 5)


@pytest.mark.parametrize("begun", [False, True])
async def test_reviews_that_an_older_version_stored_are_brought_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """They are found by vectors at once, and by words as they get their terms, also if that was broken off."""
    monkeypatch.setattr(migrations, "BATCH_ROWS", 2)
    async with open_store(str(folder)) as store:
        await put(store, range(5), text="국물이 싱거워요")
        table = await store.table()
        assert table is not None
        await table.add_columns({OLD_LETTERS_COLUMN: "text"})
        await table.create_index(OLD_LETTERS_COLUMN, config=FTS(base_tokenizer="ngram"))
        await table.drop_index("morphemes_idx")
        await table.drop_columns([TERMS_COLUMN, TERMS_VERSION_COLUMN])
    async with open_store(str(folder)) as store:
        assert len(await by_vector(store, vectors(1)[0], MODEL, EVERYTHING, 9)) == 5
        await put(store, [9], text="주차가 편해요")
        table = await store.table()
        assert table is not None
        if begun:
            assert await add_terms(table, analyzer()) == 2
    async with open_store(str(folder)) as store:
        progress = MigrationProgress()
        await migrate_terms(store, analyzer(), progress)
        assert (progress.done, progress.total, progress.running) == ((3, 3, False) if begun else (5, 5, False))
        await maintain(store, 1000)
        assert len(await by_words(store, "싱겁다", EVERYTHING, 9)) == 5
        assert list(await by_words(store, "주차", EVERYTHING, 9)) == ["r-9"]
        table = await store.table()
        assert table is not None
        assert OLD_LETTERS_COLUMN not in (await table.schema()).names
        assert [index.columns for index in await table.list_indices()] == [[TERMS_COLUMN]]
        assert await rows(store) == 6


async def test_terms_of_another_analyzer_are_made_anew(store: ReviewStore) -> None:
    """The operator has added a word: reviews are taken apart again, once."""
    await put(store, range(3), text="마라로제떡볶이")
    other = MorphemeAnalyzer(parse_user_words("마라로제떡볶이 마라 로제 떡볶이"))
    assert not await by_words(store, "로제", EVERYTHING, 9)
    for total in (3, 0):
        progress = MigrationProgress()
        await migrate_terms(store, other, progress)
        assert progress.total == total
    assert len(await by_words(store, "로제", EVERYTHING, 9)) == 3


class MigratedMeanwhile:
    """A table that loses its old column right after its schema was read for the n-th time."""

    def __init__(self, table: AsyncTable, reads: int) -> None:
        self._table = table
        self._reads = reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    async def schema(self) -> Any:
        schema = await self._table.schema()
        self._reads -= 1
        if not self._reads:
            await self._table.drop_columns([OLD_ASPECTS_COLUMN])
        return schema


@pytest.mark.parametrize("reads", [1, 2], ids=["before the write", "during its first attempt"])
async def test_an_import_goes_on_while_the_migration_drops_a_column(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    """Here or in another process: the rows that are written have the columns that the table has then."""
    await put(store, range(3))
    table = await store.table()
    assert table is not None
    await table.add_columns({OLD_ASPECTS_COLUMN: "make_array('taste')"})
    monkeypatch.setattr(store, "_table", MigratedMeanwhile(table, reads))
    await put(store, range(2, 5))
    assert OLD_ASPECTS_COLUMN not in (await table.schema()).names
    assert await rows(store) == 5


class AwayOnce:
    """Models that find everything negative; the first request of all fails."""

    def __init__(self) -> None:
        self.asked = 0

    async def embed(self, texts: Sequence[str], *_: object) -> EmbeddedTexts:
        return EmbeddedTexts(np.tile(np.array([1, 0], np.float32), (len(texts), 1)), MODEL)

    async def classify(self, texts: Sequence[str], *_: object) -> list[Prediction]:
        self.asked += 1
        if self.asked == 2:
            raise Unavailable("away")
        return [Prediction("negative", 0.8)] * len(texts)


async def test_reviews_without_clauses_are_brought_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They answer meanwhile; what a failure breaks off is continued; a table of before loses its column of aspects."""
    monkeypatch.setattr(migrations, "CLAUSE_BATCH_ROWS", 2)
    async with open_store(str(folder)) as store:
        await put(store, range(5), text="주차장은 좋은데 양이 적어요")
        table = await store.table()
        assert table is not None
        await table.drop_columns([CLAUSES_COLUMN, CLAUSES_VERSION_COLUMN])
        await table.add_columns({OLD_ASPECTS_COLUMN: "make_array('taste')"})
    models: Any = AwayOnce()
    reader = ClauseReader(models, analyzer(), read_aspects(), 128)
    async with open_store(str(folder)) as store:
        assert len(await by_words(store, "주차장", EVERYTHING, 9)) == 5
        await put(store, [9])
        statistics = RestaurantStatistics(store, read_aspects())
        assert (await statistics.strengths("a")).strengths == []
        progress = MigrationProgress(of="clauses")
        with pytest.raises(Unavailable):
            await migrate_clauses(store, reader, progress)
        assert (progress.done, progress.total) == (2, 6)
        await migrate_clauses(store, reader, progress)
        assert (progress.done, progress.total, progress.running) == (4, 4, False)
        read = (await store.read([CLAUSES_COLUMN, CLAUSES_VERSION_COLUMN, "sentiment"])).to_pylist()
        assert {row[CLAUSES_VERSION_COLUMN] for row in read} == {reader.version}
        mixed = [row[CLAUSES_COLUMN] for row in read if len(row[CLAUSES_COLUMN]) == 2]
        assert [[clause["aspects"] for clause in clauses] for clauses in mixed] == [[["parking"], ["portion"]]] * 5
        assert {clause["sentiment"] for clauses in mixed for clause in clauses} == {"negative"}
        table = await store.table()
        assert table is not None
        assert OLD_ASPECTS_COLUMN not in (await table.schema()).names


async def test_nothing_is_taken_apart_for_a_disk_that_is_full(
    store: ReviewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration looks first whether it may write, and is complete once the disk has space again."""

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "")

    await put(store, range(3))
    store.access.record_write_error(OSError(errno.ENOSPC, ""))
    other, progress = OtherAnalyzer(), MigrationProgress()
    with monkeypatch.context() as disk:
        disk.setattr(table_access, "_probe_write", full)
        disk.setattr(other, "indexed", None)
        with pytest.raises(StoreNotWritable):
            await migrate_terms(store, other, progress)  # type: ignore[arg-type]
    assert not progress.complete
    await migrate_terms(store, other, progress)  # type: ignore[arg-type]
    assert progress.complete


async def test_each_vector_says_what_computed_it(folder: Path) -> None:
    """A review that is stored again says what did so last; of those that an older version stored, nobody knows."""
    async with open_store(str(folder)) as store:
        await put(store, [1, 2])
        table = await store.table()
        assert table is not None
        await table.drop_columns([VECTOR_ENGINE_COLUMN])
    async with open_store(str(folder)) as store:
        for numbers, engine in (([2, 3], "torch 2.13.0 bfloat16"), ([3], "openvino 2026.4.1 int8")):
            await store.upsert(
                [judged(number) for number in numbers], EmbeddedTexts(vectors(len(numbers)), MODEL, engine)
            )
        stored = (await store.read(["review_id", VECTOR_ENGINE_COLUMN])).to_pylist()
    assert {row["review_id"]: row[VECTOR_ENGINE_COLUMN] for row in stored} == {
        "r-1": None,
        "r-2": "torch 2.13.0 bfloat16",
        "r-3": "openvino 2026.4.1 int8",
    }
