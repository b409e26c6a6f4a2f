"""Keeps the indexes of the store fresh, in the background: reading is right without them, and quicker with them."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lancedb.index import FTS, BTree, IvfRq
from lancedb.table import AsyncTable

from onecard import logs
from review_service.index_plan import ivf_parameters
from review_service.reviews.deduplication import deduplicate
from review_service.reviews.malloc import trim
from review_service.reviews.rows import JAMO_COLUMN, KEYWORD_INDEX
from review_service.reviews.store import ReviewStore
from review_service.reviews.table_access import is_commit_conflict

DEBOUNCE_SECONDS = 2.0
"""After a write, for others that may follow it; an import writes batch upon batch."""
RETRY_SECONDS = 30.0
"""After work that failed, or while nothing can be written."""
IDLE_SECONDS = 15.0
"""After the last write, until what only those need who were reading then is dropped, too."""
MAX_FILES = 40
"""Files with few rows that are let be; and commits, each of which leaves three files, until old ones are dropped."""
RETAINED_VERSIONS = 8
"""The latest versions, whose files are kept for those who are reading them. Who finds his gone reads a later one."""
REFRESH_DIVISOR = 20
"""Indexes take in new rows once these are more than 1/20 of all: until then they are read one by one."""
MIN_SCALAR_INDEX_ROWS = 1000

log = logs.logger()


@dataclass(frozen=True)
class MaintenancePlan:
    """What there is to do."""

    create: tuple[str, ...] = ()
    """Columns that have no index and should."""
    refresh: bool = False
    """Indexes lag behind the rows."""


def plan_maintenance(rows: int, behind: Mapping[str, int], index_rows: int) -> MaintenancePlan:
    """What there is to do for a table of so many rows.

    Args:
        behind: how many rows each indexed column's index lacks.
        index_rows: from so many on, vectors are indexed.
    """
    wanted = [JAMO_COLUMN] if rows < MIN_SCALAR_INDEX_ROWS else [JAMO_COLUMN, "review_id", "restaurant_id"]
    wanted += ["vector"] if rows >= index_rows else []
    most = max(MIN_SCALAR_INDEX_ROWS, rows // REFRESH_DIVISOR)
    create = tuple(column for column in wanted if column not in behind)
    return MaintenancePlan(create, any(lacking > most for lacking in behind.values()))


def _index_config(column: str, rows: int) -> FTS | BTree | IvfRq:
    if column == JAMO_COLUMN:
        return KEYWORD_INDEX
    if column == "vector":
        return IvfRq(distance_type="cosine", **ivf_parameters(rows))
    return BTree()


async def maintain(store: ReviewStore, index_rows: int, *, settled: bool = False) -> None:
    """Do what is due, once.

    Args:
        settled: nobody has written for a while, so that no version but the latest is needed.

    Raises:
        StoreRefuses: nothing can be written; what is there is left as it is.
        Exception: as LanceDB says, such as of a commit that another process was ahead of.
    """
    await store.access.check_writable()
    table = await store.table()
    if table is None:
        return
    try:
        await _maintain(table, index_rows, settled=settled)
    except Exception as error:
        if why := store.access.record_write_error(error):
            raise why from None
        if not is_commit_conflict(error):
            await store.access.drop_broken_indexes(table)  # An index that cannot be read would fail the next time, too.
        raise


async def _maintain(table: AsyncTable, index_rows: int, *, settled: bool) -> None:
    # The store makes one for words while the table is empty; it is made anew once there are rows.
    indexes = {
        index.columns[0]: index.num_unindexed_rows or 0
        for index in await table.list_indices()
        if index.num_indexed_rows
    }
    rows = await table.count_rows()
    todo = plan_maintenance(rows, indexes, index_rows)
    for column in todo.create:
        await table.create_index(column, config=_index_config(column, rows))
        log.info("index made", column=column)
    list_versions: Any = table.list_versions  # Without types.
    versions = sorted(version["timestamp"] for version in await list_versions())
    kept, most = (1, 1) if settled else (RETAINED_VERSIONS, RETAINED_VERSIONS + MAX_FILES)
    if todo.refresh or len(versions) > most or await _is_fragmented(table):
        await deduplicate(table)
        oldest = versions[-kept:][0].timestamp()
        await table.optimize(cleanup_older_than=timedelta(seconds=max(0.001, time.time() - oldest)))
        if settled:  # Now what has just been put together is there once more, in files of its own.
            await table.optimize(cleanup_older_than=timedelta(milliseconds=1))
        log.info("indexes refreshed")
    await asyncio.to_thread(trim)


async def _is_fragmented(table: AsyncTable) -> bool:
    """Whether the rows lie in many small files: every write leaves one, and every search opens them all."""
    stats: Any = await table.stats()
    return int(stats["fragment_stats"]["num_small_fragments"]) > MAX_FILES


async def _maintain_forever(store: ReviewStore, index_rows: int) -> None:
    changed, settled = store.access.changed, False
    while True:
        try:
            # Once the table has come to rest, one more look drops what was kept for its readers.
            async with asyncio.timeout(None if settled else IDLE_SECONDS):
                await changed.wait()
            settled = False
        except TimeoutError:
            settled = True
        else:
            await asyncio.sleep(DEBOUNCE_SECONDS)
            changed.clear()
        try:
            await maintain(store, index_rows, settled=settled)
        except Exception as error:  # Such as of a commit that another process was ahead of.
            log.warning("indexes are left as they are", error=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)
            changed.set()


@asynccontextmanager
async def running_maintenance(store: ReviewStore, index_rows: int) -> AsyncIterator[None]:
    """A task that tends the indexes after each write, and once at the start; it ends with the block."""
    store.access.changed.set()
    task = asyncio.create_task(_maintain_forever(store, index_rows))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
