"""Runs the migration of the terms, and then of the clauses, in the background, from the start of the service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from lancedb.table import AsyncTable

from onecard import background, logs
from onecard.errors import OnecardError
from review_service.model_services import InvalidModelResponse
from review_service.reviews.clauses import ClauseReader
from review_service.reviews.migrations import (
    MigrationProgress,
    add_terms,
    count_outdated,
    drop_old_column,
    judged_clauses,
    read_unclaused,
    write_clauses,
)
from review_service.reviews.rows import (
    CLAUSES_VERSION_COLUMN,
    OLD_ASPECTS_COLUMN,
    OLD_LETTERS_COLUMN,
    TERMS_VERSION_COLUMN,
)
from review_service.reviews.store import ReviewStore
from review_service.words.analyzer import MorphemeAnalyzer

RETRY_SECONDS = 30.0
"""Delay after a failure, for example because the disk is full."""
PAUSE_SECONDS = 0.2
"""Delay between two batches, so that searches and imports go on beside it."""

log = logs.logger()


@dataclass(frozen=True)
class Migrations:
    """The progress of both."""

    terms: MigrationProgress = field(default_factory=MigrationProgress)
    clauses: MigrationProgress = field(default_factory=lambda: MigrationProgress(of="clauses"))


async def migrate_terms(store: ReviewStore, analyzer: MorphemeAnalyzer, progress: MigrationProgress) -> None:
    """Make the terms of all reviews that have none of this analyzer. An interrupted migration can be continued.

    Args:
        store: The store.
        analyzer: Takes the reviews apart.
        progress: Is updated after each batch.

    Raises:
        StoreDamaged: The table cannot be read or written.
        StoreNotWritable: The disk is full or read-only.
        Unavailable: Other processes write all the time.
    """
    table = await store.table()
    if table is None:
        progress.complete = True
        return

    async def count(table: AsyncTable) -> int:
        return await count_outdated(table, TERMS_VERSION_COLUMN, analyzer.version)

    progress.done, progress.total = 0, await store.access.read(table, count)

    async def fill(table: AsyncTable) -> int:
        return await add_terms(table, analyzer)

    # Counted: a replica with other words of the operator would otherwise undo what this one does, for ever.
    while progress.running:
        await store.access.check_writable()  # Taking reviews apart for a write that fails costs seconds.
        if not (filled := await store.access.write(table, fill)):
            break
        progress.done = min(progress.total, progress.done + filled)
        log.info("terms added to stored reviews", reviews=progress.done, of=progress.total)
        await asyncio.sleep(PAUSE_SECONDS)
    progress.done, progress.complete = progress.total, True
    await store.access.write(table, lambda table: drop_old_column(table, OLD_LETTERS_COLUMN))


async def migrate_clauses(store: ReviewStore, reader: ClauseReader, progress: MigrationProgress) -> None:
    """Make the clauses of all reviews that have none of this reader. An interrupted migration can be continued.

    Args:
        store: The store.
        reader: Reads the clauses.
        progress: Is updated after each batch.

    Raises:
        StoreDamaged: The table cannot be read or written.
        StoreNotWritable: The disk is full or read-only.
        Unavailable: Other processes write all the time, or a model service is down.
        TooBusy: A model service is busy.
        DeadlineExceeded: A model service does not answer in time.
        InvalidModelResponse: A response of a model service cannot be used.
    """
    table = await store.table()
    if table is None:
        progress.complete = True
        return
    version = reader.version
    progress.done = 0
    progress.total = await store.access.read(
        table, lambda table: count_outdated(table, CLAUSES_VERSION_COLUMN, version)
    )
    while progress.running:
        await store.access.check_writable()
        rows = await store.access.read(table, lambda table: read_unclaused(table, reader))
        if not rows.num_rows:
            break
        # Not within the write, which is repeated if another process commits first.
        write = partial(write_clauses, rows=rows, clauses=await judged_clauses(rows, reader), reader=reader)
        await store.access.write(table, write)
        progress.done = min(progress.total, progress.done + rows.num_rows)
        log.info("clauses added to stored reviews", reviews=progress.done, of=progress.total)
        await asyncio.sleep(PAUSE_SECONDS)
    progress.done, progress.complete = progress.total, True
    await store.access.write(table, lambda table: drop_old_column(table, OLD_ASPECTS_COLUMN))


async def _migrate_until_done(store: ReviewStore, reader: ClauseReader, progress: Migrations) -> None:
    while True:
        try:
            await migrate_terms(store, reader.analyzer, progress.terms)
            await migrate_clauses(store, reader, progress.clauses)
        except (OnecardError, InvalidModelResponse) as error:
            log.warning("the stored reviews are not migrated", error=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


@asynccontextmanager
async def running_migration(store: ReviewStore, reader: ClauseReader) -> AsyncIterator[Migrations]:
    """Migrate terms and clauses in a background task until the end of the block.

    Args:
        store: The store.
        reader: Takes the reviews apart.

    Yields:
        The progress.
    """
    progress = Migrations()
    async with background.running(_migrate_until_done(store, reader, progress), name="migration"):
        yield progress
