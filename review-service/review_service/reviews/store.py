"""The store of reviews: one LanceDB table, written in batches.

A batch is one commit. If the process is killed, either all of it is stored or nothing, and readers see it after the
commit. Indexes only make reads faster: without one, LanceDB scans the rows, and it always scans rows that are not yet
in the index.

    async with open_store(settings.review_store) as store:
        await store.digests(["rev-0001"])
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import lancedb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lancedb.expr import col, lit
from lancedb.table import AsyncTable

from onecard import logs
from onecard.errors import Unavailable
from review_service.errors import StoreDamaged, StoreNotWritable
from review_service.index_plan import NPROBES, REFINE_FACTOR
from review_service.reviews.deduplication import PRIMARY_KEY, deduplicate
from review_service.reviews.hits import Hit
from review_service.reviews.migrations import add_jamo
from review_service.reviews.rows import (
    JAMO_COLUMN,
    KEYWORD_INDEX,
    MODEL_KEY,
    REVIEW_COLUMNS,
    TABLE_ID_KEY,
    ClassifiedReview,
    Filters,
    are_comparable,
    from_record,
    query_to_jamo,
    table_schema,
    to_arrow,
)
from review_service.reviews.table_access import TableAccess, log_damage
from review_service.schemas import StoredReview

METADATA_CACHE_MB = 32
"""Maximum size of LanceDB's in-memory cache of file metadata in MiB. The cache of indexes is separate."""
TABLE_NAME = "reviews"
_LATEST_FIRST = [("created_at", "descending"), ("review_id", "ascending")]

log = logs.logger()


