"""Runs the migration of the terms in the background, from the start of the service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from lancedb.table import AsyncTable

from onecard import logs
from onecard.errors import OnecardError
from review_service.reviews.migrations import MigrationProgress, add_terms, count_outdated, drop_old_column
from review_service.reviews.store import ReviewStore
from review_service.words.analyzer import MorphemeAnalyzer

RETRY_SECONDS = 30.0
"""Delay after a failure, for example because the disk is full."""
PAUSE_SECONDS = 0.2
"""Delay between two batches, so that searches and imports go on beside it."""

log = logs.logger()


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
        return await count_outdated(table, analyzer.version)

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
    await store.access.write(table, drop_old_column)


async def _migrate_until_done(store: ReviewStore, analyzer: MorphemeAnalyzer, progress: MigrationProgress) -> None:
    while True:
        try:
            await migrate_terms(store, analyzer, progress)
        except OnecardError as error:
            log.warning("the stored reviews' terms are not complete", error=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


@asynccontextmanager
async def running_migration(store: ReviewStore, analyzer: MorphemeAnalyzer) -> AsyncIterator[MigrationProgress]:
    """Migrate the terms in a background task until the end of the block.

    Args:
        store: The store.
        analyzer: Takes the reviews apart.

    Yields:
        The progress.
    """
    progress = MigrationProgress()
    task = asyncio.create_task(_migrate_until_done(store, analyzer, progress), name="terms")
    try:
        yield progress
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
