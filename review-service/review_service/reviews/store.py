"""The reviews on disk: one LanceDB table, written by whole batches.

A batch is one commit, so that a process that is killed leaves all of it or nothing, and readers see it from then on.
Indexes only make reading quicker: without one, LanceDB reads the rows themselves, as it does for those that an index
does not have yet.

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
from review_service.errors import StoreNotWritable
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
    from_record,
    query_to_jamo,
    table_schema,
    to_arrow,
)
from review_service.reviews.table_access import TableAccess, damaged_error
from review_service.schemas import StoredReview

METADATA_CACHE_MB = 32
"""Of what LanceDB keeps in memory of the table's files, beside what it keeps of indexes."""
TABLE_NAME = "reviews"
_LATEST_FIRST = [("created_at", "descending"), ("review_id", "ascending")]

log = logs.logger()


class ReviewStore:
    """The table; made by the first batch that is written, which tells how long vectors are."""

    def __init__(self, database: lancedb.AsyncConnection, address: str) -> None:
        self.access = TableAccess(address)
        self._database = database
        self._table: AsyncTable | None = None
        self._write_lock = asyncio.Lock()

    async def table(self) -> AsyncTable | None:
        """The table, if there is one.

        Raises:
            StoreDamaged: there is, and it cannot be read.
        """
        if self._table is None:
            try:
                self._table = await self._database.open_table(TABLE_NAME)
            except ValueError:  # There is none, or one whose making was broken off before it held anything.
                return None
            except (RuntimeError, OSError) as error:
                raise damaged_error(error) from None
        return self._table

    async def check(self) -> StoreNotWritable | None:
        """Look whether the table is there and can be read; why nothing can be written, if that is so.

        Raises:
            StoreDamaged: it was, or cannot.
        """
        await self.count_rows()
        return self.access.write_error

    async def migrate(self) -> None:
        """Give a table that an older version has made what this one looks for.

        Raises:
            StoreDamaged: the table cannot be read or written.
            StoreRefuses: it lacks what no search can do without, and may not be written.
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
            log.warning("the store is left as it is")

    async def upsert(self, judged: Sequence[ClassifiedReview], vectors: npt.NDArray[np.float32], model: str) -> None:
        """Store reviews, all or none; those of the same ids are replaced.

        Args:
            judged: of different ids.
            vectors: shape (reviews, size), of unit length.
            model: which model has made them.

        Raises:
            ValueError: a vector holds NaN or an infinity.
            Unavailable: what is stored has vectors of another model; or others write all the time.
            StoreDamaged: the table cannot be read, made or written.
            StoreRefuses: the disk is full, or may not be written.
        """
        if not np.isfinite(vectors).all():
            raise ValueError("a vector that is none")
        async with self._write_lock:
            known = await self.table()
            table = known or await self._create_table(vectors.shape[1], model)
            columns = await self._checked_schema(table, model, vectors.shape[1])

            async def write(table: AsyncTable) -> None:
                merge = table.merge_insert(PRIMARY_KEY).when_matched_update_all().when_not_matched_insert_all()
                # Through an index LanceDB does not see what others insert at the same moment (`unique.py`).
                await merge.use_index(False).execute(to_arrow(judged, vectors, columns))

            await self.access.write(table, write)
            # Of several processes that make the table at once, the last one's may replace another's.
            while known is None and (now := await self._checked_schema(table, model)).metadata != columns.metadata:
                columns = now
                await self.access.write(table, write)

    async def delete(self, review_id: str) -> bool:
        """Whether there was such a review; there is none any more.

        Raises:
            Unavailable, StoreDamaged, StoreRefuses: as `upsert`.
        """
        async with self._write_lock:
            table = await self.table()
            # LanceDB makes a version also of a deletion that finds nothing.
            if table is None or not await self.digests([review_id]):
                return False
            where = col("review_id") == lit(review_id)
            result: Any = await self.access.write(table, lambda table: table.delete(where))
        return int(result.num_deleted_rows) > 0

    async def version(self) -> str:
        """Another one after every write; also after work on indexes.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        table = await self.table()
        if table is None:
            return "none"
        made = (
            ((await self.access.read(table, lambda table: table.schema())).metadata or {})
            .get(TABLE_ID_KEY, b"")
            .decode()
        )
        return f"{made}-{await self.access.read(table, lambda table: table.version())}"

    async def digests(self, review_ids: Sequence[str]) -> dict[str, str]:
        """The digests of those reviews that are stored, by id."""
        found = await self.read(["review_id", "digest"], where=col("review_id").isin(review_ids))
        return dict(zip(found["review_id"].to_pylist(), found["digest"].to_pylist(), strict=True))

    async def read(self, columns: Sequence[str], *, where: Any = None, limit: int | None = None) -> pa.Table:
        """These columns of all rows, or of those where the expression holds. Empty while there is no table."""
        table = await self.table()
        if table is None:
            return pa.table({name: [] for name in columns})

        async def scan(table: AsyncTable) -> pa.Table:
            query = table.query().select(list(columns))
            query = query if where is None else query.where(where)
            return await (query if limit is None else query.limit(limit)).to_arrow()

        return await self.access.read(table, scan)

    async def latest_reviews(self, filters: Filters, most: int) -> list[StoredReview]:
        """Up to `most` reviews that the filters let through, the latest first."""
        # The texts of a restaurant's reviews may be many megabytes; those of a few are read.
        dated = await self.read(["review_id", "created_at"], where=filters.expression())
        latest = dated.sort_by(_LATEST_FIRST).slice(0, most)["review_id"].to_pylist()
        found = await self.read(REVIEW_COLUMNS, where=col("review_id").isin(latest))
        return [from_record(record) for record in found.sort_by(_LATEST_FIRST).to_pylist()]

    async def count_rows(self) -> int:
        """How many reviews there are; told by the table's metadata, not by its rows.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        table = await self.table()
        return 0 if table is None else await self.access.read(table, lambda table: table.count_rows())

    async def sample_texts(self, rows: int, most: int) -> list[str]:
        """The texts of at most so many of the first `rows` reviews, at even distances.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        table = await self.table()
        taken = min(rows, most)
        if table is None or not taken:
            return []
        offsets = [place * rows // taken for place in range(taken)]
        found = await self.access.read(table, lambda table: table.take_offsets(offsets).select(["text"]).to_arrow())
        texts: list[str] = found["text"].to_pylist()
        return texts

    async def vector_search(
        self, vector: npt.NDArray[np.float32], model: str, filters: Filters, limit: int
    ) -> list[Hit]:
        """The reviews of largest cosine with a vector.

        Raises:
            Unavailable: what is stored has vectors of another model.
            StoreDamaged: the table cannot be read.
        """

        def search(table: AsyncTable) -> Any:
            return _with_probes(table.query().nearest_to(vector)).select([*REVIEW_COLUMNS, "_distance"])

        return await self._search(search, filters, limit, lambda record: 1 - record["_distance"], model)

    async def cosines(self, vector: npt.NDArray[np.float32], review_ids: Sequence[str]) -> dict[str, float]:
        """Cosines of a vector with those of reviews, by id; of those that are still there.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        if not review_ids:
            return {}
        found = await self.read(["review_id", "vector"], where=col("review_id").isin(review_ids))
        vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, len(vector))
        cosines = zip(found["review_id"].to_pylist(), (vectors @ vector).tolist(), strict=True)
        return {review_id: cosine for review_id, cosine in cosines if math.isfinite(cosine)}

    async def keyword_search(self, text: str, filters: Filters, limit: int) -> list[Hit]:
        """The reviews that share most with the words of a text, by BM25 over n-grams of letters.

        Raises:
            StoreDamaged: the table cannot be read.
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
        return [hit for hit in hits if math.isfinite(hit.score)]  # A table of before may hold vectors that are none.

    async def _create_table(self, size: int, model: str) -> AsyncTable:
        try:
            table = await self._database.create_table(
                TABLE_NAME, schema=table_schema(size, model, uuid4().hex), exist_ok=True
            )
        except (ValueError, RuntimeError, OSError) as error:
            if made := await self.table():  # Another process has just made it.
                return made
            raise self.access.record_write_error(error) or damaged_error(error) from None
        # With an index, words are looked for by its n-grams also in rows that it lacks; without one, by whole words.
        with suppress(RuntimeError, OSError):  # Another process is ahead; whoever keeps the indexes makes it, too.
            await table.create_index(JAMO_COLUMN, config=KEYWORD_INDEX)
        self._table = table
        return table

    async def _checked_schema(self, table: AsyncTable, model: str, size: int | None = None) -> pa.Schema:
        """The table's columns.

        Raises:
            Unavailable: the vectors are of another model, or not of this size.
            StoreDamaged: the table cannot be read.
        """
        columns = await self.access.read(table, lambda table: table.schema())
        if (columns.metadata or {}).get(MODEL_KEY) != model.encode() or size not in (
            None,
            columns.field("vector").type.list_size,
        ):
            raise Unavailable(
                "The stored reviews were embedded by another model. Set REVIEW_STORE to an empty folder, and import "
                "them again."
            )
        return columns


def _with_probes(query: Any) -> Any:
    return query.distance_type("cosine").nprobes(NPROBES).refine_factor(REFINE_FACTOR)


@asynccontextmanager
async def open_store(address: str, cache_mb: int = 64) -> AsyncIterator[ReviewStore]:
    """The store in a folder or a bucket; closed at the end.

    Args:
        cache_mb: so many megabytes of indexes are kept in memory at most.

    Raises:
        StoreDamaged: what is there cannot be read, or is of an older version and cannot be written.
        StoreRefuses: it is of an older version, and may not be written.
    """
    session = lancedb.Session(index_cache_size_bytes=cache_mb << 20, metadata_cache_size_bytes=METADATA_CACHE_MB << 20)
    # Every read looks for what other processes have written since.
    database = await lancedb.connect_async(address, read_consistency_interval=timedelta(0), session=session)
    with database:
        store = ReviewStore(database, address)
        await store.migrate()
        yield store
