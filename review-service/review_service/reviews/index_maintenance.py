"""Creates and refreshes the indexes of the store in the background. Results are the same without them, but slower."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lancedb.index import FTS, BTree, IvfRq
from lancedb.table import AsyncTable

from onecard import background, logs
from review_service.index_plan import ivf_parameters
from review_service.reviews.deduplication import deduplicate
from review_service.reviews.malloc import trim
from review_service.reviews.rows import KEYWORD_INDEX, TERMS_COLUMN
from review_service.reviews.store import ReviewStore
from review_service.reviews.table_access import is_commit_conflict, may_pass

DEBOUNCE_SECONDS = 2.0
"""Delay after a write, since more writes may follow: an import writes one batch after another."""
RETRY_SECONDS = 30.0
"""Delay after failed maintenance, or while nothing can be written."""
IDLE_SECONDS = 15.0
"""Delay after the last write, until the versions that are kept for running reads are deleted too."""
MAX_FILES = 40
"""Maintenance starts when there are more small files than this, or this many versions more than `RETAINED_VERSIONS`;
each commit adds a version of three files."""
RETAINED_VERSIONS = 8
"""Number of latest versions whose files are kept for running reads. A read whose version is deleted is retried."""
REFRESH_DIVISOR = 20
"""Indexes are refreshed when more than 1/20 of the rows are not indexed. Such rows are scanned in every search."""
MIN_SCALAR_INDEX_ROWS = 1000
"""With fewer rows, ids are not indexed, and indexes are not refreshed for fewer new rows than this."""

log = logs.logger()


@dataclass(frozen=True)
class MaintenancePlan:
    """The maintenance that a table needs."""

    create: tuple[str, ...] = ()
    """Columns that need an index and have none."""
    refresh: bool = False
    """Whether an index has too many rows that are not indexed."""


def plan_maintenance(rows: int, unindexed: Mapping[str, int], index_rows: int) -> MaintenancePlan:
    """Decide which maintenance a table needs.

    Args:
        rows: Number of rows of the table.
        unindexed: For each column with an index, the number of rows that are not in the index.
        index_rows: Number of rows from which on vectors are indexed.

    Returns:
        Columns to index, and whether to refresh the indexes.
    """
    columns = [TERMS_COLUMN] if rows < MIN_SCALAR_INDEX_ROWS else [TERMS_COLUMN, "review_id", "restaurant_id"]
    columns += ["vector"] if rows >= index_rows else []
    max_unindexed = max(MIN_SCALAR_INDEX_ROWS, rows // REFRESH_DIVISOR)
    create = tuple(column for column in columns if column not in unindexed)
    return MaintenancePlan(create, any(count > max_unindexed for count in unindexed.values()))


def _index_config(column: str, rows: int) -> FTS | BTree | IvfRq:
    if column == TERMS_COLUMN:
        return KEYWORD_INDEX
    if column == "vector":
        return IvfRq(distance_type="cosine", **ivf_parameters(rows))
    return BTree()


async def maintain(store: ReviewStore, index_rows: int, *, settled: bool = False) -> None:
    """Do the maintenance that is due now, once.

    Args:
        store: The store.
        index_rows: Number of rows from which on vectors are indexed.
        settled: Whether there was no write for a while, so that all versions but the latest can be deleted.

    Raises:
        StoreNotWritable: Nothing can be written. The table is not changed.
        Exception: LanceDB failed, for example because another process committed at the same time.
    """
    await store.access.check_writable()
    table = await store.table()
    if table is None:
        return
    try:
        await _maintain(table, index_rows, settled=settled)
    except Exception as error:
        if write_error := store.access.record_write_error(error):
            raise write_error from None
        if not is_commit_conflict(error) and not may_pass(error):
            await store.access.drop_broken_indexes(table)  # A broken index would fail again next time.
        raise


async def _maintain(table: AsyncTable, index_rows: int, *, settled: bool) -> None:
    # Without the keyword index that the store creates with the empty table: it is created again once there are rows.
    indexes = {
        index.columns[0]: index.num_unindexed_rows or 0
        for index in await table.list_indices()
        if index.num_indexed_rows
    }
    rows = await table.count_rows()
    plan = plan_maintenance(rows, indexes, index_rows)
    for column in plan.create:
        await table.create_index(column, config=_index_config(column, rows))
        log.info("index created", column=column)
    list_versions: Any = table.list_versions  # LanceDB has no type for it.
    versions = sorted(version["timestamp"] for version in await list_versions())
    retained, max_versions = (1, 1) if settled else (RETAINED_VERSIONS, RETAINED_VERSIONS + MAX_FILES)
    if plan.refresh or len(versions) > max_versions or await _is_fragmented(table):
        await deduplicate(table)
        oldest = versions[-retained:][0].timestamp()
        await table.optimize(cleanup_older_than=timedelta(seconds=max(0.001, time.time() - oldest)))
        if settled:  # The first call wrote compacted files; the second deletes the files that they replace.
            await table.optimize(cleanup_older_than=timedelta(milliseconds=1))
        log.info("indexes refreshed")
    await asyncio.to_thread(trim)


async def _is_fragmented(table: AsyncTable) -> bool:
    """Whether there are too many small files: every write adds one, and every search opens all of them."""
    stats: Any = await table.stats()
    return int(stats["fragment_stats"]["num_small_fragments"]) > MAX_FILES


async def _maintain_forever(store: ReviewStore, index_rows: int) -> None:
    changed, settled = store.access.changed, False
    while True:
        try:
            # Some time after the last write there is one more round, which deletes the versions kept for readers.
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
        except Exception as error:  # For example, another process committed at the same time.
            log.warning("index maintenance failed", error=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)
            changed.set()


@asynccontextmanager
async def running_maintenance(store: ReviewStore, index_rows: int) -> AsyncIterator[None]:
    """Maintain the indexes in a background task until the end of the block: at the start, and after each write.

    Args:
        store: The store.
        index_rows: Number of rows from which on vectors are indexed.

    Yields:
        Once the task was started.
    """
    store.access.changed.set()
    async with background.running(_maintain_forever(store, index_rows), name="index maintenance"):
        yield