class ReviewStore:
    """Reads and writes the table. The first write creates it, because only then the size of the vectors is known."""

    def __init__(self, database: lancedb.AsyncConnection, address: str) -> None:
        self.access = TableAccess(address)
        self._database = database
        self._table: AsyncTable | None = None
        self._write_lock = asyncio.Lock()

    async def table(self) -> AsyncTable | None:
        """Open the table.

        Returns:
            The table; None if nothing has been written yet.

        Raises:
            StoreDamaged: The table exists and cannot be read.
        """
        if self._table is None:
            try:
                self._table = await self._database.open_table(TABLE_NAME)
            except ValueError:  # There is no table, or its creation was interrupted.
                return None
            except (RuntimeError, OSError) as error:
                raise StoreDamaged(log_damage(error)) from None
        return self._table

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
            StoreNotWritable: The table has no jamo column, which searches need, and cannot be written.
            Unavailable: Other processes write all the time.
        """
        table = await self.table()
        if table is None:
            return
        try:
            await self.access.write(table, deduplicate)
            await self.access.write(table, add_jamo)
        except StoreNotWritable:
            if JAMO_COLUMN not in (await self.access.read(table, lambda table: table.schema())).names:
                raise
            log.warning("the store cannot be migrated")

    async def upsert(self, reviews: Sequence[ClassifiedReview], vectors: npt.NDArray[np.float32], model: str) -> None:
        """Store reviews in one commit, all or none. Stored reviews with the same ids are replaced.

        Args:
            reviews: Reviews with different ids.
            vectors: Their vectors in the same order, float32 of shape (reviews, size), rows of unit length.
            model: The model that computed the vectors, as in `EmbeddedTexts.model`.

        Raises:
            ValueError: A component of a vector is infinite or NaN.
            Unavailable: The stored vectors are of another model; or other processes write all the time.
            StoreDamaged: The table cannot be read, created or written.
            StoreNotWritable: The disk is full or read-only.
        """
        if not np.isfinite(vectors).all():
            raise ValueError("a vector has a component that is infinite or NaN")
        async with self._write_lock:
            existing = await self.table()
            table = existing or await self._create_table(vectors.shape[1], model)
            columns = await self._checked_schema(table, model, vectors.shape[1])

            async def write(table: AsyncTable) -> None:
                merge = table.merge_insert(PRIMARY_KEY).when_matched_update_all().when_not_matched_insert_all()
                # With an index, LanceDB does not detect simultaneous inserts of an id (see `deduplication`).
                await merge.use_index(False).execute(to_arrow(reviews, vectors, columns))

            await self.access.write(table, write)
            # If several processes create the table at once, one may replace another's table and the rows in it.
            while existing is None and (now := await self._checked_schema(table, model)).metadata != columns.metadata:
                columns = now
                await self.access.write(table, write)

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

    async def version(self) -> str:
        """Get the version of the table.

        Returns:
            A string that changes with every write, also of other processes, and with index maintenance.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        table = await self.table()
        if table is None:
            return "none"
        table_id = (
            ((await self.access.read(table, lambda table: table.schema())).metadata or {})
            .get(TABLE_ID_KEY, b"")
            .decode()
        )
        return f"{table_id}-{await self.access.read(table, lambda table: table.version())}"

    async def digests(self, review_ids: Sequence[str]) -> dict[str, str]:
        """Read the digests of reviews.

        Args:
            review_ids: Ids of reviews, stored or not.

        Returns:
            `rows.digest_of` of the reviews that are stored, by id.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        rows = await self.read(["review_id", "digest"], where=col("review_id").isin(review_ids))
        return dict(zip(rows["review_id"].to_pylist(), rows["digest"].to_pylist(), strict=True))

    async def read(self, columns: Sequence[str], *, where: Any = None, limit: int | None = None) -> pa.Table:
        """Read columns of the rows.

        Args:
            columns: Names of the columns.
            where: LanceDB expression that the rows must match; None for all rows.
            limit: Maximum number of rows; None for no limit.

        Returns:
            The rows in no particular order; empty while there is no table.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        table = await self.table()
        if table is None:
            return pa.table({name: [] for name in columns})

        async def scan(table: AsyncTable) -> pa.Table:
            query = table.query().select(list(columns))
            query = query if where is None else query.where(where)
            return await (query if limit is None else query.limit(limit)).to_arrow()

        return await self.access.read(table, scan)

    async def latest_reviews(self, filters: Filters, limit: int) -> list[StoredReview]:
        """Read the latest reviews that match the filters.

        Args:
            filters: Filters; all that are set must match.
            limit: Maximum number of reviews.

        Returns:
            The reviews, latest first; reviews without a time come last.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        # Two queries, because the texts of all reviews of a restaurant may be many megabytes.
        dates = await self.read(["review_id", "created_at"], where=filters.expression())
        latest = dates.sort_by(_LATEST_FIRST).slice(0, limit)["review_id"].to_pylist()
        rows = await self.read(REVIEW_COLUMNS, where=col("review_id").isin(latest))
        return [from_record(record) for record in rows.sort_by(_LATEST_FIRST).to_pylist()]

    async def count_rows(self) -> int:
        """Count the reviews. The number is in the table's metadata, so this reads no rows.

        Returns:
            Number of reviews; 0 while there is no table.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        table = await self.table()
        return 0 if table is None else await self.access.read(table, lambda table: table.count_rows())

    async def sample_texts(self, rows: int, limit: int) -> list[str]:
        """Read the texts of evenly spaced rows.

        Args:
            rows: Number of rows to sample from, at most the number of rows of the table.
            limit: Maximum number of texts.

        Returns:
            The texts in the order of the table; empty while there is no table.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        table = await self.table()
        count = min(rows, limit)
        if table is None or not count:
            return []
        offsets = [index * rows // count for index in range(count)]
        sample = await self.access.read(table, lambda table: table.take_offsets(offsets).select(["text"]).to_arrow())
        texts: list[str] = sample["text"].to_pylist()
        return texts

    async def vector_search(
        self, vector: npt.NDArray[np.float32], model: str, filters: Filters, limit: int
    ) -> list[Hit]:
        """Find the reviews with the largest cosine with a vector.

        Args:
            vector: float32 of shape (size,), of unit length.
            model: The model that computed it, as in `EmbeddedTexts.model`.
            filters: Filters; all that are set must match.
            limit: Maximum number of hits.

        Returns:
            Hits with their cosines as scores, largest first.

        Raises:
            Unavailable: The stored vectors are of another model.
            StoreDamaged: The table cannot be read.
        """

        def search(table: AsyncTable) -> Any:
            return _with_probes(table.query().nearest_to(vector)).select([*REVIEW_COLUMNS, "_distance"])

        return await self._search(search, filters, limit, lambda record: 1 - record["_distance"], model)

    async def cosines(self, vector: npt.NDArray[np.float32], review_ids: Sequence[str]) -> dict[str, float]:
        """Compute the cosines of a vector with the vectors of reviews.

        Args:
            vector: float32 of shape (size,), of unit length, of the same model as the stored ones.
            review_ids: Ids of reviews, stored or not.

        Returns:
            Cosines of the reviews that are stored, by id.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        if not review_ids:
            return {}
        rows = await self.read(["review_id", "vector"], where=col("review_id").isin(review_ids))
        vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, len(vector))
        cosines = zip(rows["review_id"].to_pylist(), (vectors @ vector).tolist(), strict=True)
        return {review_id: cosine for review_id, cosine in cosines if math.isfinite(cosine)}

    async def keyword_search(self, text: str, filters: Filters, limit: int) -> list[Hit]:
        """Find the reviews that match the words of a text best, by BM25 over n-grams of jamo.

        Args:
            text: Words, separated by whitespace.
            filters: Filters; all that are set must match.
            limit: Maximum number of hits.

        Returns:
            Hits with their BM25 scores, largest first.

        Raises:
            StoreDamaged: The table cannot be read.
        """

        def search(table: AsyncTable) -> Any:
            return (
                table.query()
                .nearest_to_text(query_to_jamo(text), columns=JAMO_COLUMN)
                .select([*REVIEW_COLUMNS, "_score"])
            )

        return await self._search(search, filters, limit, lambda record: record["_score"])

    async def _search(
        self,
        search: Callable[[AsyncTable], Any],
        filters: Filters,
        limit: int,
        score: Callable[[dict[str, Any]], float],
        model: str | None = None,
    ) -> list[Hit]:
        table = await self.table()
        if table is None:
            return []
        if model is not None:
            await self._checked_schema(table, model)
        where = filters.expression()

        async def run(table: AsyncTable) -> list[dict[str, Any]]:
            query = search(table).limit(limit)
            records: list[dict[str, Any]] = await (query if where is None else query.where(where)).to_list()
            return records

        hits = [Hit(score(record), from_record(record)) for record in await self.access.read(table, run)]
        return [hit for hit in hits if math.isfinite(hit.score)]  # Older versions stored vectors with NaN.

    async def _create_table(self, size: int, model: str) -> AsyncTable:
        try:
            table = await self._database.create_table(
                TABLE_NAME, schema=table_schema(size, model, uuid4().hex), exist_ok=True
            )
        except (ValueError, RuntimeError, OSError) as error:
            if created := await self.table():  # Another process has just created it.
                return created
            raise self.access.record_write_error(error) or StoreDamaged(log_damage(error)) from None
        # Created while the table is empty: without any index LanceDB would match whole words, but with one it matches
        # n-grams, also in rows that are not indexed yet.
        with suppress(RuntimeError, OSError):  # If it fails, index maintenance creates it.
            await table.create_index(JAMO_COLUMN, config=KEYWORD_INDEX)
        self._table = table
        return table

    async def _checked_schema(self, table: AsyncTable, model: str, size: int | None = None) -> pa.Schema:
        """The table's schema. Raises Unavailable if its vectors are of another model or size (None: any size)."""
        columns = await self.access.read(table, lambda table: table.schema())
        stored_model = (columns.metadata or {}).get(MODEL_KEY, b"").decode()
        if not are_comparable(stored_model, model) or size not in (None, columns.field("vector").type.list_size):
            raise Unavailable(
                "The stored reviews were embedded by another model. Set REVIEW_STORE to an empty folder, and import "
                "them again."
            )
        return columns


def _with_probes(query: Any) -> Any:
    return query.distance_type("cosine").nprobes(NPROBES).refine_factor(REFINE_FACTOR)


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
