"""A disk that is full, or lets a process write no more: reading goes on, nothing is lost, and it is told."""

import os
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from review_service.errors import StoreNotWritable
from review_service.reviews.index_maintenance import maintain
from review_service.reviews.rows import Filters
from review_service.reviews.store import ReviewStore, open_store
from tests.review.support import by_vector, by_words
from tests.review.test_service import add, error_of, find, made, total, wait_for
from tests.review.test_store import MODEL, put, rows, vectors
from tests.support import Server


async def indexes(store: ReviewStore) -> list[str]:
    table = await store.table()
    assert table is not None
    return sorted(index.name for index in await table.list_indices())


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    if os.geteuid():
        pytest.skip("LEFT OUT: only root may mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
async def store(small: Path) -> AsyncIterator[ReviewStore]:
    """A store with all indexes on it."""
    async with open_store(str(small / "reviews")) as opened:
        await put(opened, range(2000))
        await maintain(opened, 1000)
        yield opened


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No byte is free."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert not os.statvfs(folder).f_bavail
    try:
        yield
    finally:
        ballast.unlink()


async def test_a_full_disk_is_told_and_costs_no_index(store: ReviewStore, small: Path) -> None:
    """A write and the keeper of indexes are refused; everything is read as before, through the same indexes."""
    before = await indexes(store)
    with filled(small):
        for _ in range(3):
            with pytest.raises(StoreNotWritable, match="full") as told:
                await put(store, range(5000, 5200))
            assert "/" not in str(told.value.detail)
        with pytest.raises(StoreNotWritable):
            await store.delete("r-1")
        refusal = await store.check()
        assert refusal is not None
        with pytest.raises(StoreNotWritable):
            await maintain(store, 1000)
        assert await indexes(store) == before
        assert await rows(store) == 2000
        assert len(await by_words(store, "주차가", Filters(), 5)) == 5
        assert len(await by_vector(store, vectors(1)[0], MODEL, Filters(), 5)) == 5
    await maintain(store, 1000)
    assert await store.check() is None
    await put(store, range(5000, 5200))
    assert await rows(store) == 2200
    assert await indexes(store) == before


async def test_a_disk_is_told_to_be_full_before_a_write_finds_out(store: ReviewStore, small: Path) -> None:
    """By readiness, since nothing may come in for long."""
    assert await store.check() is None
    with filled(small):
        assert await store.check() is not None
    assert await store.check() is None


async def test_a_store_on_a_full_disk_is_opened_and_read(store: ReviewStore, small: Path) -> None:
    """A service that is started then, too."""
    with filled(small):
        async with open_store(str(small / "reviews")) as opened:
            assert await rows(opened) == 2000


def test_a_service_that_may_write_no_more_is_degraded_and_comes_back(empty: Server) -> None:
    """A limit on files' sizes stands for a quota: 507, and not a damaged table; ready says it, and later that it is
    well, without a write."""
    add(empty, [made(number) for number in range(20)])
    many = [made(number, text=f"{number} 국물이 진해요 " * 10) for number in range(100, 250)]
    unlimited = resource.prlimit(empty.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(empty.process.pid, resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        error = error_of(httpx.post(f"{empty.url}/v1/reviews", json=many, timeout=120), 507)
        assert error["code"] == "store_refuses"
        answer = httpx.get(f"{empty.url}/health/ready")
        assert (answer.status_code, answer.json()["parts"]["store"]["status"]) == (200, "degraded")
        assert total(empty) == 20
        assert find(empty, "국물", mode="keyword") is not None
    finally:
        resource.prlimit(empty.process.pid, resource.RLIMIT_FSIZE, unlimited)

    def well() -> bool:
        parts: dict[str, Any] = httpx.get(f"{empty.url}/health/ready").json()["parts"]
        return parts["store"]["status"] == "ok"

    wait_for(well, "a store that is well again")
    assert add(empty, many)["written"] == len(many)
