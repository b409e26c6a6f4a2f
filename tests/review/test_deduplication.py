"""Each review is stored once: by processes that store the same new ids at the same moment, and in tables of before."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest
from lancedb.index import BTree

from review_service.model_services import EmbeddedTexts
from review_service.reviews.deduplication import delete_duplicates
from review_service.reviews.index_maintenance import maintain
from review_service.reviews.rows import Filters, table_schema, to_arrow
from review_service.reviews.store import open_store
from tests.conftest import ROOT
from tests.review.support import by_vector
from tests.review.test_store import MODEL, SIZE, judged, put, rows, vectors

EACH = 60
ROUNDS = 8


@contextmanager
def racing(folder: Path, name: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that stores what it is told, and has opened the store."""
    argv = [sys.executable, "-m", "tests.review.concurrent_writer", str(folder), name]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            hear(process, "ready")
            yield process
        finally:
            process.kill()


def hear(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:  # The log is there, too.
        if line.strip() == word:
            return
    raise AssertionError("the process has ended")


def tell(process: "subprocess.Popen[str]", first: int, last: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{first} {last}\n")
    process.stdin.flush()


@pytest.mark.parametrize("before", [0, 10, 2000], ids=["no table", "a small table", "a table with indexes"])
@pytest.mark.parametrize("turned", [False, True], ids=["one first", "the other first"])
async def test_two_processes_store_the_same_new_reviews_once(tmp_path: Path, before: int, turned: bool) -> None:
    """At the same moment, again and again, whoever of them opened the store first and is told first."""
    folder = tmp_path / "reviews"
    if before:
        async with open_store(str(folder)) as store:
            await put(store, range(before))
            await maintain(store, 1000)
    with ExitStack() as closing:
        racers = [closing.enter_context(racing(folder, name)) for name in ("one", "other")]
        for round_ in range(ROUNDS):
            first = before + round_ * EACH
            for racer in reversed(racers) if turned else racers:
                tell(racer, first, first + EACH)
            for racer in racers:
                hear(racer, "stored")
    async with open_store(str(folder)) as store:
        ids = (await store.read(["review_id"]))["review_id"].to_pylist()
        assert sorted(ids) == sorted(f"r-{number}" for number in range(before + ROUNDS * EACH))


async def old_table(folder: Path, texts: tuple[str, ...], *, indexed: bool = False) -> None:
    """A table as earlier versions made it, without a key; 30 reviews for each of the texts, of the same ids."""
    columns = table_schema(SIZE, MODEL, "old")
    columns = columns.set(0, columns.field(0).remove_metadata())
    database = await lancedb.connect_async(str(folder))
    table = await database.create_table("reviews", schema=columns)
    for text in texts:
        twins = [judged(number, text=text) for number in range(30)]
        await table.add(to_arrow(twins, EmbeddedTexts(vectors(30), MODEL), columns))
    if indexed:
        await table.create_index("review_id", config=BTree())


@pytest.mark.parametrize("indexed", [False, True])
async def test_twins_of_before_are_stored_once(tmp_path: Path, indexed: bool) -> None:
    """When the store is opened, by two services at the same moment; what was written last stays."""
    await old_table(tmp_path, ("처음", "다시", "끝으로"), indexed=indexed)

    async def opened() -> None:
        async with open_store(str(tmp_path)):
            pass

    await asyncio.gather(opened(), opened())
    async with open_store(str(tmp_path)) as store:
        texts = (await store.read(["review_id", "text"])).to_pylist()
        assert sorted(texts, key=str) == sorted(
            ({"review_id": f"r-{number}", "text": "끝으로"} for number in range(30)), key=str
        )
        await put(store, range(30), text="고쳤어요")
        assert await rows(store) == 30
        assert len(await by_vector(store, vectors(1)[0], MODEL, Filters(), 99)) == 30


async def test_what_an_older_service_beside_this_one_stores_twice_is_dropped(tmp_path: Path) -> None:
    """As while one is exchanged after the other: by whoever keeps the indexes."""
    async with open_store(str(tmp_path)) as store:
        await put(store, range(30))
        table = await store.table()
        assert table is not None
        twins: pa.Table = await table.query().limit(20).to_arrow()
        await table.add(twins)
        assert await rows(store) == 50
        await maintain(store, 1000, settled=True)
        assert await rows(store) == 30
        assert await delete_duplicates(table) == 0
