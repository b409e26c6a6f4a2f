"""Keeps the indexes of the store fresh, in the background: reading is right without them, and quicker with them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lancedb.index import FTS, BTree, IvfRq
from lancedb.table import AsyncTable

from onecard import logs
from review_service.index_plan import training
from review_service.rows import KEYWORDS, LETTERS
from review_service.store import Store

QUIET_SECONDS = 2.0
"""After a write, for others that may follow it; an import writes batch upon batch."""
AGAIN_SECONDS = 30.0
"""After work on the indexes that failed."""
MOST_FILES = 64
"""Files with few rows that are let be."""
SHARE = 20
"""Indexes take in new rows once these are more than 1/20 of all: until then they are read one by one."""
FEWEST = 1000
OLD_VERSIONS = timedelta(minutes=10)
"""How long files that no row needs any more are kept for those who are reading them."""

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


async def tend(store: Store, index_rows: int) -> None:
    """Do what is due, once."""
    table = await store.table()
    if table is None:
        return
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
    if todo.refresh or await _scattered(table):
        await table.optimize(cleanup_older_than=OLD_VERSIONS)
        log.info("indexes refreshed")


async def _scattered(table: AsyncTable) -> bool:
    """Whether the rows lie in many small files: every write leaves one, and every search opens them all."""
    stats: Any = await table.stats()
    return int(stats["fragment_stats"]["num_small_fragments"]) > MOST_FILES


async def _watch(store: Store, index_rows: int) -> None:
    while True:
        await store.changed.wait()
        await asyncio.sleep(QUIET_SECONDS)
        store.changed.clear()
        try:
            await tend(store, index_rows)
        except Exception:  # Such as a commit that another process was ahead of.
            log.warning("indexes are left as they are", exc_info=True)
            await asyncio.sleep(AGAIN_SECONDS)
            store.changed.set()


@asynccontextmanager
async def tending(store: Store, index_rows: int) -> AsyncIterator[None]:
    """A task that tends the indexes after each write, and once at the start; it ends with the block."""
    store.changed.set()
    task = asyncio.create_task(_watch(store, index_rows))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
