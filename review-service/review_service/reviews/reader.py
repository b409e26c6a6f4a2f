"""Reads the table of reviews: rows, searches and versions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lancedb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lancedb.expr import col
from lancedb.query import BooleanQuery, FullTextQuery, MatchQuery, Occur
from lancedb.table import AsyncTable

from onecard.errors import Unavailable
from review_service.errors import StoreDamaged
from review_service.index_plan import NPROBES, refine_factor
from review_service.reviews.clauses import Clause
from review_service.reviews.hits import Hit, hits_of
from review_service.reviews.rows import (
    CLAUSES_COLUMN,
    MODEL_KEY,
    REVIEW_COLUMNS,
    TABLE_ID_KEY,
    TERMS_COLUMN,
    Filters,
    are_comparable,
    from_record,
)
from review_service.reviews.table_access import TableAccess, log_damage
from review_service.schemas import StoredReview

TABLE_NAME = "reviews"
LATEST_FIRST = [("created_at", "descending"), ("review_id", "ascending")]
"""How reviews are sorted. Those without a time come last."""
_HIT_COLUMNS = (*REVIEW_COLUMNS, TERMS_COLUMN)


class ReviewReader:
    """Reads the table, each time its latest version.

    A search reads reviews with everything that is returned of them, in one query. What is read in two, as the latest
    reviews, is named by ids, because LanceDB's row ids change when files are put together.
    """

    def __init__(self, database: lancedb.AsyncConnection, address: str) -> None:
        """`address` is the folder or bucket that `database` has open."""
        self.access = TableAccess(address)
        self._database = database
        self._table: AsyncTable | None = None

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

    async def clauses(self, review_ids: Sequence[str]) -> dict[str, list[Clause]]:
        """Read the clauses of reviews.

        Args:
            review_ids: Ids of reviews, stored or not.

        Returns:
            Clauses by id, without the reviews that are not migrated yet.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        rows = await self.read(["review_id", CLAUSES_COLUMN], where=col("review_id").isin(review_ids))
        return {
            row["review_id"]: [Clause(**clause) for clause in row[CLAUSES_COLUMN]]
            for row in rows.to_pylist()
            if row[CLAUSES_COLUMN] is not None
        }

    async def count_rows(self) -> int:
        """Count the reviews. The number is in the table's metadata, so this reads no rows.

        Returns:
            Number of reviews; 0 while there is no table.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        table = await self.table()
        return 0 if table is None else await self.access.read(table, lambda table: table.count_rows())

    async def version(self) -> str:
        """Get the version of the table.

        Returns:
            A string that changes with every write, also of other processes, and with index maintenance: the table's id,
            a hyphen and a number.

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
        latest = dates.sort_by(LATEST_FIRST).slice(0, limit)["review_id"].to_pylist()
        reviews = await self.reviews(latest)
        return [reviews[review_id] for review_id in latest if review_id in reviews]

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
            return _with_probes(table.query().nearest_to(vector), limit).select([*_HIT_COLUMNS, "_distance"])

        rows = await self._search(search, filters, limit, (model, len(vector)))
        return [] if rows is None else hits_of(rows, [1 - distance for distance in rows["_distance"].to_pylist()])

    async def keyword_search(
        self, terms: Mapping[str, float], filters: Filters, limit: int, *, with_vectors: bool = False
    ) -> list[Hit]:
        """Find the reviews that match some terms best, by BM25.

        Args:
            terms: Terms as `MorphemeAnalyzer` makes them, each with a factor of its score.
            filters: Filters; all that are set must match.
            limit: Maximum number of hits.
            with_vectors: Whether the hits are to have their vectors.

        Returns:
            Hits with their BM25 scores, largest first.

        Raises:
            StoreDamaged: The table cannot be read.
        """

        def search(table: AsyncTable) -> Any:
            columns = [*_HIT_COLUMNS, "_score", *(["vector"] if with_vectors else [])]
            return table.query().nearest_to_text(_text_query(terms), columns=TERMS_COLUMN).select(columns)

        rows = await self._search(search, filters, limit) if terms else None
        return [] if rows is None else hits_of(rows, rows["_score"].to_pylist())

    async def reviews(self, review_ids: Sequence[str]) -> dict[str, StoredReview]:
        """Read reviews.

        Args:
            review_ids: Ids of reviews.

        Returns:
            Reviews by id, without those that were deleted since.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        if not review_ids:
            return {}
        found = await self.read(REVIEW_COLUMNS, where=col("review_id").isin(review_ids))
        return {record["review_id"]: from_record(record) for record in found.to_pylist()}

    async def _search(
        self, search: Callable[[AsyncTable], Any], filters: Filters, limit: int, vectors: tuple[str, int] | None = None
    ) -> pa.Table | None:
        """The rows that a search finds, best first; None if there is no table, or no such row."""
        table = await self.table()
        if table is None:
            return None
        if vectors is not None:
            await self._checked_schema(table, *vectors)
        where = filters.expression()

        async def run(table: AsyncTable) -> pa.Table:
            query = search(table).limit(limit)
            return await (query if where is None else query.where(where)).to_arrow()

        rows = await self.access.read(table, run)
        return rows if rows.num_rows else None

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


def _with_probes(query: Any, limit: int) -> Any:
    # No maximum: where a filter leaves few reviews, the other partitions are looked through, too.
    query = query.distance_type("cosine").maximum_nprobes(0).minimum_nprobes(NPROBES)
    return query.refine_factor(refine_factor(limit))


def _text_query(terms: Mapping[str, float]) -> str | FullTextQuery:
    """The query for terms, those with equal factors together."""
    groups: dict[float, list[str]] = {}
    for term, factor in terms.items():
        groups.setdefault(float(f"{factor:.2g}"), []).append(term)
    if len(groups) == 1:
        return " ".join(terms)
    return BooleanQuery([(Occur.SHOULD, _match_query(group, factor)) for factor, group in groups.items()])


def _match_query(terms: Sequence[str], factor: float) -> MatchQuery:
    # mypy does not see the defaults of the other fields.
    return MatchQuery(" ".join(terms), TERMS_COLUMN, boost=factor)  # type: ignore[call-arg]
