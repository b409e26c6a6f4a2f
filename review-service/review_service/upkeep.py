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
from review_service.guard import outrun
from review_service.index_plan import training
from review_service.memory import give_back
from review_service.rows import KEYWORDS, LETTERS
from review_service.store import Store
from review_service.unique import make_unique

QUIET_SECONDS = 2.0
"""After a write, for others that may follow it; an import writes batch upon batch."""
AGAIN_SECONDS = 30.0
"""After work that failed, or while nothing can be written."""
SETTLED_SECONDS = 15.0
"""After the last write, until what only those need who were reading then is dropped, too."""
MOST_FILES = 40
"""Files with few rows that are let be; and commits, each of which leaves three files, until old ones are dropped."""
KEPT = 8
"""The latest versions, whose files are kept for those who are reading them. Who finds his gone reads a later one."""
SHARE = 20
"""Indexes take in new rows once these are more than 1/20 of all: until then they are read one by one."""
FEWEST = 1000

log = logs.logger()


@dataclass(frozen=True)
class Due:
    """What there is to do."""

    create: tuple[str, ...] = ()
    """Columns that have no index and should."""
    refresh: bool = False
    """Indexes lag behind the rows."""


def due(rows: int, behind: Mapping[str, int], index_rows: int) -> Due:
    """What there is to do for a table of so many rows.

    Args:
        behind: how many rows each indexed column's index lacks.
        index_rows: from so many on, vectors are indexed.
    """
    wanted = [LETTERS] if rows < FEWEST else [LETTERS, "review_id", "restaurant_id"]
    wanted += ["vector"] if rows >= index_rows else []
    most = max(FEWEST, rows // SHARE)
    create = tuple(column for column in wanted if column not in behind)
    return Due(create, any(lacking > most for lacking in behind.values()))


def _config(column: str, rows: int) -> FTS | BTree | IvfRq:
    if column == LETTERS:
        return KEYWORDS
    if column == "vector":
        return IvfRq(distance_type="cosine", **training(rows))
    return BTree()


async def tend(store: Store, index_rows: int, *, settled: bool = False) -> None:
    """Do what is due, once.

    Args:
        settled: nobody has written for a while, so that no version but the latest is needed.

    Raises:
        StoreRefuses: nothing can be written; what is there is left as it is.
        Exception: as LanceDB says, such as of a commit that another process was ahead of.
    """
    await store.guard.try_writing()
    table = await store.table()
    if table is None:
        return
    try:
        await _tend(table, index_rows, settled=settled)
    except Exception as error:
        if why := store.guard.refused(error):
            raise why from None
        if not outrun(error):
            await store.guard.mend(table)  # An index that cannot be read would fail the next time, too.
        raise


async def _tend(table: AsyncTable, index_rows: int, *, settled: bool) -> None:
    # The store makes one for words while the table is empty; it is made anew once there are rows.
    indexes = {
        index.columns[0]: index.num_unindexed_rows or 0
        for index in await table.list_indices()
        if index.num_indexed_rows
    }
    rows = await table.count_rows()
    todo = due(rows, indexes, index_rows)
    for column in todo.create:
        await table.create_index(column, config=_config(column, rows))
        log.info("index made", column=column)
    list_versions: Any = table.list_versions  # Without types.
    versions = sorted(version["timestamp"] for version in await list_versions())
    kept, most = (1, 1) if settled else (KEPT, KEPT + MOST_FILES)
    if todo.refresh or len(versions) > most or await _scattered(table):
        await make_unique(table)
        oldest = versions[-kept:][0].timestamp()
        await table.optimize(cleanup_older_than=timedelta(seconds=max(0.001, time.time() - oldest)))
        if settled:  # Now what has just been put together is there once more, in files of its own.
            await table.optimize(cleanup_older_than=timedelta(milliseconds=1))
        log.info("indexes refreshed")
    await asyncio.to_thread(give_back)


async def _scattered(table: AsyncTable) -> bool:
    """Whether the rows lie in many small files: every write leaves one, and every search opens them all."""
    stats: Any = await table.stats()
    return int(stats["fragment_stats"]["num_small_fragments"]) > MOST_FILES


async def _watch(store: Store, index_rows: int) -> None:
    changed, settled = store.guard.changed, False
    while True:
        try:
            # Once the table has come to rest, one more look drops what was kept for its readers.
            async with asyncio.timeout(None if settled else SETTLED_SECONDS):
                await changed.wait()
            settled = False
        except TimeoutError:
            settled = True
        else:
            await asyncio.sleep(QUIET_SECONDS)
            changed.clear()
        try:
            await tend(store, index_rows, settled=settled)
        except Exception as error:  # Such as of a commit that another process was ahead of.
            log.warning("indexes are left as they are", error=type(error).__name__)
            await asyncio.sleep(AGAIN_SECONDS)
            changed.set()


@asynccontextmanager
async def tending(store: Store, index_rows: int) -> AsyncIterator[None]:
    """A task that tends the indexes after each write, and once at the start; it ends with the block."""
    store.guard.changed.set()
    task = asyncio.create_task(_watch(store, index_rows))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
