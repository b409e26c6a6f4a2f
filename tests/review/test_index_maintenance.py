"""What the keeper of indexes sees to: few files, little memory, and indexes that are whole."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from review_service.reviews.index_maintenance import maintain
from review_service.reviews.rows import Filters
from review_service.reviews.store import ReviewStore, open_store
from tests.conftest import ROOT
from tests.review.support import by_vector, by_words
from tests.review.test_store import MODEL, folder, put, rows, store, vectors

__all__ = ["folder", "store"]

REAL = ROOT.parent / "shared" / "data" / "real_reviews.jsonl.gz"


def count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


async def test_1500_rewrites_leave_few_files(store: ReviewStore, folder: Path) -> None:
    """Each leaves three, which nobody needs after the next one; a busy table's latest versions are left to those who
    are reading them, and one that has come to rest has one version."""
    await put(store, range(1200))
    await maintain(store, 1000)
    for number in range(1500):
        await put(store, [number % 50], text=f"고쳤어요 {number}")
    await maintain(store, 1000)
    assert count(folder) <= 200
    await maintain(store, 1000, settled=True)
    assert count(folder) <= 60
    assert await rows(store) == 1200


async def test_those_who_read_meanwhile_find_everything(folder: Path) -> None:
    """Another process's connection, at each moment of rewriting and of dropping old files."""
    async with open_store(str(folder)) as one, open_store(str(folder)) as other:
        await put(one, range(300))
        for number in range(20):
            await put(one, range(number, 60 + number))
            await maintain(one, 1000, settled=True)
            assert await rows(other) == 300
            assert len(await by_words(other, "주차가", Filters(), 9)) == 9


async def test_a_deletion_of_nothing_makes_no_version(store: ReviewStore) -> None:
    """Nor files; one of a review that is there does."""
    await put(store, range(5))
    before = await store.version()
    assert not await store.delete("r-99")
    assert await store.version() == before
    assert await store.delete("r-3")
    assert await store.version() != before


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def garbled(file: Path) -> None:
    file.write_bytes(bytes(byte ^ (0xFF if place % 64 == 63 else 0) for place, byte in enumerate(file.read_bytes())))


async def break_index(folder: Path, column: str, damage: Callable[[Path], None]) -> None:
    async with open_store(str(folder)) as store:
        table = await store.table()
        assert table is not None
        uuid = next(index.index_uuid for index in await table.list_indices() if index.columns == [column])
    for file in (folder / "reviews.lance" / "_indices" / str(uuid)).iterdir():
        damage(file)


async def indexed(store: ReviewStore) -> list[str]:
    table = await store.table()
    assert table is not None
    return sorted(index.columns[0] for index in await table.list_indices())


@pytest.mark.parametrize("damage", [emptied, zeroed, garbled, Path.unlink])
@pytest.mark.parametrize("column", ["morphemes", "review_id", "restaurant_id", "vector"])
async def test_a_broken_index_alone_is_made_anew(folder: Path, column: str, damage: Callable[[Path], None]) -> None:
    """Reads go on at once; upkeep that fails for it heals by itself, also where nobody reads through that index."""
    async with open_store(str(folder)) as store:
        await put(store, range(2000))
        await maintain(store, 1000)
        everything = await indexed(store)
    await break_index(folder, column, damage)
    async with open_store(str(folder)) as store:
        assert len(await by_words(store, "주차가", Filters(restaurant_id="a"), 5)) == 5
        assert len(await by_vector(store, vectors(1)[0], MODEL, Filters(), 5)) == 5
        assert await store.digests(["r-7"])
        assert await store.delete("r-8")
        assert set(everything) - set(await indexed(store)) <= {column}
    async with open_store(str(folder)) as store:
        await put(store, range(2000, 5000))
        for _ in range(3):
            try:
                await maintain(store, 1000, settled=True)
                break
            except Exception:  # The first time, perhaps.
                continue
        else:
            raise AssertionError("upkeep does not heal")
        assert await indexed(store) == everything
        assert await rows(store) == 4999


GROW = """
import asyncio, gzip, json, sys
import numpy as np
from review_service.reviews.malloc import limit_arenas
limit_arenas()
from review_service.model_services import EmbeddedTexts, Prediction
from review_service.reviews.rows import ClassifiedReview, Filters, digest_of
from review_service.schemas import Review
from review_service.reviews.store import open_store
from review_service.reviews.index_maintenance import maintain

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith(name))

async def main(path, folder):
    chance = np.random.default_rng(0)
    lines = gzip.open(path, "rt").readlines()
    async with open_store(folder) as store:
        for first in range(0, len(lines), 1024):
            given = [Review.model_validate_json(line) for line in lines[first : first + 1024]]
            vectors = chance.normal(size=(len(given), 768)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            yes = Prediction("positive", 0.9)
            judged = [ClassifiedReview(one, digest_of(one), yes, one.text, "0") for one in given]
            await store.upsert(judged, EmbeddedTexts(vectors, "m"))
            if first % 10_240 == 0:
                await maintain(store, 10_000)
        await maintain(store, 10_000)
        await maintain(store, 10_000, settled=True)
        for query in ("정말 좋았던 영화", "너무 지루해서"):
            assert len(await store.keyword_search(query, Filters(), 50)) == 50
            assert len(await store.vector_search(vectors[0], "m", Filters(), 50)) == 50
        print(json.dumps({"rows": await store.count_rows(), "most": resident("VmHWM"), "now": resident("VmRSS")}))

asyncio.run(main(*sys.argv[1:]))
"""


def test_60000_real_reviews_fit_in_500_mb_of_disk_and_700_of_memory(tmp_path: Path) -> None:
    """Of real length, with vectors of 768 numbers and every index; the memory also while indexes are made."""
    if not REAL.exists():
        pytest.skip(f"LEFT OUT: no real reviews in {REAL.name}")
    argv = [sys.executable, "-c", GROW, str(REAL), str(tmp_path)]
    told = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    shutil.rmtree(tmp_path)
    assert told["rows"] == 59_901
    assert disk < 500_000_000
    assert told["most"] < 700, told
