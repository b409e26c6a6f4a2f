"""The reviews on disk: one LanceDB table, written by whole batches.

A batch is one commit, so that a process that is killed leaves all of it or nothing, and readers see it from then on.
Indexes only make reading quicker: without one, LanceDB reads the rows themselves, as it does for those that an index
does not have yet.

    async with open_store(settings.review_store) as store:
        await store.digests(["rev-0001"])
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import lancedb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lancedb.expr import col, lit
from lancedb.table import AsyncTable

from onecard import logs
from onecard.errors import Unavailable
from review_service.errors import StoreDamaged
from review_service.found import Hit
from review_service.index_plan import PROBES, REFINE
from review_service.rows import (
    KEYWORDS,
    LETTERS,
    MODEL,
    SHOWN,
    Filters,
    Judged,
    asked_letters,
    schema,
    stored,
    table_of,
)
from review_service.schemas import StoredReview
from review_service.upgrade import fill_letters

T = TypeVar("T")

TABLE = "reviews"
_LATEST_FIRST = [("created_at", "descending"), ("review_id", "ascending")]

log = logs.logger()


class Store:
    """The table; made by the first batch that is written, which tells how long vectors are.

    `changed` is set by every write, and cleared by who keeps the indexes.
    """

    def __init__(self, database: lancedb.AsyncConnection) -> None:
        self._database = database
        self._table: AsyncTable | None = None
        self._writing = asyncio.Lock()
        self.changed = asyncio.Event()

    async def table(self) -> AsyncTable | None:
        """The table, if there is one.

        Raises:
            StoreDamaged: there is, and it cannot be read.
        """
        if self._table is None:
            try:
                self._table = await self._database.open_table(TABLE)
            except ValueError:  # There is none, or one whose making was broken off before it held anything.
                return None
            except (RuntimeError, OSError) as error:
                raise _damaged(error) from None
        return self._table

    async def check(self) -> None:
        """Look whether the table is there and can be read.

        Raises:
            StoreDamaged: it was, or cannot.
        """
        await self.rows()

    async def upgrade(self) -> None:
        """Give a table that an older version has made what this one looks for.

        Raises:
            StoreDamaged: the table cannot be read or written.
        """
        table = await self.table()
        if table is not None:
            await self._run(table, fill_letters)

    async def upsert(self, judged: Sequence[Judged], vectors: npt.NDArray[np.float32], model: str) -> None:
        """Store reviews, all or none; those of the same ids are replaced.

        Args:
            judged: of different ids.
            vectors: shape (reviews, size), of unit length.
            model: which model has made them.

        Raises:
            Unavailable: what is stored has vectors of another model.
            StoreDamaged: the table cannot be read, made or written.
        """
        async with self._writing:
            known = await self.table()
            table = known or await self._make(vectors.shape[1], model)
            columns = await self._columns(table, model)

            async def write(table: AsyncTable) -> None:
                merge = table.merge_insert("review_id").when_matched_update_all().when_not_matched_insert_all()
                await merge.execute(table_of(judged, vectors, columns))

            await self._run(table, write)
            # Of several processes that make the table at once, the last one's may replace another's.
            while known is None and (now := await self._columns(table, model)).metadata != columns.metadata:
                columns = now
                await self._run(table, write)
        self.changed.set()

    async def delete(self, review_id: str) -> bool:
        """Whether there was such a review; there is none any more.

        Raises:
            StoreDamaged: the table cannot be written.
        """
        async with self._writing:
            table = await self.table()
            if table is None:
                return False
            result: Any = await self._run(table, lambda table: table.delete(col("review_id") == lit(review_id)))
        self.changed.set()
        return int(result.num_deleted_rows) > 0

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

        return await self._run(table, scan)

    async def reviews_of(self, filters: Filters, most: int) -> list[StoredReview]:
        """Up to `most` reviews that the filters let through, the latest first."""
        # The texts of a restaurant's reviews may be many megabytes; those of a few are read.
        dated = await self.read(["review_id", "created_at"], where=filters.expression())
        latest = dated.sort_by(_LATEST_FIRST).slice(0, most)["review_id"].to_pylist()
        found = await self.read(SHOWN, where=col("review_id").isin(latest))
        return [stored(record) for record in found.sort_by(_LATEST_FIRST).to_pylist()]

    async def rows(self) -> int:
        """How many reviews there are; told by the table's metadata, not by its rows.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        table = await self.table()
        return 0 if table is None else await self._run(table, lambda table: table.count_rows())

    async def sample(self, rows: int, most: int) -> list[str]:
        """The texts of at most so many of the first `rows` reviews, at even distances.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        table = await self.table()
        taken = min(rows, most)
        if table is None or not taken:
            return []
        offsets = [place * rows // taken for place in range(taken)]
        found = await self._run(table, lambda table: table.take_offsets(offsets).select(["text"]).to_arrow())
        texts: list[str] = found["text"].to_pylist()
        return texts

    async def nearest(self, vector: npt.NDArray[np.float32], model: str, filters: Filters, limit: int) -> list[Hit]:
        """The reviews of largest cosine with a vector.

        Raises:
            Unavailable: what is stored has vectors of another model.
            StoreDamaged: the table cannot be read.
        """

        def search(table: AsyncTable) -> Any:
            return _probing(table.query().nearest_to(vector)).select([*SHOWN, "_distance"])

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
        return dict(zip(found["review_id"].to_pylist(), (vectors @ vector).tolist(), strict=True))

    async def matching(self, text: str, filters: Filters, limit: int) -> list[Hit]:
        """The reviews that share most with the words of a text, by BM25 over n-grams of letters.

        Raises:
            StoreDamaged: the table cannot be read.
        """

        def search(table: AsyncTable) -> Any:
            return table.query().nearest_to_text(asked_letters(text), columns=LETTERS).select([*SHOWN, "_score"])

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
            await self._columns(table, model)
        where = filters.expression()

        async def run(table: AsyncTable) -> list[dict[str, Any]]:
            query = search(table).limit(limit)
            records: list[dict[str, Any]] = await (query if where is None else query.where(where)).to_list()
            return records

        return [Hit(score(record), stored(record)) for record in await self._run(table, run)]

    async def _make(self, size: int, model: str) -> AsyncTable:
        try:
            table = await self._database.create_table(TABLE, schema=schema(size, model, uuid4().hex), exist_ok=True)
        except (ValueError, RuntimeError, OSError) as error:
            if made := await self.table():  # Another process has just made it.
                return made
            raise _damaged(error) from None
        # With an index, words are looked for by its n-grams also in rows that it lacks; without one, by whole words.
        with suppress(RuntimeError, OSError):  # Another process is ahead; whoever keeps the indexes makes it, too.
            await table.create_index(LETTERS, config=KEYWORDS)
        self._table = table
        return table

    async def _columns(self, table: AsyncTable, model: str) -> pa.Schema:
        """The table's columns.

        Raises:
            Unavailable: the vectors are of another model.
            StoreDamaged: the table cannot be read.
        """
        columns = await self._run(table, lambda table: table.schema())
        if (columns.metadata or {}).get(MODEL) != model.encode():
            raise Unavailable(
                "The stored reviews were embedded by another model. Set REVIEW_STORE to an empty folder, and import "
                "them again."
            )
        return columns

    async def _run(self, table: AsyncTable, work: Callable[[AsyncTable], Awaitable[T]]) -> T:
        """What `work` comes to: again if it fails, as a commit does that another writer was ahead of; once more
        without indexes, if one of them is what is broken.

        Raises:
            StoreDamaged: it fails all the same.
        """
        for last in (False, True):
            try:
                return await work(table)
            except (RuntimeError, OSError) as error:
                log.warning("the store fails", error=type(error).__name__, again=not last)
        try:
            await self._drop_indexes(table)
            return await work(table)
        except (RuntimeError, OSError) as error:
            raise _damaged(error) from None

    async def _drop_indexes(self, table: AsyncTable) -> None:
        """They are made anew in the background."""
        for index in await table.list_indices():
            await table.drop_index(index.name)
            log.warning("an index is made anew", index=index.name)
            self.changed.set()


def _probing(query: Any) -> Any:
    return query.distance_type("cosine").nprobes(PROBES).refine_factor(REFINE)


def _damaged(error: Exception) -> StoreDamaged:
    """The answer when LanceDB fails; its own words hold paths."""
    log.error("the store fails", error=type(error).__name__)
    return StoreDamaged("The stored reviews cannot be read or written. Tell the operator to look at REVIEW_STORE.")


@asynccontextmanager
async def open_store(address: str) -> AsyncIterator[Store]:
    """The store in a folder or a bucket; closed at the end.

    Raises:
        StoreDamaged: what is there cannot be read, or is of an older version and cannot be written.
    """
    # Every read looks for what other processes have written since.
    database = await lancedb.connect_async(address, read_consistency_interval=timedelta(0))
    with database:
        store = Store(database)
        await store.upgrade()
        yield store
