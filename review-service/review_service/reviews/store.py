"""The store of reviews: one LanceDB table, written in batches.

A batch is one commit. If the process is killed, either all of it is stored or nothing, and readers see it after the
commit. Indexes only make reads faster: without one, LanceDB scans the rows, and it always scans rows that are not yet
in the index.

    async with open_store(settings.review_store) as store:
        await store.digests(["rev-0001"])
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.expr import col, lit
from lancedb.table import AsyncTable

from onecard import logs
from review_service.errors import StoreDamaged, StoreNotWritable
from review_service.model_services import EmbeddedTexts
from review_service.reviews.creation_lock import creation_lock
from review_service.reviews.deduplication import PRIMARY_KEY, deduplicate
from review_service.reviews.migrations import add_new_columns
from review_service.reviews.reader import TABLE_NAME, ReviewReader
from review_service.reviews.rows import (
    CLAUSES_COLUMN,
    KEYWORD_INDEX,
    TERMS_COLUMN,
    VECTOR_ENGINE_COLUMN,
    ClassifiedReview,
    table_schema,
    to_arrow,
)
from review_service.reviews.table_access import log_damage

METADATA_CACHE_MB = 32
"""Maximum size of LanceDB's in-memory cache of file metadata in MiB. The cache of indexes is separate."""

log = logs.logger()


class ReviewStore(ReviewReader):
    """Reads and writes the table. The first write creates it, because only then the size of the vectors is known."""

    def __init__(self, database: lancedb.AsyncConnection, address: str) -> None:
        super().__init__(database, address)
        self._write_lock = asyncio.Lock()

    async def check(self) -> StoreNotWritable | None:
        """Check whether the table can be read and written.

        Returns:
            Why nothing can be written; None if it can.

        Raises:
            StoreDamaged: The table cannot be read, or has disappeared.
        """
        await self.count_rows()
        return self.access.write_error

    async def migrate(self) -> None:
        """Migrate a table of an older version to this one.

        Raises:
            StoreDamaged: The table cannot be read or written.
            StoreNotWritable: The table lacks a column that this version reads, and cannot be written.
            Unavailable: Other processes write all the time.
        """
        table = await self.table()
        if table is None:
            return
        try:
            await self.access.write(table, deduplicate)
            await self.access.write(table, add_new_columns)
        except StoreNotWritable:
            columns = (await self.access.read(table, lambda table: table.schema())).names
            if not {TERMS_COLUMN, CLAUSES_COLUMN, VECTOR_ENGINE_COLUMN}.issubset(columns):
                raise
            log.warning("the store cannot be migrated")

    async def upsert(self, reviews: Sequence[ClassifiedReview], embedded: EmbeddedTexts) -> None:
        """Store reviews in one commit, all or none. Stored reviews with the same ids are replaced.

        Args:
            reviews: Reviews with different ids.
            embedded: Their vectors in the same order.

        Raises:
            ValueError: A component of a vector is infinite or NaN.
            Unavailable: The stored vectors are of another model; or other processes write all the time.
            StoreDamaged: The table cannot be read, created or written.
            StoreNotWritable: The disk is full or read-only.
        """
        model, size = embedded.model, embedded.vectors.shape[1]
        if not np.isfinite(embedded.vectors).all():
            raise ValueError("a vector has a component that is infinite or NaN")
        async with self._write_lock:
            existing = await self.table()
            table = existing or await self._create_table(size, model)
            await self._checked_schema(table, model, size)

            async def write(table: AsyncTable) -> pa.Schema:
                # Read at each attempt, because a migration may drop a column in between.
                columns = await table.schema()
                merge = table.merge_insert(PRIMARY_KEY).when_matched_update_all().when_not_matched_insert_all()
                # With an index, LanceDB does not detect simultaneous inserts of an id (see `deduplication`).
                await merge.use_index(False).execute(to_arrow(reviews, embedded, columns))
                return columns

            written = await self.access.write(table, write)
            # Without the lock, in a bucket, a process may replace the table of another and the rows in it.
            while existing is None and (await self._checked_schema(table, model)).metadata != written.metadata:
                written = await self.access.write(table, write)

    async def delete(self, review_id: str) -> bool:
        """Delete a review.

        Args:
            review_id: Its id.

        Returns:
            Whether there was such a review.

        Raises:
            Unavailable: Other processes write all the time.
            StoreDamaged: The table cannot be read or written.
            StoreNotWritable: The disk is full or read-only.
        """
        async with self._write_lock:
            table = await self.table()
            # Checked first, because LanceDB creates a version even if nothing is deleted.
            if table is None or not await self.digests([review_id]):
                return False
            where = col("review_id") == lit(review_id)
            result: Any = await self.access.write(table, lambda table: table.delete(where))
        return int(result.num_deleted_rows) > 0

    async def _create_table(self, size: int, model: str) -> AsyncTable:
        async with creation_lock(self.access.folder):
            if created := await self.table():  # Another process had the lock before.
                return created
            try:
                table = await self._database.create_table(
                    TABLE_NAME, schema=table_schema(size, model, uuid4().hex), exist_ok=True
                )
            except (ValueError, RuntimeError, OSError) as error:
                if created := await self.table():  # Another process has just created it, without the lock.
                    return created
                raise self.access.record_write_error(error) or StoreDamaged(log_damage(error)) from None
            # Created while the table is empty: without any index LanceDB would split terms at punctuation, but with
            # one it takes them as they are, also in rows that are not indexed yet.
            with suppress(RuntimeError, OSError):  # If it fails, index maintenance creates it.
                await table.create_index(TERMS_COLUMN, config=KEYWORD_INDEX)
        self._table = table
        return table


@asynccontextmanager
async def open_store(address: str, cache_mb: int = 64) -> AsyncIterator[ReviewStore]:
    """Open the store, migrate it if necessary, and close it at the end of the block.

    Args:
        address: Folder, or address of a bucket (s3://…). A folder is created if it does not exist.
        cache_mb: Maximum size of the indexes in memory, in MiB.

    Yields:
        The store.

    Raises:
        StoreDamaged: The table cannot be read, or is of an older version and its migration failed.
        StoreNotWritable: The table is of an older version that must be migrated, and it cannot be written.
    """
    session = lancedb.Session(index_cache_size_bytes=cache_mb << 20, metadata_cache_size_bytes=METADATA_CACHE_MB << 20)
    # With an interval of 0 every read checks for new versions of other processes.
    database = await lancedb.connect_async(address, read_consistency_interval=timedelta(0), session=session)
    with database:
        store = ReviewStore(database, address)
        await store.migrate()
        yield store
