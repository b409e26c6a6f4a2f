"""What the keeper of indexes sees to: few files, little memory, and indexes that are whole."""

import asyncio
import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from review_service.errors import StoreDamaged
from review_service.reviews import table_access
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
async def test_a_broken_index_alone_is_made_anew(
    folder: Path, column: str, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on at once; upkeep that fails for it heals by itself, also where nobody reads through that index."""
    monkeypatch.setattr(table_access, "RECHECK_SECONDS", 0.01)
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


class UnreadableTable:
    """A table whose reads, and whose index's, fail in turn as they are told to."""

    def __init__(self, reads: Sequence[Exception | None], index_reads: Sequence[Exception | None]) -> None:
        self._reads, self._index_reads = iter(reads), iter(index_reads)
        self.indexes = [SimpleNamespace(name="some_idx")]
        self.dropped = list[str]()

    async def read(self, _: object) -> str:
        """Read, as an operation of `TableAccess.read`."""
        if (failure := next(self._reads, None)) and self.indexes:
            raise failure
        return "rows"

    async def list_indices(self) -> list[SimpleNamespace]:
        """The index, unless it was dropped."""
        return list(self.indexes)

    async def prewarm_index(self, _: str) -> None:
        """Read the index."""
        if failure := next(self._index_reads, None):
            raise failure

    async def drop_index(self, name: str) -> None:
        """Drop the index."""
        self.dropped.append(name)
        self.indexes.clear()

    def query(self) -> "UnreadableTable":
        """Its rows can be read one at a time."""
        return self

    def limit(self, _: int) -> "UnreadableTable":
        """As `query`."""
        return self

    async def to_list(self) -> list[str]:
        """As `query`."""
        return []


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between attempts."""
    for name in ("PAUSE_SECONDS", "RECHECK_SECONDS"):
        monkeypatch.setattr(table_access, name, 0.0)


TORN = ValueError("Invalid input, file does not appear to be a Lance file")
PASSING = [
    RuntimeError("lance error: LanceError(IO): Generic LocalFileSystem error: Too many open files (os error 24)"),
    OSError(errno.EIO, "Input/output error"),
    RuntimeError("Generic S3 error: HTTP error: operation timed out"),
    RuntimeError("Generic S3 error: Server returned non-2xx status code: 503 Service Unavailable: SlowDown"),
    MemoryError(),
]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("index_reads", "dropped"),
    [
        ([TORN, TORN], ["some_idx"]),
        ([TORN, None], []),
        ([TORN, PASSING[0]], []),
        *[([each] * 9, []) for each in PASSING],
    ],
)
async def test_an_index_is_dropped_only_if_it_cannot_be_read_twice(
    index_reads: Sequence[Exception | None], dropped: list[str]
) -> None:
    """Not for what may pass: too few files or too little memory, a disk's fault, a bucket that is away."""
    table = UnreadableTable([TORN] * 3 if not dropped else [TORN] * 99, index_reads)
    assert await table_access.TableAccess("s3://bucket").read(table, table.read) == "rows"  # type: ignore[arg-type]
    assert table.dropped == dropped


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("failure", PASSING, ids=repr)
async def test_reads_that_fail_for_what_may_pass_do_not_read_the_indexes(failure: Exception) -> None:
    """They are tried again, and then it is an error."""
    table = UnreadableTable([failure] * 99, [TORN] * 99)
    with pytest.raises(StoreDamaged):
        await table_access.TableAccess("s3://bucket").read(table, table.read)  # type: ignore[arg-type]
    assert table.dropped == []
    table = UnreadableTable([failure] * 2, [])
    assert await table_access.TableAccess("s3://bucket").read(table, table.read) == "rows"  # type: ignore[arg-type]


@pytest.mark.usefixtures("hurried")
async def test_reads_that_fail_at_the_same_time_check_the_indexes_once() -> None:
    """Whatever comes of it."""
    checks = list[None]()
    table, access = UnreadableTable([TORN] * 99, [None] * 99), table_access.TableAccess("s3://bucket")

    async def check(_: str) -> None:
        checks.append(None)
        await asyncio.sleep(0)

    table.prewarm_index = check  # type: ignore[method-assign]
    reads = [access.read(table, table.read) for _ in range(5)]  # type: ignore[arg-type]
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreDamaged] * 5
    assert len(checks) == 1


@pytest.mark.usefixtures("hurried")
async def test_a_check_of_the_indexes_survives_the_reader_who_began_it() -> None:
    """Clients that give up before its end would else keep a broken index for ever. A failed one is not repeated."""
    table, access, begun = UnreadableTable([], [TORN] * 99), table_access.TableAccess("s3://bucket"), asyncio.Event()
    prewarm = table.prewarm_index

    async def check(name: str) -> None:
        begun.set()
        await prewarm(name)

    table.prewarm_index = check  # type: ignore[method-assign]
    first = asyncio.create_task(access.drop_broken_indexes(table))  # type: ignore[arg-type]
    await begun.wait()
    first.cancel()
    await access.drop_broken_indexes(table)  # type: ignore[arg-type]
    assert table.dropped == ["some_idx"]

    table, access = UnreadableTable([], [TORN] * 99), table_access.TableAccess("s3://bucket")
    drops = list[str]()

    async def drop(name: str) -> None:
        drops.append(name)
        raise OSError(errno.ENOSPC, "No space left on device")

    table.drop_index = drop  # type: ignore[method-assign]
    waiting = [access.drop_broken_indexes(table) for _ in range(5)]  # type: ignore[arg-type]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {OSError}
    await access.drop_broken_indexes(table)  # type: ignore[arg-type]
    assert drops == ["some_idx"]


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
            assert len(await store.keyword_search(dict.fromkeys(query.split(), 1.0), Filters(), 50)) == 50
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
